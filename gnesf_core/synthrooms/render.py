"""Render a room: what a camera sees, its colour, its depth, and whose surface it is."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gnesf_core.geometry.camera import pixel_rays
from gnesf_core.geometry.raycast import make_caster
from gnesf_core.shapes import Bool, Float, Float64, Int64
from gnesf_core.synthrooms.lighting import Light, ShadowedLight
from gnesf_core.synthrooms.looks import Material
from gnesf_core.synthrooms.plan import Plan
from gnesf_core.synthrooms.surfaces import Surfaces
from gnesf_core.synthrooms.textures import Textures

# Where more rays are cast through a pixel on an edge, in pixels from its centre.
EDGE_RAYS = ((-0.33, -0.17), (0.17, 0.33))


@dataclass(frozen=True)
class Camera:
    """A pinhole camera's size and intrinsics."""

    width: int
    height: int
    intrinsics: Float64[np.ndarray, "3 3"]


class Renderer:
    """A lit room, ready to be looked at."""

    def __init__(
        self,
        surfaces: Surfaces,
        plan: Plan,
        lights: list[Light],
        ambient: tuple[float, float, float],
        device: str,
        engine: str = "auto",
    ) -> None:
        self.device = torch.device(device)
        corners = surfaces.corners.reshape(-1, 3)
        faces = np.arange(len(corners)).reshape(-1, 3)
        self.caster = make_caster(corners, faces, engine, device)
        self.textures = Textures(surfaces.materials, self.device)
        self._attributes = torch.from_numpy(surfaces.attributes).to(self.device)
        self._material = torch.from_numpy(surfaces.material).to(self.device)
        failing = torch.tensor([depth_failure(m) for m in surfaces.materials])
        self.failing = failing.to(self.device)[self._material]
        self._part = torch.from_numpy(surfaces.part).to(self.device)
        self._ambient = torch.tensor(ambient, device=self.device)
        self._walls = [
            torch.tensor(np.concatenate([wall.start, wall.end]), dtype=torch.float32)
            for wall in plan.walls
        ]
        self._height = plan.height
        self.lights = [ShadowedLight(x, self.caster, self.device) for x in lights]

    def trace(
        self, room_from_camera: Float64[np.ndarray, "4 4"], camera: Camera
    ) -> tuple[Int64[Tensor, "h w"], Float64[Tensor, "h w"]]:
        """Return the triangle (-1 = none) and the depth in metres at every pixel."""
        rays = self._rays(room_from_camera, camera)
        return self.caster.cast(room_from_camera[:3, 3], rays)

    def picture(
        self, room_from_camera: Float64[np.ndarray, "4 4"], camera: Camera
    ) -> tuple[Float[Tensor, "h w 3"], Int64[Tensor, "h w"]]:
        """Return linear colours, smooth at edges, and the triangle at pixel centres."""
        rays = self._rays(room_from_camera, camera).to(torch.float32)
        origin = room_from_camera[:3, 3]
        triangle, t = self.caster.cast(origin, rays)
        pixel = 1 / camera.intrinsics[0, 0]
        edge = _by_blocks(torch.nonzero(self._edges(triangle)), camera.width)
        axes = torch.from_numpy(room_from_camera[:3, :2] * pixel).to(rays)
        shifts = torch.tensor(EDGE_RAYS, device=self.device) @ axes.T
        rays = rays.reshape(-1, 3)
        near = (rays[edge][:, None] + shifts).reshape(-1, 3)
        near_triangle, near_t = self.caster.cast(origin, near)
        # All at once: shading costs more by the call than by the ray.
        color = self.shade(
            origin,
            torch.cat([rays, near]),
            torch.cat([triangle.reshape(-1), near_triangle]),
            torch.cat([t.reshape(-1), near_t]),
            pixel,
        )
        centre, beside = color[: len(rays)], color[len(rays) :]
        beside = beside.reshape(-1, len(EDGE_RAYS), 3).sum(1)
        centre[edge] = (centre[edge] + beside) / (1 + len(EDGE_RAYS))
        return centre.reshape(*triangle.shape, 3), triangle

    def shade(
        self,
        origin: Float64[np.ndarray, " 3"],
        rays: Float[Tensor, "n 3"],
        triangle: Int64[Tensor, " n"],
        t: Float64[Tensor, " n"],
        pixel: float,
    ) -> Float[Tensor, "n 3"]:
        """Return the linear colour that each ray sees; black where it leaves the room.

        Args:
            origin: where the rays start.
            rays: directions.
            triangle: what they hit.
            t: where.
            pixel: width of a pixel at t = 1, for fading details.
        """
        missed = triangle < 0
        depth = torch.where(missed, 1.0, t).to(torch.float32)
        start = torch.as_tensor(origin, dtype=torch.float32, device=self.device)
        rays = rays.to(torch.float32)
        points = start + depth[:, None] * rays
        triangle = triangle.clamp(min=0)
        color = self.light(points, triangle, rays, depth * pixel)
        color[missed] = 0.0
        return color

    def light(
        self,
        points: Float[Tensor, "n 3"],
        triangle: Int64[Tensor, " n"],
        rays: Float[Tensor, "n 3"] | None,
        footprint_m: Float[Tensor, " n"],
    ) -> Float[Tensor, "n 3"]:
        """Return the light that points of triangles send back along `rays`.

        Without rays nothing gleams and every surface is lit on its outer side.
        """
        maps = self._attributes.index_select(0, triangle)
        x, y, z = points[:, :1], points[:, 1:2], points[:, 2:]
        values = torch.addcmul(maps[:, 3], maps[:, 0], x)
        values = values.addcmul_(maps[:, 1], y).addcmul_(maps[:, 2], z)
        normals = unit(values[:, 2:])
        if rays is not None:
            away = dot(normals, rays) > 0
            normals = torch.where(away[:, None], -normals, normals)
        material = self._material.index_select(0, triangle)
        albedo = self.textures.albedo(material, values[:, :2], footprint_m)
        openness = self._openness(points, normals)
        sky = openness * (0.85 + 0.15 * normals[:, 2])
        total = sky[:, None] * self._ambient
        gloss = self.textures.gloss.index_select(0, material)
        shiny = torch.nonzero(gloss).flatten()
        gleam = torch.zeros_like(total)
        for light in self.lights:
            strength, towards = light.arriving(points, normals)
            total.addcmul_(strength[:, None], light.color)
            if rays is not None and len(shiny):
                view = unit(rays.index_select(0, shiny))
                half = unit(towards.index_select(0, shiny) - view)
                shine = dot(half, normals.index_select(0, shiny)).clamp(min=0) ** 48
                shine *= strength.index_select(0, shiny)
                shine *= gloss.index_select(0, shiny) * 0.5
                gleam.index_add_(0, shiny, shine[:, None] * light.color)
        color = torch.addcmul(gleam, albedo, total)
        glows = self.textures.glows.index_select(0, material)
        return torch.where(glows[:, None], albedo * 0.95, color)

    def _openness(
        self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]
    ) -> Float[Tensor, " n"]:
        """Return how little of the ambient light corners keep away."""
        x, y, z = points.unbind(1)
        nearest = torch.full_like(x, 10.0)
        for wall in self._walls:
            x0, y0, x1, y1 = wall.tolist()
            level = y0 == y1
            across = (y - y0).abs() if level else (x - x0).abs()
            low, high = sorted((x0, x1) if level else (y0, y1))
            along = x if level else y
            beyond = torch.maximum(low - along, along - high).clamp(min=0)
            # A wall does not darken itself.
            facing = (normals[:, 1] if level else normals[:, 0]).abs() > 0.9
            far = across + beyond + 10.0 * (facing & (across < 0.02))
            nearest = torch.minimum(nearest, far)
        flat = normals[:, 2].abs() > 0.9
        floor = torch.minimum(z, self._height - z).clamp(min=0) + 10.0 * flat
        return (1 - 0.45 * torch.exp(-nearest / 0.16)) * (
            1 - 0.4 * torch.exp(-floor / 0.14)
        )

    def _rays(
        self, room_from_camera: Float64[np.ndarray, "4 4"], camera: Camera
    ) -> Float64[Tensor, "h w 3"]:
        rays = pixel_rays(camera.intrinsics, camera.width, camera.height)
        rays = torch.from_numpy(rays).to(self.device)
        turn = torch.from_numpy(room_from_camera[:3, :3].copy()).to(self.device)
        return rays @ turn.T

    def _edges(self, triangle: Int64[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
        """Return where a pixel and a neighbour see different parts."""
        part = torch.where(triangle < 0, -1, self._part[triangle.clamp(min=0)])
        edge = torch.zeros_like(part, dtype=torch.bool)
        across, down = part[:, 1:] != part[:, :-1], part[1:] != part[:-1]
        edge[:, 1:] |= across
        edge[:, :-1] |= across
        edge[1:] |= down
        edge[:-1] |= down
        return edge


def _by_blocks(pixels: Int64[Tensor, "n 2"], width: int) -> Int64[Tensor, " n"]:
    """Return the flat index of (row, column) pixels, neighbours in the plane together.

    Casting is fast where consecutive rays are neighbours.
    """
    row, column = pixels.unbind(1)
    block = (row // 8) * (width // 8 + 1) + column // 8
    return (row * width + column)[torch.argsort(block, stable=True)]


def dot(a: Float[Tensor, "n 3"], b: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Return the inner product of each pair of vectors."""
    # Faster than a reduction over an axis of three.
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def unit(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Return the vectors scaled to length one."""
    return vectors * dot(vectors, vectors).clamp(min=1e-20).rsqrt()[:, None]


def depth_failure(material: Material) -> float:
    """Return how likely a depth sensor gets no answer from a material."""
    if material.pattern == "outlook":
        return 0.92
    if material.gloss >= 1.0:
        return 0.75
    dark = max(0.0, 0.06 - sum(material.colors[0]) / 3) / 0.06
    return min(0.9, 0.55 * dark + 0.3 * max(0.0, material.gloss - 0.4))
