"""Score the rendered views of one scene, and picture a few."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gnesf_core.config import ImageQualityConfig
from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import sha256_of, write_json
from gnesf_core.data.rendered import View, Views
from gnesf_core.evaluation.image_quality import Distance, words
from gnesf_core.evaluation.novel_views import classes_of, score_views
from gnesf_core.spread import spread
from gnesf_core.viz.picture import class_colors
from stages.cli import run
from stages.plot_style import (
    DPI,
    class_legend,
    errors,
    note,
    rows_of_pictures,
    write_figure,
)

ROWS = 4
TITLES = ("picture", "rendered colour", "true classes", "rendered classes", "errors")


def main(
    frames: Path,
    views: Path,
    out: Path,
    picture: Path,
    field: str,
    quality: ImageQualityConfig,
) -> None:
    """Write the scores of every rendered frame, and a picture of a few.

    `field` is what rendered them, a name for tables.
    """
    lpips, weights = _lpips(quality)
    with store.Frames(frames) as kept, Views(views, kept) as rendered:
        seen = {
            int(position): rendered.view(number)
            for number, position in enumerate(rendered.positions)
        }
        scores = score_views(seen, kept, quality.protocol, lpips)
        lines = dict(zip(seen, scores["frames"], strict=True))
        _draw(seen, lines, kept, field, picture)
        inputs = rendered.provenance["inputs"] | {"views": rendered.fingerprint}
        about = {"quality": quality.protocol}
        made_by = provenance("evaluate_views", about, inputs | weights)
        protocol = rendered.about | {
            "image_quality": quality.protocol,
            "image_words": words(quality.protocol, lpips is not None),
        }
        names = {"scene": kept.scene, "field": field, "provenance": made_by}
    write_json(out, names | {"protocol": protocol} | scores)


def _lpips(quality: ImageQualityConfig) -> tuple[Distance | None, dict[str, str]]:
    """Return the distance, if its weights are at hand, and their digests."""
    paths = {"vgg": quality.vgg, "linear": quality.linear}
    if not all(paths.values()):
        return None, {}
    from gnesf_core.evaluation.lpips import read_lpips  # which needs torch

    network = read_lpips(Path(quality.vgg), Path(quality.linear))
    return network.distance, {name: sha256_of(Path(p)) for name, p in paths.items()}


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
    rows = max(len(positions), 1)
    figure, cells = rows_of_pictures(rows, TITLES, kept.color_size)
    shown = [
        _draw_frame(row, rendered[position], scores[position], kept, position)
        for row, position in zip(cells[: len(positions)], positions, strict=True)
    ]
    figure.suptitle(f"{kept.scene}, novel views by {field}", fontsize=12)
    if shown:
        present = np.unique(np.concatenate(shown))
        legend = class_legend(present)
        figure.legend(handles=legend, loc="outside lower center", ncols=7)
    else:
        note(cells[0, 0], "no frame of this scene is held out")
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
