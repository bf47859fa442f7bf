"""Render held-out frames of one scene by a field, near its surfaces."""

from dataclasses import asdict
from pathlib import Path

from gnesf_core.config import NeuconConfig, NovelViewsConfig
from gnesf_core.data.provenance import provenance
from gnesf_core.errors import BadInput
from gnesf_core.fields.gnesf import scene_for
from gnesf_core.fields.interface import Field
from gnesf_core.fields.network import GnesfNetwork
from gnesf_core.views.rendering import Renderer, write_held_out
from gnesf_core.views.surface_field import SurfaceField, sources_of
from stages.cli import device_named, run
from stages.scene_inputs import open_field, scene_inputs


def main(
    frames: Path,
    volume: Path,
    prior: Path,
    out: Path,
    geometry: str,
    module: str,
    recipe: str,
    views: NovelViewsConfig,
    features: Path | None = None,
    encoder: NeuconConfig | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Write what is seen in them; `geometry` is a name for tables."""
    where = device_named(device)
    opened, config, packages = open_field(module, recipe, encoder, weights, where)
    network = _network(opened, module)
    with scene_inputs(frames, volume, prior, features) as (scene, inputs):
        method = SurfaceField(network, scene_for(network, scene, where))
        sources = sources_of(network.settings, network.picture_size)
        renderer = Renderer(
            method.eval(), scene.frames, scene.prior, sources, where, views.protocol
        )
        about = {"module": module, "settings": asdict(config), "views": asdict(views)}
        inputs |= opened.inputs()
        made_by = provenance("render_field", about, inputs, packages=packages)
        write_held_out(renderer, views, out, made_by, geometry)


def _network(field: Field, module: str) -> GnesfNetwork:
    network = getattr(field, "network", None)
    if not isinstance(network, GnesfNetwork):
        raise BadInput(
            "recipe",
            "module",
            expected="a field that renders: gnesf",
            found=module,
            remedy="render views by another field",
        )
    return network


if __name__ == "__main__":
    run(main)
