"""Render held-out frames of one scene by a field, score them, and picture a few."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gnesf_core.config import GnesfConfig, NeuconConfig, NovelViewsConfig
from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import write_json
from gnesf_core.errors import BadInput
from gnesf_core.evaluation.novel_views import classes_of, score_views
from gnesf_core.fields.interface import Field
from gnesf_core.fields.network import GnesfNetwork
from gnesf_core.fields.novel_views import View, ViewRenderer, held_out_frames
from gnesf_core.spread import spread
from gnesf_core.viz.picture import class_colors
from stages.cli import device_named, run
from stages.plot_style import (
    DPI,
    class_legend,
    errors,
    note,
    rows_of_pictures,
    write_figure,
)
from stages.scene_inputs import open_field, scene_inputs

log = logging.getLogger("stages")

ROWS = 4
TITLES = ("picture", "rendered colour", "true classes", "rendered classes", "errors")


def main(
    frames: Path,
    volume: Path,
    prior: Path,
    out: Path,
    picture: Path,
    field: str,
    geometry: str,
    module: str,
    recipe: str,
    views: NovelViewsConfig,
    features: Path | None = None,
    encoder: NeuconConfig | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Write the scores of every rendered frame, and a picture of a few.

    `field` and `geometry` are names for tables; the rest is as for a mesh.
    """
    where = device_named(device)
    opened, config, packages = open_field(module, recipe, encoder, weights, where)
    network = _network(opened, module)
    with scene_inputs(frames, volume, prior, features) as (scene, inputs):
        kept, inputs = scene.frames, inputs | opened.inputs()
        size = views.width, views.height
        renderer = ViewRenderer(network, scene, size, where)
        rendered = _render(renderer, kept, views.frames)
        scores = score_views(rendered, kept)
        lines = dict(zip(rendered, scores["frames"], strict=True))
        _draw(rendered, lines, kept, field, picture)
        about = {"module": module, "settings": asdict(config), "views": asdict(views)}
        made_by = provenance("render_views", about, inputs, packages=packages)
        names = {"scene": kept.scene, "field": field, "provenance": made_by}
    names["protocol"] = _protocol(views, geometry, network.settings)
    write_json(out, names | scores)


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


def _render(renderer: ViewRenderer, kept: store.Frames, most: int) -> dict[int, View]:
    """Return what is seen in held-out frames, by their positions."""
    started, rendered = time.monotonic(), {}
    for position in held_out_frames(kept, most):
        rendered[position] = renderer.render(position)
    seconds = time.monotonic() - started
    log.info("%s: %d frames rendered, %.1f s", kept.scene, len(rendered), seconds)
    return rendered


def _protocol(
    views: NovelViewsConfig, geometry: str, config: GnesfConfig
) -> dict[str, object]:
    return {
        "geometry": geometry,
        "frames_per_scene": views.frames,
        "size": f"{views.width}x{views.height}",
        "source_frames": config.source_frames,
        "source_views": config.views,
    }


def _draw(
    rendered: Mapping[int, View],
    scores: Mapping[int, Mapping[str, Any]],
    kept: store.Frames,
    field: str,
    out: Path,
) -> None:
    """Draw pictures, classes and errors, one row per frame."""
    positions = list(rendered)
    positions = [positions[place] for place in spread(len(positions), ROWS)]
    figure, cells = rows_of_pictures(len(positions), TITLES, kept.color_size)
    shown = [
        _draw_frame(row, rendered[position], scores[position], kept, position)
        for row, position in zip(cells, positions, strict=True)
    ]
    figure.suptitle(f"{kept.scene}, novel views by {field}", fontsize=12)
    present = np.unique(np.concatenate(shown))
    figure.legend(handles=class_legend(present), loc="outside lower center", ncols=7)
    write_figure(figure, out, DPI)


def _draw_frame(
    row: np.ndarray,
    view: View,
    scores: Mapping[str, Any],
    kept: store.Frames,
    position: int,
) -> np.ndarray:
    """Fill a row of cells; return the classes that it shows."""
    truth, predicted = kept.labels(position), classes_of(view, kept)
    height, width = truth.shape
    row[0].imshow(kept.color(position))
    whole = (-0.5, width - 0.5, height - 0.5, -0.5)
    row[1].imshow(view.color, extent=whole, interpolation="nearest")
    row[2].imshow(class_colors(truth))
    row[3].imshow(class_colors(predicted))
    row[4].imshow(errors(truth, predicted))
    note(row[0], f"frame {kept.index[position]}")
    if scores["psnr_db"] is not None:
        note(row[1], f"PSNR {scores['psnr_db']:.1f} dB")
    note(row[3], f"{100 * view.known.mean():.0f} % rendered")
    miou = scores["miou"]
    note(row[4], "no labels" if miou is None else f"mIoU {100 * miou:.0f}")
    return np.union1d(predicted, truth)


if __name__ == "__main__":
    run(main)
