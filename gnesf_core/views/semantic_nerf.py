"""Semantic-NeRF: a scene learned by heart, as densities, colours and classes of points.

Two networks, coarse and fine, say of a point how dense it is, which classes it may be
of and, by the direction that it is looked at from, which colour it has. Logits are
added up along rays. Samples are evenly spaced in depth; densities are per metre.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from gnesf_core.config import SemanticNerfConfig
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.nets.positional import frequencies
from gnesf_core.rendering.compositing import composite, density_weights
from gnesf_core.rendering.rays import Rays
from gnesf_core.rendering.samplers import first_places, importance
from gnesf_core.rendering.sources import Sources
from gnesf_core.shapes import Float, Float64
from gnesf_core.views.interface import (
    Camera,
    Method,
    Rendered,
)

Settings = SemanticNerfConfig
PACKAGES = ("safetensors",)


def build(settings: SemanticNerfConfig) -> "SemanticNerf":
    """Return a method that knows nothing of its scene yet."""
    return SemanticNerf(settings)


class Points(NamedTuple):
    """What a network says of points."""

    density: Float[Tensor, "rays samples"]  # per metre; negative ones are none
    color: Float[Tensor, "rays samples 3"]  # 0..1
    semantic: Float[Tensor, "rays samples classes"]  # logits


class PointNetwork(nn.Module):
    """Positions and directions -> densities, colours and logits.

    The position comes in once more after the layer amid the others. Only colours depend
    on the direction.
    """

    def __init__(self, settings: SemanticNerfConfig, classes: int) -> None:
        super().__init__()
        self._position = settings.position_frequencies
        self._direction = settings.direction_frequencies
        width, half = settings.width, settings.width // 2
        position = 3 + 6 * self._position
        self._middle = settings.layers // 2
        inner = [width] * settings.layers
        inner[0] = position
        inner[self._middle + 1] += position
        self.layers = nn.ModuleList(nn.Linear(count, width) for count in inner)
        self.density = nn.Linear(width, 1)
        self.semantic = nn.Sequential(
            nn.Linear(width, half), nn.ReLU(), nn.Linear(half, classes)
        )
        self.feature = nn.Linear(width, width)
        self.color = nn.Sequential(
            nn.Linear(width + 3 + 6 * self._direction, half),
            nn.ReLU(),
            nn.Linear(half, 3),
            nn.Sigmoid(),
        )

    def forward(
        self,
        positions: Float[Tensor, "rays samples 3"],
        directions: Float[Tensor, "rays 3"],
    ) -> Points:
        """Return what is at positions, about -1..1, seen along unit vectors."""
        encoded = frequencies(positions, self._position)
        hidden = encoded
        for number, layer in enumerate(self.layers):
            if number == self._middle + 1:
                hidden = torch.cat([encoded, hidden], -1)
            hidden = relu(layer(hidden))
        seen_from = frequencies(directions, self._direction)[:, None]
        seen_from = seen_from.expand(-1, positions.shape[1], -1)
        color = self.color(torch.cat([self.feature(hidden), seen_from], -1))
        return Points(self.density(hidden)[..., 0], color, self.semantic(hidden))


class SemanticNerf(Method):
    """The networks of one scene; `fit_to` says where that scene is."""

    says = "logits"
    of_one_scene = True

    def __init__(self, settings: SemanticNerfConfig) -> None:
        super().__init__()
        self.settings = settings
        self.range_m = settings.near_m, settings.far_m
        classes = len(CLASS_NAMES)
        self.coarse = PointNetwork(settings, classes)
        self.fine = PointNetwork(settings, classes)
        whole = torch.float64
        self.register_buffer("centre_world", torch.zeros(3, dtype=whole))
        self.register_buffer("scale_m", torch.tensor(settings.far_m, dtype=whole))

    def fit_to(self, centres_world: Float64[Tensor, "cameras 3"]) -> None:
        """Choose what counts as 0 and as 1: all that cameras see is about -1..1.

        It is kept with the weights, which mean nothing elsewhere.
        """
        low, high = centres_world.aminmax(dim=0)
        centre = (low + high) / 2
        reach_m = (centres_world - centre).norm(dim=1).max()
        self.centre_world.copy_(centre)
        self.scale_m.copy_(reach_m + self.settings.far_m)

    def encode(self, sources: Sources, camera: Camera) -> None:
        """Return nothing: all is known by heart."""
        del sources, camera

    def render(self, context: None, rays: Rays) -> list[Rendered]:
        """Return what the coarse and the fine network say, Eq. 5 with logits."""
        del context
        s = self.settings
        first = self.range_m, s.coarse_samples, "depth", self.training
        depth_m = first_places(rays, *first)
        coarse = self._render(self.coarse, rays, depth_m)
        chosen = coarse.weights, s.fine_samples, "depth", self.training
        depth_m = importance(depth_m, *chosen)
        return [coarse, self._render(self.fine, rays, depth_m)]

    def _render(
        self,
        network: PointNetwork,
        rays: Rays,
        depth_m: Float64[Tensor, "rays samples"],
    ) -> Rendered:
        positions = (rays.at(depth_m) - self.centre_world) / self.scale_m
        along, length = rays.of_unit_length()
        points = network(positions.float(), along.directions_world.float())
        density = points.density.float()
        if self.training:
            # Density is pushed off 0, where its gradient ends.
            noise = torch.randn_like(density)
            density = density + self.settings.density_noise * noise
        # Samples are by depth, and light goes along the ray.
        weights = density_weights(density, (depth_m * length[:, None]).float())
        return Rendered(
            composite(weights, points.color.float()),
            composite(weights, depth_m[..., None].float())[:, 0],
            composite(weights, points.semantic.float()),
            weights,
            torch.ones_like(length, dtype=torch.bool),
        )
