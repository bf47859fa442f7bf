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
    the feature maps. Differentiable in the features only. The twin on a CPU works on
    `torch.get_num_threads()` threads, and no bit of its result or gradient depends on
    it; on a GPU gradients are summed in no fixed order.
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
    check(features, points, pixel_from_point)
    kind = computing_type(features)
    with torch.autocast(features.device.type, enabled=False):
        samples, sights = [], []
        for image, matrix in zip(features, pixel_from_point, strict=True):
            uv, _, sees = _look(
                points.detach().to(kind), matrix.detach().to(kind), image.shape[1:]
            )
            samples.append(sample_image(image.to(kind), uv))
            sights.append(sees[:, None])
        sample, seen = torch.stack(samples), torch.stack(sights)
        count = seen.sum(0)
        divisor = count.clamp(min=1)
        mean = torch.where(seen, sample, 0).sum(0) / divisor
        # Squares of differences: a difference of squares would be lost in rounding.
        difference = torch.where(seen, sample - mean, 0)
        variance = difference.square().sum(0) / divisor
    kind = features.dtype
    return Projected(mean.to(kind), variance.to(kind), count[:, 0])


@torch.no_grad()
def mean_depth(
    size: tuple[int, int],
    points: Float[Tensor, "n 3"],
    pixel_from_point: Float[Tensor, "views 3 4"],
) -> Float[Tensor, " n"]:
    """Return the mean depth of each point in the views that see it; 0 where none does.

    `size` is the height and width of the feature maps, which decide who sees a point as
    in `back_project`.
    """
    total, count = torch.zeros_like(points[:, 0]), torch.zeros_like(points[:, 0])
    for matrix in pixel_from_point:
        _, depth, seen = _look(points, matrix, size)
        total += torch.where(seen, depth, 0)
        count += seen
    return total / count.clamp(min=1)


def check(
    features: Float[Tensor, "views c h w"],
    points: Float[Tensor, "n 3"],
    pixel_from_point: Float[Tensor, "views 3 4"],
) -> None:
    """Refuse arguments that compiled code, which checks nothing, would trip over."""
    views, channels, height, width = features.shape
    assert views > 0 and channels > 0
    assert points.dim() == 2 and points.shape[1] == 3
    assert pixel_from_point.shape == (views, 3, 4)
    assert features.device == points.device == pixel_from_point.device
    assert all(a.is_floating_point() for a in (features, points, pixel_from_point))
    # The numbers of a map are counted in 32 bits.
    assert 0 < channels * height * width < 2**31


def computing_type(features: Float[Tensor, "views c h w"]) -> torch.dtype:
    """Return the type that positions, means and variances are computed in."""
    return torch.promote_types(features.dtype, torch.float32)


def _look(
    points: Float[Tensor, "n 3"],
    matrix: Float[Tensor, "3 4"],
    size: tuple[int, int],
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return where points fall on a map, how deep, and which of them it sees.

    Written out rather than as a product of matrices: that may be computed with ten bits
    on a GPU, and twins that add up in this order decide like this to the last bit.
    """
    x, y, z = points.unbind(1)
    uz, vz, depth = (row[0] * x + row[1] * y + row[2] * z + row[3] for row in matrix)
    u, v = uz / depth, vz / depth
    height, width = size
    seen = (depth > 0) & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    return torch.where(seen[:, None], torch.stack([u, v], 1), 0), depth, seen
