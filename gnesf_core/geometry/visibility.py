"""Which views see a point: the paper's rule on the signs of the distances between.

A camera does not see a point if on the way from one to the other the signed distance is
positive, then negative, then positive again: the way has gone through something. A
point just inside a surface is seen, and one behind a thin plate is not.

The way ends at the point. Distances between voxels are interpolated. A cell of which
any voxel is unobserved, and all space outside the grid, has no sign: behind a wall the
truncated band ends in unobserved space, and that is not the other side. Released code
counts such space as positive; `unobserved="free"` does so too.

`Occluders` is what others ask, as often as they like once it is built. It is exact;
`occluded_truth`, a march that reads like the rule, comes the closer the finer it is.
"""

import math
from importlib.util import find_spec

import torch
from torch import Tensor

from gnesf_core.geometry import visibility_torch
from gnesf_core.geometry.distance_field import DistanceField, sample_distance
from gnesf_core.shapes import Bool, Float64, Int8

UNOBSERVED = ("skip", "free")
# Distances up to this have no sign, in truncations: a hundredth of a millimetre at
# 12 cm. Vertices of a surface lie on it to rounding, which must not decide that the
# way to one on the far side has come out.
NO_SIGN = 1e-4
_MOST_SAMPLES = 1 << 20  # at once


class Occluders:
    """What may stand between cameras and points in a scene, ready to be asked.

    Answers are exact for the interpolated distances: on a CPU with numba by
    `torch.get_num_threads()` threads, on which they do not depend, elsewhere by Torch.
    The field must not change afterwards.
    """

    def __init__(self, field: DistanceField, unobserved: str = "skip") -> None:
        assert unobserved in UNOBSERVED
        self._field = field
        self.device = field.tsdf.device
        self._compiled = field.tsdf.device.type == "cpu" and bool(find_spec("numba"))
        if self._compiled:
            from gnesf_core.geometry import visibility_numba

            self._cells = visibility_numba.classify(field, unobserved)
        else:
            self._cells = visibility_torch.classify(field, unobserved, NO_SIGN)

    def occluded(
        self,
        origins_world: Float64[Tensor, "n 3"],
        points_world: Float64[Tensor, "n 3"],
    ) -> Bool[Tensor, " n"]:
        """Tell which points a camera does not see from the origin beside each."""
        check(self._field, origins_world, points_world)
        if self._compiled:
            from gnesf_core.geometry import visibility_numba

            return visibility_numba.occluded(
                self._field, self._cells, origins_world, points_world
            )
        return visibility_torch.occluded(self._cells, origins_world, points_world)


def occluded_truth(
    field: DistanceField,
    origins_world: Float64[Tensor, "n 3"],
    points_world: Float64[Tensor, "n 3"],
    steps_per_voxel: int = 8,
    unobserved: str = "skip",
) -> Bool[Tensor, " n"]:
    """March from each origin to the point beside it; the truth as steps get shorter.

    Steps are equal and at most 1 / `steps_per_voxel` of a voxel long. What each pair is
    told does not depend on the others.
    """
    assert unobserved in UNOBSERVED
    check(field, origins_world, points_world)
    length_m = (points_world - origins_world).norm(dim=1)
    steps = (length_m / field.voxel_size_m * steps_per_voxel).ceil().clamp(min=1).long()
    order = steps.argsort(descending=True)  # ways of about one length go together
    occluded = torch.zeros_like(steps, dtype=torch.bool)
    start = 0
    while start < len(order):
        most = int(steps[order[start]])
        some = order[start : start + math.ceil(_MOST_SAMPLES / (most + 1))]
        share = torch.arange(most + 1, device=steps.device) / steps[some, None].double()
        way = (points_world - origins_world)[some, None]
        samples = origins_world[some, None] + share.clamp(max=1)[..., None] * way
        signs = _signs(field, samples, unobserved)
        occluded[some] = visibility_torch.comes_out(signs)
        start += len(some)
    return occluded


def check(
    field: DistanceField,
    origins_world: Float64[Tensor, "n 3"],
    points_world: Float64[Tensor, "n 3"],
) -> None:
    """Refuse arguments that compiled code, which checks nothing, would trip over."""
    assert field.tsdf.dtype == torch.float32 and field.tsdf.dim() == 3
    assert field.observed.shape == field.tsdf.shape
    assert points_world.dim() == 2 and points_world.shape[1] == 3
    assert origins_world.shape == points_world.shape
    assert origins_world.dtype == points_world.dtype == torch.float64
    assert origins_world.device == points_world.device == field.tsdf.device
    assert bool(
        torch.isfinite(origins_world).all() & torch.isfinite(points_world).all()
    )


def _signs(
    field: DistanceField,
    points_world: Float64[Tensor, "ways samples 3"],
    unobserved: str,
) -> Int8[Tensor, "ways samples"]:
    """Return 1, -1, or 0 for none."""
    distance, known = sample_distance(field, points_world)
    sign = (distance > NO_SIGN).char() - (distance < -NO_SIGN).char()
    # Where nothing is known the distance is 1.
    return sign if unobserved == "free" else torch.where(known, sign, 0)
