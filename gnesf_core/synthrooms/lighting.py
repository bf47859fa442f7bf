"""Lamps, daylight and their shadows.

A light's shadows are looked up in a cube of depth images around it, which is cast once
for a room because nothing in it moves.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gnesf_core.geometry.raycast import Caster
from gnesf_core.shapes import Float
from gnesf_core.synthrooms.plan import Plan

CUBE_TEXELS = 320
BIAS = 0.012  # of the distance, beside a fixed part
BIAS_M = 0.012

# Axis and sign of each face of a cube, and the axes that its columns and rows follow.
_FACES = [(0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1)]


@dataclass(frozen=True)
class Light:
    """A point light; `facing` dims it towards its back where it is not zero."""

    position: tuple[float, float, float]
    color: tuple[float, float, float]  # linear, at one metre
    facing: tuple[float, float, float] = (0.0, 0.0, 0.0)


def draw_lights(
    plan: Plan, rng: np.random.Generator
) -> tuple[list[Light], tuple[float, float, float]]:
    """Return lamps below the ceiling, daylight from a window, and the ambient light."""
    lights = []
    day = rng.uniform(0.0, 1.0)
    warm = np.array([1.0, rng.uniform(0.82, 0.95), rng.uniform(0.62, 0.85)])
    size = plan.corners.max(0) - plan.corners.min(0)
    count = 1 if max(size) < 4.2 else 2
    strength = rng.uniform(2.0, 3.2) * (1.15 - 0.45 * day) / count
    strength *= float(np.sqrt(size[0] * size[1] / 12))
    axis = int(size[1] > size[0])
    for index in range(count):
        middle = plan.corners.min(0) + size * rng.uniform(0.44, 0.56, 2)
        if count == 2:
            middle[axis] += (index - 0.5) * 0.45 * size[axis]
        if not plan.contains(middle[None])[0]:
            middle = plan.corners.min(0) + size * 0.4
        color = tuple((strength * warm).tolist())
        lights.append(Light((*middle.tolist(), plan.height - 0.3), color))
    lights += _daylight(plan, day)
    sky = np.array([0.9, 0.97, 1.06]) * day + warm * (1 - day)
    return lights, tuple((0.3 * sky * rng.uniform(0.8, 1.2)).tolist())


def _daylight(plan: Plan, day: float) -> list[Light]:
    """Return a light at the widest window."""
    windows = [(w, o) for w in plan.walls for o in w.openings if o.kind == "window"]
    if not windows or day < 0.25:
        return []
    wall, opening = max(windows, key=lambda pair: pair[1].s1 - pair[1].s0)
    height = opening.z0 + 0.7 * (opening.z1 - opening.z0)
    matrix = wall.frame((opening.s0 + opening.s1) / 2, 0.3, height)
    color = tuple((4.0 * day * np.array([0.85, 0.95, 1.1])).tolist())
    position, facing = matrix[:3, 3], matrix[:3, 1]
    return [Light(tuple(position.tolist()), color, tuple(facing.tolist()))]


class ShadowedLight:
    """A light with the distances to what it shines on."""

    def __init__(self, light: Light, caster: Caster, device: torch.device) -> None:
        self.position = torch.tensor(light.position, dtype=torch.float32, device=device)
        self.color = torch.tensor(light.color, dtype=torch.float32, device=device)
        self.facing = torch.tensor(light.facing, dtype=torch.float32, device=device)
        ticks = (torch.arange(CUBE_TEXELS, device=device) + 0.5) * 2 / CUBE_TEXELS - 1
        rows, columns = torch.meshgrid(ticks, ticks, indexing="ij")
        faces = []
        for axis, sign in _FACES:
            rays = torch.empty((CUBE_TEXELS, CUBE_TEXELS, 3), device=device)
            rays[..., axis] = sign
            rays[..., (axis + 1) % 3] = columns
            rays[..., (axis + 2) % 3] = rows
            _, t = caster.cast(np.array(light.position), rays)
            faces.append(t.to(torch.float32))
        self.distance = torch.stack(faces).reshape(-1)

    def arriving(
        self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Return how strongly the light arrives, and unit directions towards it."""
        towards = self.position - points
        squared = (towards[:, 0] ** 2 + towards[:, 1] ** 2) + towards[:, 2] ** 2
        towards = towards * squared.clamp(min=1e-8).rsqrt()[:, None]
        x, y, z = towards.unbind(1)
        cosine = normals[:, 0] * x + normals[:, 1] * y + normals[:, 2] * z
        strength = (0.92 * cosine + 0.08).clamp(min=0.0) / (0.6 + squared)
        if self.facing.any():
            strength = strength * (0.35 - 0.65 * (towards @ self.facing)).clamp(min=0.0)
        return strength * self.visible(points + 0.012 * normals), towards

    def visible(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Return the share of each point that the light sees, softened by a texel."""
        x, y, z = (points - self.position).unbind(1)
        a, b, c = x.abs(), y.abs(), z.abs()
        on_x, on_y = (a >= b) & (a >= c), b >= c
        reach = torch.maximum(torch.maximum(a, b), c)
        # The axes after the face's own, cyclically, are its columns and rows.
        main = torch.where(on_x, x, torch.where(on_y, y, z))
        u = torch.where(on_x, y, torch.where(on_y, z, x)) / reach
        v = torch.where(on_x, z, torch.where(on_y, x, y)) / reach
        axis = torch.where(on_x, 0, torch.where(on_y, 2, 4))
        face = (axis + (main < 0)) * CUBE_TEXELS**2
        u, v = (((x + 1) * CUBE_TEXELS / 2 - 0.5) for x in (u, v))
        limit = CUBE_TEXELS - 1
        u0, v0 = torch.floor(u).clamp(0, limit - 1), torch.floor(v).clamp(0, limit - 1)
        x, y = (u - u0).clamp(0, 1), (v - v0).clamp(0, 1)
        at = face + v0.long() * CUBE_TEXELS + u0.long()
        nearest = reach * (1 - BIAS) - BIAS_M
        lit = [
            (self.distance.index_select(0, at + step) >= nearest).to(torch.float32)
            for step in (0, 1, CUBE_TEXELS, CUBE_TEXELS + 1)
        ]
        return torch.lerp(
            torch.lerp(lit[0], lit[1], x), torch.lerp(lit[2], lit[3], x), y
        )
