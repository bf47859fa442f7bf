"""Draw the curves of a training: losses, learning rate, size of the gradient."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from gnesf_core.data.publish import publish, verify
from gnesf_core.errors import BadInput
from stages.cli import run
from stages.plot_style import INKS, plt

# Every other number of a line is a part of the loss, under its own name.
NOT_LOSSES = ("step", "seconds", "lr", "gradient_norm", "items_per_second")
DECADES = 1.5  # a curve that spans more is drawn on a logarithmic scale
SMOOTHED = 0.02  # share of the training over which the bold curve averages


def main(metrics: Path, out: Path, name: str) -> None:
    """Draw what `metrics` (one JSON object per line) tells of the training `name`."""
    table = read_metrics(metrics)
    others = [column for column in ("lr", "gradient_norm") if column in table]
    figure, cells = plt.subplots(
        1 + len(others),
        figsize=(4.8, 3.0 + 1.5 * len(others)),
        height_ratios=[2, *[1] * len(others)],
        sharex=True,
        squeeze=False,
    )
    figure.suptitle(f"{name}\n{_summary(table)}", fontsize=9)
    titles = {"lr": "learning rate", "gradient_norm": "norm of the gradient"}
    _draw_losses(cells[0, 0], table)
    for cell, column in zip(cells[1:, 0], others, strict=True):
        _draw(cell, table[column], INKS[0], titles[column])
        cell.set_title(titles[column], loc="left")
        _scale(cell, table[[column]])
    cells[-1, 0].set_xlabel("step")
    with publish(out) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def read_metrics(path: Path) -> pd.DataFrame:
    """Return the numbers of every line, by step; the last line about a step counts."""
    complaint = verify(path)
    if complaint is not None:
        place, found = complaint
        raise _refusal(path, place, "the bytes that were published", found)
    lines = path.read_text(errors="replace").splitlines()
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


def _draw_losses(cell: Axes, table: pd.DataFrame) -> None:
    parts = [c for c in table if c not in NOT_LOSSES and c != "loss"]
    columns = [*(["loss"] if "loss" in table else []), *parts]
    for number, column in enumerate(columns):
        ink = "black" if column == "loss" else INKS[number % len(INKS)]
        style = "-" if number <= len(INKS) else "--"
        _draw(cell, table[column], ink, column, style)
    cell.set_title("loss", loc="left")
    _scale(cell, table[columns])
    if len(columns) > 1:
        cell.legend(frameon=False, ncols=2)


def _draw(
    cell: Axes, values: pd.Series, ink: str, label: str, style: str = "-"
) -> None:
    """Draw a curve pale as it is, and bold as a moving average."""
    values = values.dropna()
    window = max(1, round(SMOOTHED * len(values)))
    smooth = values.rolling(window, center=True, min_periods=1).mean()
    cell.plot(values.index, values, style, color=ink, linewidth=0.6, alpha=0.3)
    cell.plot(smooth.index, smooth, style, color=ink, linewidth=1.4, label=label)
    cell.grid(axis="both")


def _scale(cell: Axes, values: pd.DataFrame) -> None:
    """Use a logarithmic scale where all is positive and spans decades."""
    low, high = values.min().min(), values.max().max()
    if 0 < low and high > low * 10**DECADES:
        cell.set_yscale("log")


if __name__ == "__main__":
    run(main)
