"""Render held-out frames of one scene by a field, score them, and picture a few."""

import importlib
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gnesf_core.config import GnesfConfig, NeuconConfig, NovelViewsConfig
from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import publish, write_json
from gnesf_core.errors import BadInput
from gnesf_core.evaluation.novel_views import classes_of, score_views
from gnesf_core.fields.interface import Field, SceneInputs
from gnesf_core.fields.network import GnesfNetwork
from gnesf_core.fields.novel_views import View, ViewRenderer, held_out_frames, spread
from gnesf_core.labels import IGNORE
from gnesf_core.viz.picture import class_colors
from stages.cli import device_named, run, settings
from stages.plot_style import class_legend, plt

log = logging.getLogger("stages")

ROWS = 4
WIDTH_INCHES, DPI = 11.0, 128
TITLES = ("picture", "rendered colour", "true classes", "rendered classes", "errors")
WRONG, RIGHT, UNJUDGED = (213, 94, 0), (235, 235, 235), (255, 255, 255)


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
    kind = importlib.import_module(f"gnesf_core.fields.{module}")
    config = settings(kind.Settings, recipe, "--recipe")
    where = device_named(device)
    opened = kind.open_field(config, encoder, weights, where)
    network = _network(opened, module)
    with ExitStack() as stack:
        kept = stack.enter_context(store.Frames(frames))
        surface = stack.enter_context(store.VolumeFile(volume, kept))
        maps = stack.enter_context(store.PriorMaps(prior, kept))
        inputs = {
            "frames": kept.fingerprint,
            "volume": surface.fingerprint,
            "prior": maps.fingerprint,
        } | opened.inputs()
        encoded = None
        if features is not None:
            other = stack.enter_context(store.VolumeFile(features, kept))
            inputs["features"] = other.fingerprint
            encoded = other.volume()
        scene = SceneInputs(kept, maps, surface.volume().surface, encoded, features)
        size = views.width, views.height
        renderer = ViewRenderer(network, scene, size, where)
        rendered = _render(renderer, kept, views.frames)
        scores = score_views(rendered, kept)
        lines = dict(zip(rendered, scores["frames"], strict=True))
        _draw(rendered, lines, kept, field, picture)
        about = {"module": module, "settings": asdict(config), "views": asdict(views)}
        made_by = provenance("render_views", about, inputs, packages=kind.PACKAGES)
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
    width, height = kept.color_size
    row_inches = WIDTH_INCHES / len(TITLES) * height / width
    size = WIDTH_INCHES, len(positions) * row_inches + 1.1
    shape = len(positions), len(TITLES)
    figure, cells = plt.subplots(*shape, squeeze=False, figsize=size)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for cell in cells.flat:
        cell.set_axis_off()
    for cell, title in zip(cells[0], TITLES, strict=True):
        cell.set_title(title, fontsize=11)
    shown = [
        _draw_frame(row, rendered[position], scores[position], kept, position)
        for row, position in zip(cells, positions, strict=True)
    ]
    figure.suptitle(f"{kept.scene}, novel views by {field}", fontsize=12)
    present = np.unique(np.concatenate(shown))
    figure.legend(handles=class_legend(present), loc="outside lower center", ncols=7)
    with publish(out) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    plt.close(figure)


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
    row[4].imshow(_errors(truth, predicted))
    _note(row[0], f"frame {kept.index[position]}")
    if scores["psnr_db"] is not None:
        _note(row[1], f"PSNR {scores['psnr_db']:.1f} dB")
    _note(row[3], f"{100 * view.known.mean():.0f} % rendered")
    miou = scores["miou"]
    _note(row[4], "no labels" if miou is None else f"mIoU {100 * miou:.0f}")
    return np.union1d(predicted, truth)


def _errors(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mark wrong pixels; those without a true class are neither wrong nor right."""
    verdict = np.where((truth == predicted)[..., None], RIGHT, WRONG)
    return np.where((truth == IGNORE)[..., None], UNJUDGED, verdict).astype(np.uint8)


def _note(cell: Axes, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    cell.text(0.02, 0.03, text, fontsize=8, transform=cell.transAxes, bbox=box)


if __name__ == "__main__":
    run(main)
