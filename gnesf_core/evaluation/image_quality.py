"""How close a rendered picture is to a photograph, by the rules of published systems.

PSNR, SSIM and LPIPS go by names that hide a choice of pixels, windows and ranges, worth
several decibels. Each protocol here is one such choice; its words belong in the title
of every table, and scores of two protocols are never compared.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gnesf_core.shapes import Bool, Float, Float64, UInt8

# LPIPS of two pictures, 0..1; the flag says whether the network is shown -1..1 instead.
Distance = Callable[[np.ndarray, np.ndarray, bool], float]

NO_LPIPS = "LPIPS: no weights given (config key `image_quality`)"
_LEAST_ERROR = 1e-10  # equal pictures, whose PSNR is infinite, count 100 dB
_STABILITY = (0.01**2, 0.03**2)  # SSIM's constants for a range of 1


@dataclass(frozen=True)
class Window:
    """The pixels around one that SSIM compares: weights along each axis.

    The mean is taken over windows that lie within the picture or, where `padded`, over
    all pixels, with black beyond the edges.
    """

    weights: tuple[float, ...]
    padded: bool
    sample_variance: bool  # over n - 1 of n pixels, which must weigh the same


def _uniform(size: int) -> Window:
    return Window((1 / size,) * size, padded=False, sample_variance=True)


def _gaussian(size: int, sigma: float) -> Window:
    offsets = np.arange(size) - size // 2
    weights = np.exp(-np.square(offsets / sigma) / 2)
    weights = tuple((weights / weights.sum()).tolist())
    return Window(weights, padded=True, sample_variance=False)


@dataclass(frozen=True)
class ImageProtocol:
    """What is compared, and how."""

    words: str
    window: Window
    lpips_signed: bool  # the network is shown -1..1, which it was trained on
    in_bytes: bool = False  # colours cut down to whole bytes
    clipped: bool = False  # colours clipped to 0..1
    where_depth_is_known: bool = False
    added_error: float = 0.0  # to the mean square, within the logarithm


_SSIM_GAUSSIAN = (
    "SSIM by a Gaussian window of 11 pixels (sigma 1.5, range 1, black beyond the "
    "edges) over the full image"
)

PROTOCOLS = {
    "sray": ImageProtocol(
        words="As Semantic-Ray: PSNR of bytes (its code cuts colours down to them, "
        "here they are rounded when rendered; peak 255) over the "
        "full image; SSIM of bytes by a uniform window of 11 pixels (range 255, "
        "whole windows); LPIPS, not among its scores, of VGG16 on bytes as -1..1",
        window=_uniform(11),
        lpips_signed=True,
        in_bytes=True,
        clipped=True,
    ),
    "gpnerf": ImageProtocol(
        words="As GP-NeRF: PSNR of colours 0..1 (its code does not clip them, here "
        "they are kept as bytes) over the full image, 1e-6 added to the mean square "
        f"(60 dB at most); {_SSIM_GAUSSIAN}; LPIPS of VGG16 "
        "on 0..1, which it was not made for",
        window=_gaussian(11, 1.5),
        lpips_signed=False,
        added_error=1e-6,
    ),
    "gsnerf": ImageProtocol(
        words="As GSNeRF: PSNR of colours 0..1 over pixels whose true depth is known; "
        "SSIM by a uniform window of 7 pixels (range 1, whole windows) and LPIPS of "
        "VGG16 on -1..1, both pictures black at the other pixels; no score without "
        "depth",
        window=_uniform(7),
        lpips_signed=True,
        where_depth_is_known=True,
    ),
    "gnesf": ImageProtocol(
        words="As GNeSF may have done (the paper only names PSNR, SSIM and LPIPS, "
        f"after SurfelNeRF): PSNR of colours 0..1 over the full image; {_SSIM_GAUSSIAN}"
        ", as in its released code; LPIPS of VGG16 on -1..1, where that code takes "
        "AlexNet",
        window=_gaussian(11, 1.5),
        lpips_signed=True,
        clipped=True,
    ),
}


def words(protocol: str, with_lpips: bool) -> str:
    """Say in one sentence, for a table's title, what the scores mean."""
    said = PROTOCOLS[protocol].words
    return f"{said}." if with_lpips else f"{said}. {NO_LPIPS}."


def image_scores(
    protocol: str,
    picture: Float[np.ndarray, "h w 3"],
    truth: UInt8[np.ndarray, "h w 3"],
    depth_known: Bool[np.ndarray, "h w"] | None,
    lpips: Distance | None = None,
) -> dict[str, float | None]:
    """Score a picture with colours 0..1; `None` is a score that cannot be had.

    `depth_known` says where the true depth is known, if there is any; protocols that
    score the full image do not look at it.
    """
    rules = PROTOCOLS[protocol]
    if not np.isfinite(picture).all():
        raise ValueError("picture: expected finite colours")
    if rules.clipped:
        picture = picture.clip(0, 1)
    if rules.in_bytes:  # in the picture's own precision, which brings bytes back
        picture = np.floor(picture * 255).astype(np.uint8) / 255
    pair = picture.astype(np.float64), truth / 255
    scored = np.ones(truth.shape[:2], bool)
    if rules.where_depth_is_known:
        scored = ~scored if depth_known is None else depth_known
        pair = pair[0] * scored[..., None], pair[1] * scored[..., None]
    if not scored.any():
        return {"psnr_db": None, "ssim": None, "lpips": None}
    error = float(np.square(pair[0] - pair[1])[scored].mean()) + rules.added_error
    return {
        "psnr_db": -10 * math.log10(max(error, _LEAST_ERROR)),
        "ssim": ssim(*pair, rules.window),
        "lpips": None if lpips is None else lpips(*pair, rules.lpips_signed),
    }


def ssim(
    first: Float64[np.ndarray, "h w c"],
    second: Float64[np.ndarray, "h w c"],
    window: Window,
) -> float:
    """Return the structural similarity of two pictures with colours 0..1.

    Channels are compared by themselves; the mean is over channels and windows alike.
    """
    size = len(window.weights)
    if not window.padded and min(first.shape[:2]) < size:
        raise ValueError(f"picture {first.shape[:2]} is smaller than a window, {size}")
    pixels = size**2
    scale = pixels / (pixels - 1) if window.sample_variance else 1.0
    mean_1, mean_2 = _averaged(first, window), _averaged(second, window)
    variance_1 = scale * (_averaged(first**2, window) - mean_1**2)
    variance_2 = scale * (_averaged(second**2, window) - mean_2**2)
    covariance = scale * (_averaged(first * second, window) - mean_1 * mean_2)
    of_means, of_contrast = _STABILITY
    alike = (2 * mean_1 * mean_2 + of_means) * (2 * covariance + of_contrast)
    total = (mean_1**2 + mean_2**2 + of_means) * (variance_1 + variance_2 + of_contrast)
    return float((alike / total).mean())


def _averaged(
    values: Float64[np.ndarray, "h w c"], window: Window
) -> Float64[np.ndarray, "_ _ c"]:
    """Return the weighted mean of each window."""
    weights = np.array(window.weights)
    if window.padded:
        margin = len(weights) // 2
        values = np.pad(values, ((margin, margin), (margin, margin), (0, 0)))
    for axis in (0, 1):
        values = sliding_window_view(values, len(weights), axis) @ weights
    return values
