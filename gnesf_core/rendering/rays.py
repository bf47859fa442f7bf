"""Rays of cameras, and where points lie in the pictures of views."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnesf_core.shapes import Float64, Shaped


class Rays(NamedTuple):
    """Where rays start, and where they go; points are at origin + t * direction.

    t is a distance in metres where directions are unit vectors, and a depth, z of the
    camera, where they are one metre deep.
    """

    origins_world: Float64[Tensor, "rays 3"]
    directions_world: Float64[Tensor, "rays 3"]

    def at(self, t_m: Float64[Tensor, "rays samples"]) -> Float64[Tensor, "rays s 3"]:
        """Return points of the rays."""
        along = t_m[..., None] * self.directions_world[:, None]
        return self.origins_world[:, None] + along

    def of_unit_length(self) -> tuple["Rays", Float64[Tensor, " rays"]]:
        """Return the same rays by distance, and the lengths of their directions."""
        length = self.directions_world.norm(dim=1)
        return Rays(self.origins_world, self.directions_world / length[:, None]), length


def depth_rays(
    intrinsics: Float64[np.ndarray, "3 3"],
    world_from_camera: Float64[np.ndarray, "4 4"],
    uv: Shaped[np.ndarray, "n 2"],
) -> Rays:
    """Return the rays of a camera through places on its image, in pixels, by depth."""
    pixels = np.concatenate([uv, np.ones((len(uv), 1))], 1)
    directions = pixels @ np.linalg.inv(intrinsics).T
    directions_world = directions @ world_from_camera[:3, :3].T
    origins_world = np.broadcast_to(world_from_camera[:3, 3], directions_world.shape)
    return Rays(torch.tensor(origins_world), torch.from_numpy(directions_world))


def rays_through(
    intrinsics: Float64[np.ndarray, "3 3"],
    world_from_camera: Float64[np.ndarray, "4 4"],
    uv: Shaped[np.ndarray, "n 2"],
) -> Rays:
    """Return the same rays by distance."""
    return depth_rays(intrinsics, world_from_camera, uv).of_unit_length()[0]
