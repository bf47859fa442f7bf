"""Picture what a prior sees in a few frames of a scene, and how sure it is."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gnesf_core.data import store
from gnesf_core.evaluation import prior as scoring
from gnesf_core.evaluation.semantics import confusion
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.spread import spread
from gnesf_core.viz.picture import class_colors
from stages.cli import run
from stages.plot_style import (
    DPI,
    UNJUDGED,
    class_legend,
    errors,
    note,
    plt,
    rows_of_pictures,
    write_figure,
)

ROWS = 4
# Dark is sure. Perceptually uniform: twice the entropy looks twice as bright.
DOUBT = ScalarMappable(
    Normalize(0, 1), plt.get_cmap("inferno").with_extremes(bad="0.8")
)
ALIKE = (1, 2, 5, 20)  # entropy is read as this many classes in question


def main(prior_file: Path, frames: Path, out: Path, prior: str) -> None:
    """Draw picture, classes, entropy, ground truth and errors, one row per frame."""
    with store.Frames(frames) as kept, store.PriorMaps(prior_file, kept) as maps:
        positions = spread(len(kept), ROWS)
        titles = ["picture", prior, "doubt (entropy)", "ground truth"]
        titles += ["errors"] if kept.has_labels else []
        figure, cells = rows_of_pictures(len(positions), titles, kept.color_size)
        shown = [
            _draw_frame(row, kept, maps, position)
            for row, position in zip(cells, positions, strict=True)
        ]
        figure.suptitle(f"{kept.scene}, as {prior} sees it", fontsize=12)
    _draw_scale(figure, cells[-1, 2])
    present = np.unique(np.concatenate(shown))
    figure.legend(handles=class_legend(present), loc="outside lower center", ncols=7)
    write_figure(figure, out, DPI)


def _draw_frame(
    row: np.ndarray, kept: store.Frames, maps: store.PriorMaps, position: int
) -> np.ndarray:
    """Fill a row of cells; return the classes that it shows."""
    probabilities = maps.probabilities(position)
    predicted, _ = scoring.decide(probabilities, kept.color_size)
    doubt = scoring.entropy(scoring.resize(probabilities, kept.color_size))
    row[0].imshow(kept.color(position))
    row[1].imshow(class_colors(predicted))
    row[2].imshow(doubt, cmap=DOUBT.cmap, norm=DOUBT.norm)
    note(row[0], f"frame {kept.index[position]}")
    if not kept.has_labels:
        row[3].imshow(np.full((*predicted.shape, 3), UNJUDGED))
        note(row[3], "no labels")
        return np.unique(predicted)
    truth = kept.labels(position)
    row[3].imshow(class_colors(truth))
    row[4].imshow(errors(truth, predicted))
    miou = scoring.image_scores(confusion(truth, predicted))["miou"]
    note(row[4], "no labels" if miou is None else f"mIoU {100 * miou:.0f}")
    return np.union1d(predicted, truth)


def _draw_scale(figure: Figure, cell: Axes) -> None:
    """Say what the colours of doubt mean, below their column."""
    bar = cell.inset_axes((0.05, -0.09, 0.9, 0.05))
    figure.colorbar(DOUBT, bar, orientation="horizontal")
    bar.set_xticks(np.log(ALIKE) / np.log(len(CLASS_NAMES)), ALIKE)
    bar.set_xlabel("classes in question", fontsize=8, labelpad=1)
    bar.tick_params(labelsize=8)


if __name__ == "__main__":
    run(main)
