"""One look for all figures."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from gnesf_core.data.publish import publish
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.viz.picture import class_colors

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

WIDTH_INCHES, DPI = 11.0, 128  # of figures with rows of pictures
# How figures are written, by the ending of their names. On a screen these JPEGs cannot
# be told from the drawing, at a fifth of the bytes; PNG is for who measures colours.
JPEG = {"quality": 80, "optimize": True, "progressive": True}
_WRITTEN = {
    ".jpg": {"pil_kwargs": JPEG},
    ".png": {},
    ".svg": {"metadata": {"Date": None}},
}
WRONG, RIGHT, UNJUDGED = (213, 94, 0), (235, 235, 235), (255, 255, 255)
# Told apart by people with any colour vision, and in print (Okabe and Ito).
# More fields than inks: the next round is hatched.
HATCHES = ("", "//", "..", "xx")
INKS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "x",
        "grid.color": "#dddddd",
        "axes.axisbelow": True,
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "gnesf",  # equal tables give equal files
    }
)


def write_figure(figure: Figure, out: Path, dpi: float | str = "figure") -> None:
    """Publish a figure in the format that its name asks for, and close it.

    Drawings need no `dpi`, pictures do.
    """
    how = _WRITTEN[out.suffix]
    with publish(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:], dpi=dpi, **how)
    plt.close(figure)


def rows_of_pictures(
    rows: int, titles: Sequence[str], picture_size: tuple[int, int]
) -> tuple[Figure, np.ndarray]:
    """Return a figure with a cell per picture, and a title above each column."""
    width, height = picture_size
    row_inches = WIDTH_INCHES / len(titles) * height / width
    size = WIDTH_INCHES, rows * row_inches + 1.3
    figure, cells = plt.subplots(rows, len(titles), squeeze=False, figsize=size)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for cell in cells.flat:
        cell.set_axis_off()
    for cell, title in zip(cells[0], titles, strict=True):
        cell.set_title(title, fontsize=11)
    return figure, cells


def errors(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mark wrong pixels; those without a true class are neither wrong nor right."""
    verdict = np.where((truth == predicted)[..., None], RIGHT, WRONG)
    return np.where((truth == IGNORE)[..., None], UNJUDGED, verdict).astype(np.uint8)


def note(cell: Axes, text: str) -> None:
    """Write a few words into a corner of a picture."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    cell.text(0.02, 0.03, text, fontsize=8, transform=cell.transAxes, bbox=box)


def class_legend(labels: np.ndarray) -> list[Patch]:
    """Return a patch with a name for each class id."""
    names = {IGNORE: "no class"} | dict(enumerate(CLASS_NAMES))
    colors = class_colors(labels) / 255
    return [
        Patch(color=color, label=names[label])
        for color, label in zip(colors, labels.tolist(), strict=True)
    ]
