"""Draw the curves of a training: losses, learning rate, size of the gradient."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from gnesf_core.data.publish import read_text
from gnesf_core.errors import BadInput
from stages.cli import run
from stages.plot_style import INKS, plt, write_figure

# Every other number of a line is a part of the loss, under its own name.
NOT_LOSSES = ("step", "seconds", "learning_rate", "gradient_norm", "items_per_second")
DECADES = 1.5  # curves that span more are drawn on a logarithmic scale
SMOOTHED = 0.02  # share of the training over which a bold curve averages


def main(metrics: Path, out: Path, name: str) -> None:
    """Draw what `metrics` (one JSON object per line) tells of the training `name`."""
    table = read_metrics(metrics)
    losses = ["loss", *(c for c in table if c not in NOT_LOSSES and c != "loss")]
    figure, cells = plt.subplots(
        3, figsize=(4.8, 6), height_ratios=(2, 1, 1), sharex=True
    )
    figure.suptitle(f"{name}\n{_summary(table)}", fontsize=9)
    _draw_noisy(cells[0], table.reindex(columns=losses))
    cells[1].plot(table.reindex(columns=["learning_rate"]), color=INKS[0])
    _draw_noisy(cells[2], table.reindex(columns=["gradient_norm"]))
    titles = ("loss", "learning rate", "norm of the gradient")
    for cell, title in zip(cells, titles, strict=True):
        cell.set_title(title, loc="left")
        cell.grid(True, axis="both")
    cells[-1].set_xlabel("step")
    write_figure(figure, out)


def read_metrics(path: Path) -> pd.DataFrame:
    """Return the numbers of every line, by step; the last line about a step counts."""
    lines = read_text(path).splitlines()
    entries = [_entry(path, number, line) for number, line in enumerate(lines, 1)]
    if not entries:
        raise _refusal(path, "content", "a line per reported step", "nothing")
    return pd.DataFrame({entry["step"]: entry for entry in entries}).T.sort_index()


def _entry(path: Path, number: int, line: str) -> dict[str, float]:
    """Return the numbers of one line; what is no number is somebody else's."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise _refusal(path, f"line {number}", "JSON", error) from None
    numbers = {k: float(v) for k, v in _items(entry) if _is_number(v)}
    if not math.isfinite(numbers.get("step", math.nan)):
        found = line if len(line) < 80 else f"{line[:80]}..."
        raise _refusal(path, f"line {number}", "an object with a number `step`", found)
    return numbers


def _items(entry: Any) -> list[tuple[str, Any]]:
    return list(entry.items()) if isinstance(entry, dict) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refusal(path: Path, place: str, expected: str, found: object) -> BadInput:
    remedy = "delete the file and run snakemake again"
    return BadInput(path, place, expected=expected, found=found, remedy=remedy)


def _summary(table: pd.DataFrame) -> str:
    """Say how long it took, as far as the lines tell."""
    texts = [f"{table.index[-1]:,.0f} steps"]
    if "seconds" in table:
        texts.append(f"{table['seconds'].max() / 60:,.1f} min")
    if "items_per_second" in table:
        texts.append(f"{table['items_per_second'].median():,.1f} items/s")
    return ", ".join(texts)


def _draw_noisy(cell: Axes, curves: pd.DataFrame) -> None:
    """Draw curves pale as they are, and bold as moving averages."""
    for number, column in enumerate(curves):
        curve = curves[column].dropna()  # validation is not part of every line
        window = max(1, round(SMOOTHED * len(curve)))
        smooth = curve.rolling(window, center=True, min_periods=1).mean()
        marker = "." if len(curve) == 1 or len(curve) < len(curves) else ""
        ink = "black" if column == "loss" else INKS[number % len(INKS)]
        style = {"color": ink, "linestyle": "--" if number > len(INKS) else "-"}
        if window > 1:
            cell.plot(curve, linewidth=0.6, alpha=0.3, **style)
        cell.plot(smooth, marker=marker, label=column, **style)
    low, high = curves.min().min(), curves.max().max()
    if low > 0 and high > low * 10**DECADES:
        cell.set_yscale("log")
    if len(curves.columns) > 1:
        cell.legend(frameon=False, ncols=2)


if __name__ == "__main__":
    run(main)
