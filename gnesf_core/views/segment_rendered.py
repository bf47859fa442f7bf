"""A segmenter looks at pictures that IBRNet has rendered: the paper's Mask2Former row.

Weights are those of an IBRNet that says nothing of classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gnesf_core.config import IbrnetConfig
from gnesf_core.errors import BadInput
from gnesf_core.shapes import Float, Float32, UInt8
from gnesf_core.views.ibrnet import Context, Ibrnet
from gnesf_core.views.interface import Rendered

Settings = IbrnetConfig
PACKAGES = ("safetensors",)

# From a picture to scores >= 0, whose share of a pixel's sum is a class's probability.
Segment = Callable[
    [UInt8[np.ndarray, "h w 3"]], Float[np.ndarray, "classes maps_h maps_w"]
]


def build(settings: IbrnetConfig) -> "SegmentRendered":
    """Return the method, which still lacks its segmenter."""
    return SegmentRendered(settings)


class SegmentRendered(Ibrnet):
    """The method. Whoever renders whole pictures sets `segmenter` before."""

    segmenter: Segment | None = None

    def __init__(self, settings: IbrnetConfig) -> None:
        if settings.semantics != "nothing":
            raise BadInput(
                "recipe",
                "semantics",
                expected="nothing: a segmenter says the classes",
                found=settings.semantics,
                remedy="correct the method's settings",
            )
        super().__init__(settings)
        self.says = "probabilities"
        self.needs = frozenset({"segmenter"})

    def finish(self, context: Context, whole: Rendered) -> Rendered:
        """Let the segmenter say what the rendered picture shows."""
        if self.segmenter is None:
            raise ValueError("the segmenter is not set")
        size = context.camera.size[::-1]
        picture = (whole.color * 255).round().clamp(0, 255).to(torch.uint8)
        scores = self.segmenter(picture.reshape(*size, 3).cpu().numpy())
        return whole._replace(semantic=_covering(scores, size).to(whole.color.device))


def _covering(
    scores: Float[np.ndarray, "classes h w"], size: tuple[int, int]
) -> Float32[Tensor, "pixels classes"]:
    """Return probabilities of a picture's pixels; zeros where nothing is scored."""
    resized = interpolate(
        torch.from_numpy(scores).float()[None], size, mode="bilinear"
    )[0]
    total = resized.sum(0)
    shares = resized / torch.where(total > 0, total, 1.0)
    return shares.flatten(1).T.contiguous()
