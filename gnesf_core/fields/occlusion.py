"""Which points a view does not see although they lie in its picture."""

import torch
from torch import Tensor

from gnesf_core.geometry.distance_field import DistanceField, sample_distance
from gnesf_core.geometry.visibility import Occluders
from gnesf_core.shapes import Bool, Float64

_RELEASED_SAMPLES, _RELEASED_NEAR_M = 10, 1.0


def hidden(
    field: DistanceField,
    origins_world: Float64[Tensor, "n 3"],
    points_world: Float64[Tensor, "n 3"],
    rule: str,
    unobserved: str,
    occluders: Occluders | None = None,
) -> Bool[Tensor, " n"]:
    """Tell which points are hidden from cameras at `origins_world`, by a rule.

    The field's `occluders` take time to make: whoever asks again brings them along.

    sdf           distances go positive, negative, positive on the way (paper, 4.2)
    ten-samples   two changes of sign among ten samples (the released code)
    none          nothing hides anything
    """
    if rule == "none":
        return torch.zeros(
            len(points_world), dtype=torch.bool, device=points_world.device
        )
    if rule == "ten-samples":
        return _two_changes(field, origins_world, points_world)
    assert rule == "sdf"
    occluders = occluders or Occluders(field, unobserved)
    return occluders.occluded(origins_world, points_world)


def _two_changes(
    field: DistanceField,
    origins_world: Float64[Tensor, "n 3"],
    points_world: Float64[Tensor, "n 3"],
) -> Bool[Tensor, " n"]:
    """Look at ten samples, evenly from 1 m before the camera to the point.

    Unobserved space counts as free, as it does there.
    """
    way = points_world - origins_world
    length_m = way.norm(dim=1, keepdim=True).clamp(min=1e-9)
    steps = torch.linspace(0, 1, _RELEASED_SAMPLES, device=way.device).double()
    distance_m = _RELEASED_NEAR_M + steps * (length_m - _RELEASED_NEAR_M)
    along = (distance_m / length_m)[..., None] * way[:, None]
    tsdf, _ = sample_distance(field, origins_world[:, None] + along)
    sign = tsdf.sign()
    return (sign[:, 1:] != sign[:, :-1]).sum(1) >= 2
