"""What several views see at points in space: mean and variance, Eq. 1 of the paper.

A view sees a point that lies in front of its camera and, on its feature map, between
the centres of the outermost pixels: nothing is extrapolated. There the map is
interpolated bilinearly. Mean and variance are over the views that see the point; the
variance is that of the views themselves, divided by their number.

`back_project_truth` is the readable truth in Torch and runs on any device;
`back_project` is what others call, and takes a faster twin where there is one. All
compute in float32 whatever autocast says, or in float64 where the features have that
type, and give the means and variances the type of the features.
"""

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from gnesf_core.geometry.sampling import sample_image
from gnesf_core.shapes import Bool, Float, Int64


class Projected(NamedTuple):
    """Statistics of the views at each point; all zeros where no view sees it."""

    mean: Float[Tensor, "n c"]
    variance: Float[Tensor, "n c"]  # exactly 0 where one view sees the point
    count: Int64[Tensor, " n"]  # views that see the point


def back_project(
    features: Float[Tensor, "views c h w"],
    points: Float[Tensor, "n 3"],
    pixel_from_point: Float[Tensor, "views 3 4"],
) -> Projected:
    """Return what the views see at each point, by the fastest means there is.

    `pixel_from_point` takes (x, y, z, 1) to (u * depth, v * depth, depth) in pixels of
    the feature maps. Differentiable in the features only. On a CPU the work is spread
    over `torch.get_num_threads()` threads, and no bit of the result or of the gradient
    depends on it; on a GPU gradients are summed in no fixed order.
    """
    if features.device.type == "cpu" and find_spec("numba") is not None:
        from gnesf_core.ops import back_projection_numba

        return back_projection_numba.back_project(features, points, pixel_from_point)
    is_double = features.dtype == torch.float64
    if features.is_cuda and not is_double and find_spec("triton") is not None:
        from gnesf_core.ops import back_projection_triton

        return back_projection_triton.back_project(features, points, pixel_from_point)
    return back_project_truth(features, points, pixel_from_point)


def back_project_truth(
    features: Float[Tensor, "views c h w"],
    points: Float[Tensor, "n 3"],
    pixel_from_point: Float[Tensor, "views 3 4"],
) -> Projected:
    """Return what the views see at each point: the truth that twins are held to."""
    kind = computing_type(features)
    with torch.autocast(features.device.type, enabled=False):
        size = features.shape[:1] + points.shape[:1]
        samples = features.new_zeros(*size, features.shape[1], dtype=kind)
        seen = torch.zeros(*size, 1, dtype=torch.bool, device=features.device)
        for view, matrix in enumerate(pixel_from_point.detach().to(kind)):
            uv, sees = _look(points.detach().to(kind), matrix, features.shape[2:])
            samples[view] = sample_image(features[view].to(kind), uv)
            seen[view] = sees[:, None]
        count = seen.sum(0)
        divisor = count.clamp(min=1)
        mean = torch.where(seen, samples, 0).sum(0) / divisor
        # The squares of differences: those of values would cancel each other out.
        differences = torch.where(seen, samples - mean, 0)
        variance = differences.square().sum(0) / divisor
    return Projected(
        mean.to(features.dtype), variance.to(features.dtype), count[:, 0]
    )


def computing_type(features: Float[Tensor, "views c h w"]) -> torch.dtype:
    """Return the type that positions, means and variances are computed in."""
    return torch.promote_types(features.dtype, torch.float32)


def _look(
    points: Float[Tensor, "n 3"],
    matrix: Float[Tensor, "3 4"],
    size: tuple[int, ...],
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
    """Return where points fall on a map of size (h, w), and which of them it sees.

    Written out rather than as a product of matrices: that may be computed with ten bits
    on a GPU, and twins that add up in this order decide like this to the last bit.
    """
    x, y, z = points.unbind(1)
    uz, vz, depth = (row[0] * x + row[1] * y + row[2] * z + row[3] for row in matrix)
    u, v = uz / depth, vz / depth
    seen = (depth > 0) & (u >= 0) & (u <= size[1] - 1) & (v >= 0) & (v <= size[0] - 1)
    return torch.where(seen[:, None], torch.stack([u, v], 1), 0), seen
