"""How alike the pictures of a capture are where their poses say that they should be."""

from collections.abc import Iterable

import numpy as np
import torch
from torch.nn import functional

from gnesf_core.geometry import camera, stereo
from gnesf_core.geometry.agreement import Agreement
from gnesf_core.shapes import Bool, Float32, Float64, Int64, UInt8

_WIDTH = 96  # of the pictures that are compared
_PATCH = 7
_HYPOTHESES = 32
_NEAR_M, _FAR_M = 0.4, 8.0
_TEXTURE = 6.0  # deviation of grey levels in a window, from which it is looked at


def small_grey(
    pictures: Iterable[UInt8[np.ndarray, "h w 3"]],
) -> Float32[torch.Tensor, "n small_h small_w"]:
    """Return pictures at the size at which they are compared."""
    small = []
    for picture in pictures:
        grey = torch.from_numpy(picture).float().mean(-1)
        height = max(_PATCH, round(_WIDTH * grey.shape[0] / grey.shape[1]))
        small.append(
            functional.interpolate(
                grey[None, None], (height, _WIDTH), mode="bilinear", antialias=True
            )[0, 0]
        )
    return torch.stack(small)


def picture_agreement(
    grey: Float32[torch.Tensor, "n h w"],
    intrinsics: Float64[np.ndarray, "3 3"],
    color_size: tuple[int, int],
    world_from_camera: Float64[np.ndarray, "n 4 4"],
    pairs: Int64[np.ndarray, "m 2"],
) -> Agreement:
    """Return how alike pairs of pictures are at the depth that suits each pixel best.

    The share is a mean correlation. Wrong poses find something alike too, but less.
    `intrinsics` are those of pictures of `color_size`.
    """
    size = grey.shape[2], grey.shape[1]
    own = camera.scale_intrinsics(intrinsics, color_size, size)
    pictures = stereo.PosedPictures(grey, own, world_from_camera)
    hypotheses = stereo.inverse_depths(_NEAR_M, _FAR_M, _HYPOTHESES)
    total, compared = 0.0, 0
    for one, other in pairs.tolist():
        best = stereo.sweep(pictures, one, [other], hypotheses, _PATCH).amax(0)
        seen = (best > stereo.UNSEEN) & _textured(grey[one])
        total += float(best[seen].sum())
        compared += int(seen.sum())
    return Agreement(total / max(compared, 1), compared)


def _textured(grey: Float32[torch.Tensor, "h w"]) -> Bool[torch.Tensor, "h w"]:
    """Tell around which pixels there is something to compare."""
    stack = torch.stack([grey, grey**2])[:, None]
    mean, square = functional.avg_pool2d(stack, _PATCH, 1, _PATCH // 2)[:, 0]
    return square - mean**2 > _TEXTURE**2
