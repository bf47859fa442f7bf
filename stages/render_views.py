"""Render held-out frames of one scene by a method of view synthesis."""

from dataclasses import asdict
from pathlib import Path

from gnesf_core.config import NovelViewsConfig, SourceViewsConfig
from gnesf_core.data.provenance import provenance
from gnesf_core.views.rendering import write_held_out
from stages.cli import run
from stages.scene_inputs import Segmenter, open_renderer


def main(
    frames: Path,
    weights: Path,
    out: Path,
    module: str,
    recipe: str,
    sources: SourceViewsConfig,
    views: NovelViewsConfig,
    prior: Path | None = None,
    segmenter: str = "",
    segmenter_recipe: str = "",
    segmenter_weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Write what is seen in them by `gnesf_core.views.<module>`.

    `segmenter` is a module of priors, for methods that segment what they render.
    """
    after = Segmenter(segmenter, segmenter_recipe, segmenter_weights)
    with open_renderer(
        module, recipe, weights, sources, frames, prior, after, device, views.protocol
    ) as (renderer, config, packages, inputs):
        about = {
            "module": module,
            "settings": asdict(config),
            "sources": asdict(sources),
            "views": asdict(views),
        }
        made_by = provenance("render_views", about, inputs, packages=packages)
        write_held_out(renderer, views, out, made_by, "none")


if __name__ == "__main__":
    run(main)
