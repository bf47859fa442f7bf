"""Draw intersection over union per class."""

from pathlib import Path

import pandas as pd

from stages.cli import run
from stages.plot_style import HATCHES, INKS, plt, write_figure


def main(classes: Path, out: Path) -> None:
    """Draw one bar per class and field, best class of the first field on top."""
    table = pd.read_csv(classes).pivot(index="name", columns="field", values="iou")
    fields = list(pd.read_csv(classes)["field"].unique())
    table = table[fields].sort_values(fields[0], na_position="first")
    inches = 1 + len(table) * (0.1 + 0.14 * len(fields))
    figure, axes = plt.subplots(figsize=(6, inches))
    height = 0.85 / len(fields)
    for number, field in enumerate(fields):
        # The first field's bar is the uppermost of its class.
        offsets = [row + 0.425 - height * (number + 0.5) for row in range(len(table))]
        bars = axes.barh(
            offsets,
            100 * table[field].fillna(0),
            height,
            color=INKS[number % len(INKS)],
            hatch=HATCHES[number // len(INKS) % len(HATCHES)],
            edgecolor="white",
            label=field,
        )
        texts = ["absent" if pd.isna(v) else f"{100 * v:.0f}" for v in table[field]]
        axes.bar_label(bars, texts, padding=2, fontsize=7)
    axes.set_yticks(range(len(table)), table.index)
    axes.set_xlim(0, 105)
    axes.set_xlabel("IoU, percent")
    axes.legend(loc="lower right")
    axes.margins(y=0.005)
    write_figure(figure, out)


if __name__ == "__main__":
    run(main)
