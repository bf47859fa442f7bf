"""Pictures on their way into a network: resized, varied, normalised."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gnesf_core.data import images
from gnesf_core.data.store import Frames
from gnesf_core.shapes import Float32, Float64, Shaped, UInt8

# Statistics of ImageNet in RGB, 0..255, which every pretrained backbone expects.
MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)


def normalize(pictures: Shaped[Tensor, "b 3 h w"]) -> Float32[Tensor, "b 3 h w"]:
    """Return RGB pictures, 0..255, in units of ImageNet's statistics.

    NeuralRecon's released code subtracts means in the order BGR from pictures in RGB,
    and does not divide: here they agree.
    """
    mean = torch.tensor(MEAN_RGB, device=pictures.device)[:, None, None]
    std = torch.tensor(STD_RGB, device=pictures.device)[:, None, None]
    return (pictures.float() - mean) / std


def resize_picture(
    rgb: UInt8[np.ndarray, "h w 3"], width: int, height: int
) -> UInt8[Tensor, "3 height width"]:
    """Resize a picture with antialiasing, by the half-pixel rule."""
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    return functional.interpolate(
        picture, (height, width), mode="bilinear", antialias=True
    )[0]


def frame_picture(
    frames: Frames, position: int, size: tuple[int, int]
) -> UInt8[Tensor, "3 h w"]:
    """Return a kept frame's picture at another size (width, height)."""
    where = (frames.path, f"colour of frame {frames.index[position]}")
    data = frames.color_bytes(position)
    rgb = images.decode_color_reduced(
        data, frames.color_encoding, *frames.color_size, size, where
    )
    return resize_picture(rgb, *size)


def jitter(
    picture: UInt8[Tensor, "3 h w"], factors: Float64[np.ndarray, " 3"]
) -> UInt8[Tensor, "3 h w"]:
    """Scale brightness, contrast and saturation of a picture by three factors."""
    brightness, contrast, saturation = (float(factor) for factor in factors)
    values: Float32[Tensor, "3 h w"] = picture.float()
    values *= brightness
    mean = values.mean()
    values.sub_(mean).mul_(contrast).add_(mean)
    grey = values.mean(dim=0, keepdim=True)
    values.sub_(grey).mul_(saturation).add_(grey)
    return values.round_().clamp_(0, 255).byte()
