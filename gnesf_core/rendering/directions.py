"""How differently a camera and source views look at points."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gnesf_core.shapes import Float

_LEAST = 1e-6  # a shorter difference of unit vectors has no direction


def direction_differences(
    points_world: Float[Tensor, "*points 3"],
    target_centre_world: Float[Tensor, " 3"],
    source_centres_world: Float[Tensor, "views 3"],
) -> Float[Tensor, "*points views 4"]:
    """Return by how much the directions to a camera and to source views differ.

    Seen from each point: the direction of the difference, camera minus view, of unit
    vectors towards the two; then the cosine between them.
    """
    points = points_world[..., None, :]
    target = normalize(target_centre_world - points, dim=-1)
    source = normalize(source_centres_world - points, dim=-1)
    difference = normalize(target - source, dim=-1, eps=_LEAST)
    cosine = (target * source).sum(-1, keepdim=True)
    return torch.cat([difference, cosine], -1)
