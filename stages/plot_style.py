"""One look for all figures."""

import matplotlib
import numpy as np
from matplotlib.patches import Patch

from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.viz.picture import class_colors

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

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


def class_legend(labels: np.ndarray) -> list[Patch]:
    """Return a patch with a name for each class id."""
    names = {IGNORE: "no class"} | dict(enumerate(CLASS_NAMES))
    colors = class_colors(labels) / 255
    return [
        Patch(color=color, label=names[label])
        for color, label in zip(colors, labels.tolist(), strict=True)
    ]
