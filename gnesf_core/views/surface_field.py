"""The 3D path's field as a method: votes near surfaces that are given, Eq. 8-9."""

from typing import Any

import torch

from gnesf_core.config import GnesfConfig, SourceViewsConfig
from gnesf_core.fields.network import Evidence, GnesfNetwork, Scene
from gnesf_core.rendering.rays import Rays
from gnesf_core.rendering.sources import Sources
from gnesf_core.views.interface import Camera, Method, Rendered

PACKAGES = ("safetensors",)


class SurfaceField(Method):
    """A field's network, which is asked about the geometry of one scene.

    It is trained as a field, on surfaces, and only renders here.
    """

    needs = frozenset({"prior", "surface"})
    says = "probabilities"

    def __init__(self, network: GnesfNetwork, scene: Scene) -> None:
        super().__init__()
        self.network, self.scene = network, scene
        self.settings = network.settings
        self.payload = network.settings.payload
        self.range_m = network.settings.near_m, network.settings.far_m

    def encode(self, sources: Sources, camera: Camera) -> Evidence:
        """Let the network look at the source views."""
        del camera
        return self.network.look(self.scene, sources)

    def render(self, context: Any, rays: Rays) -> list[Rendered]:
        """Return what the views say of where rays meet the surface."""
        by_distance, length = rays.of_unit_length()
        semantic, color, distance_m, usable = self.network.render(context, by_distance)
        weights = torch.ones_like(color[:, :1])
        return [Rendered(color, distance_m / length, semantic, weights, usable)]


def sources_of(settings: GnesfConfig, size: tuple[int, int]) -> SourceViewsConfig:
    """Return which views a field looks at, and how large."""
    return SourceViewsConfig(
        settings.source_frames, settings.views, settings.view_overlap, *size
    )
