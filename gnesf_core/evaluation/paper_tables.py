"""A paper's table with our figures beside it, never to be taken for one another.

Every column of figures says whether it is published or ours, and on which data.
Confusions are added over scenes before anything is divided, in 3D (vertices) and in 2D
(pixels of novel views: pooled over the data set; our fields, one by one, by the other
poolings too); colours are averaged over images, then over scenes. A difference is
formed only where data set, split and scenes are the published ones and the source says
how it scored. A field is what fills a row: one of 3D points, or a
method of view synthesis.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gnesf_core.errors import BadInput
from gnesf_core.evaluation import pooling, semantics
from gnesf_core.evaluation.novel_view_summary import mean_over_images, protocol_of
from gnesf_core.evaluation.published import COLOR_SCORES, Column, PublishedTable, Row
from gnesf_core.evaluation.tables import Block, mean_of_known

Scores = Mapping[str, Any]
Kind = Literal["3D", "2D", "colours"]  # labelled meshes; novel views, in two respects

_MEASURES = {"mIoU": "miou", "mAcc": "mean_accuracy"}
# How ours are pooled beside; published tables have the first, if any.
_POOLINGS_2D = {"2D mIoU per image": "per_image", "2D mIoU per scene": "per_scene"}
_OF_IMAGES = dict(zip(COLOR_SCORES, ("full_psnr_db", "ssim", "lpips"), strict=True))
_TEXT_COLUMN = 18  # characters, to which headings of a text table are wrapped
_PROTOCOL_3D = (
    "3D: each true vertex takes the class of its nearest predicted vertex, however far "
    "(Atlas)"
)
_VIEWS = (
    "frames rendered from others (val: scenes never trained on, which the paper calls "
    'novel scene; train: those trained on, "novel view"; methods that are fitted to a '
    "scene have learned from other frames of it)"
)
_PROTOCOL_2D = (
    f"2D: {_VIEWS}, pooled over the data set (pixels of all images and scenes added "
    "up); per image and per scene: of each image or scene the mean over the classes in "
    "its truth, then the mean over a scene's images, then over scenes"
)
_PROTOCOL_COLOURS = (
    f"Colours: {_VIEWS}, mean over each scene's images, then over scenes; of LPIPS "
    "less is better, of the others more"
)
_RULE = (
    "IoU by the rule of ScanNet's benchmark (no true class = skipped, void prediction "
    "= wrong); confusions added over scenes; mIoU: mean over the classes in truth or "
    "prediction, mAcc: mean recall over the classes in the truth"
)


@dataclass(frozen=True)
class Field:
    """What one field scored, and on how much."""

    label: str  # its row in the table
    name: str
    figures: Mapping[str, float | None]  # by quantity ("3D mIoU"), shares in percent
    classes_scored: Mapping[str, int]  # by kind, of those that are about classes
    images: int


@dataclass(frozen=True)
class Measured:
    """Our figures of one table, and what they may be held against."""

    dataset: str
    split: str
    scenes: Mapping[Kind, int]  # where anything was scored
    fields: tuple[Field, ...]
    # What scores of novel views say of how they came about.
    said: Mapping[str, str]
    # Name of the published data set that `dataset` is, or "" for one of its own.
    comparable: str = ""

    @property
    def quantities(self) -> list[str]:
        """Return what was measured: mIoU and mAcc, or how close colours are."""
        return [name for kind in self.scenes for name in _quantities(kind)]

    def place(self, quantity: str) -> str:
        """Say on what data a quantity was measured."""
        scenes = self.scenes[_kind(quantity)]
        return f"{self.dataset} {self.split}, {_count(scenes, 'scene')}"

    def values(self, label: str, quantity: str) -> list[float]:
        """Return the figures of all fields of a row."""
        own = [field for field in self.fields if field.label == label]
        figures = [field.figures.get(quantity) for field in own]
        return [figure for figure in figures if figure is not None]


def measure(
    dataset: str,
    split: str,
    rows: Mapping[str, str],
    scores: Mapping[Kind, Sequence[Scores]],
    comparable: str = "",
) -> Measured:
    """Score the fields that `rows` gives a label; several of one label are seeds.

    `scores` are scenes' scores of labelled meshes (3D), or of novel views (2D or
    colours, by what is asked of them); each has "scene" and "field". All fields must
    have been scored on the same scenes, or they could not stand in one table.
    """
    # Of some scenes no frame is held out: they have no views to be scored.
    seen = {
        kind: [row for row in given if kind == "3D" or row["frames"]]
        for kind, given in scores.items()
    }
    present = {kind: given for kind, given in seen.items() if given}
    if not present or not rows:
        raise ValueError("no scores and no rows make no table")
    scenes = {kind: _common_scenes(given, rows) for kind, given in present.items()}
    fields = tuple(_field(name, label, present) for name, label in rows.items())
    views = [*present.get("2D", ()), *present.get("colours", ())]
    said = protocol_of([row for row in views if row["field"] in rows]) if views else {}
    return Measured(dataset, split, scenes, fields, said, comparable)


def _common_scenes(scores: Sequence[Scores], names: Mapping[str, str]) -> int:
    """Count the scenes that all fields were scored on; refuse if they differ."""
    first, expected = "", []
    for name in names:
        found = sorted(row["scene"] for row in scores if row["field"] == name)
        if not found:
            raise BadInput(
                "scores",
                name,
                expected="scores of at least one scene",
                found="none",
                remedy="give its files, or take it off the table's rows",
            )
        if not first:
            first, expected = name, found
        if found != expected or len(set(found)) != len(found):
            raise BadInput(
                "scores",
                name,
                expected=f"the scenes of {first}, each once: {', '.join(expected)}",
                found=", ".join(found),
                remedy="score all fields of a table on the same scenes",
            )
    return len(expected)


def _field(field: str, label: str, present: Mapping[Kind, Sequence[Scores]]) -> Field:
    figures, classes, images = {}, {}, 0
    for kind, rows in present.items():
        own = [row for row in rows if row["field"] == field]
        if kind == "colours":
            frames = [frame for row in own for frame in row["frames"]]
            means = (mean_over_images(own, name) for name in _OF_IMAGES.values())
            figures |= dict(zip(_OF_IMAGES, means, strict=True))
            images = sum(frame["full_psnr_db"] is not None for frame in frames)
            continue
        counts = np.sum([row["confusion"] for row in own], axis=0, dtype=np.int64)
        scores = semantics.scannet_scores(counts)
        classes[kind] = scores["classes_scored"]
        figures |= {
            f"{kind} {name}": None if scores[key] is None else 100 * scores[key]
            for name, key in _MEASURES.items()
        }
        if kind == "2D":
            line = pooling.pooled(own)
            for name, pooled_by in _POOLINGS_2D.items():
                share = line[f"{pooled_by}_miou"]
                figures[name] = None if share is None else 100 * share
            images = sum(frame["pixels"] > 0 for row in own for frame in row["frames"])
    return Field(label, field, figures, classes, images)


def blocks(table: PublishedTable, ours: Measured) -> list[Block]:
    """Return the paper's table with our columns in it, and our fields one by one."""
    return [_beside_block(table, ours), _field_block(table, ours)]


def _beside_block(table: PublishedTable, ours: Measured) -> Block:
    differences = _comparable(table, ours)
    columns = [table.label, *table.facts, *map(_published_heading, table.columns)]
    columns += [_our_heading(table, quantity, ours) for quantity in ours.quantities]
    columns += [_difference_heading(table.columns[index]) for index in differences]
    lines = []
    for row in _all_rows(table, ours):
        line: list[str] = [row.shown, *row.facts]
        published = zip(table.columns, row.figures, strict=True)
        line += [_figure(figure, column) for column, figure in published]
        line += [
            _ours(ours.values(row.label, name), _column(table, name))
            for name in ours.quantities
        ]
        line += [
            _signed(_difference(table, row, index, ours), table.columns[index])
            for index in differences
        ]
        lines.append(line)
    title = f"{table.source}: {table.caption} ({_named_protocols(ours)})"
    return Block(title, _protocol(table, ours), columns, lines)


def _field_block(table: PublishedTable, ours: Measured) -> Block:
    columns = [table.label, "field"]
    for kind in ours.scenes:
        columns += [f"{kind} scenes"] + (["images"] if kind != "3D" else [])
        columns += [f"{kind} classes scored"] if kind != "colours" else []
        columns += [_with_unit(_column(table, name)) for name in _quantities(kind)]
    shown = {row.label: row.shown for row in table.rows}
    lines = []
    for field in ours.fields:
        line: list[Any] = [shown.get(field.label, field.label), field.name]
        for kind in ours.scenes:
            line += [ours.scenes[kind]] + ([field.images] if kind != "3D" else [])
            line += [field.classes_scored[kind]] if kind != "colours" else []
            names = _quantities(kind)
            line += [_figure(field.figures[n], _column(table, n)) for n in names]
        lines.append(line)
    where = f"{ours.dataset} {ours.split}"
    about = f"All of it measured here, on {where}. {_units(ours)}Protocol as above."
    title = f"Ours, field by field, {where} ({_named_protocols(ours)})"
    return Block(title, about, columns, lines)


def _named_protocols(ours: Measured) -> str:
    """Name in a title the protocols of our figures, which stand below in words."""
    names = {
        "3D": "3D: nearest vertex, IoU pooled over the data set",
        "2D": "2D: IoU pooled over the data set",
        "colours": "colours: {image_quality}",
    }
    parts = [names[kind].format(**ours.said) for kind in ours.scenes]
    if ours.said:
        parts.append("views: {views}".format(**ours.said))
    return f"ours by {'; '.join(parts)}"


@dataclass(frozen=True)
class Seconds:
    """How long the jobs of a method took; `None` of what it does not need."""

    rendering: float | None  # of a scene's frames, the mean of all
    training: float | None = None  # once, on the training split
    fitting: float | None = None  # to a scene, the mean of all


def cost_block(
    table: PublishedTable, ours: Measured, seconds: Mapping[str, Seconds]
) -> Block:
    """Return what the fields that were timed took, in minutes."""
    shown = {row.label: row.shown for row in table.rows}
    lines = []
    for field in ours.fields:
        if field.name in seconds:
            own = seconds[field.name]
            both = [own.fitting, own.rendering]
            total = sum(each for each in both if each is not None)
            label = shown.get(field.label, field.label)
            numbers = map(_minutes, [own.training, *both, total])
            lines.append([label, field.name, *numbers])
    return Block(
        "Ours, time",
        "Minutes of wall clock of whole jobs, start-up included, as Snakemake measured "
        "the last run of each; of scenes, the mean. A new scene takes fitting and "
        "rendering of the frames above. What all are given is not counted: frames, and "
        "what the prior makes of them.",
        [table.label, "field", "training, once", "fitting, a scene",
         "rendering, a scene", "a new scene"],
        lines,
    )  # fmt: skip


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"


def figure_lines(
    name: str, table: PublishedTable, ours: Measured
) -> list[dict[str, Any]]:
    """Give every figure, published or ours, a line of its own, with its unit."""
    return [
        {"table": name, "label": row.label} | figure
        for row in _all_rows(table, ours)
        for figure in (*_published_lines(table, row), *_our_lines(table, row, ours))
    ]


def _published_lines(table: PublishedTable, row: Row) -> Iterator[dict[str, Any]]:
    for column, figure in zip(table.columns, row.figures, strict=True):
        if figure is not None:
            yield {
                "origin": "published", "dataset": column.dataset,
                "split": column.split, "scenes": column.scenes,
                "quantity": column.quantity, "unit": column.unit, "figure": figure,
            }  # fmt: skip


def _our_lines(
    table: PublishedTable, row: Row, ours: Measured
) -> Iterator[dict[str, Any]]:
    for quantity in ours.quantities:
        values = ours.values(row.label, quantity)
        if not values:
            continue
        yield {
            "origin": "ours", "dataset": ours.dataset, "split": ours.split,
            "scenes": ours.scenes[_kind(quantity)], "quantity": quantity,
            "unit": _column(table, quantity).unit, "figure": mean_of_known(values),
            "lowest": min(values), "highest": max(values), "fields": len(values),
            "ours_minus_published": next((
                _difference(table, row, index, ours)
                for index in _comparable(table, ours)
                if table.columns[index].quantity == quantity
            ), None),
        }  # fmt: skip


def reason(table: PublishedTable, column: Column, ours: Measured) -> str:
    """Say why ours cannot be held against a published column; "" if it can."""
    if column.quantity not in ours.quantities:
        return f"{column.quantity} was not measured"
    if column.dataset != ours.comparable:
        return f"{ours.dataset} is another data set than {column.dataset}"
    if table.obstacle:
        return table.obstacle
    if column.split != ours.split:
        return f"ours is the {ours.split} split"
    scenes = ours.scenes[_kind(column.quantity)]
    if scenes != column.scenes:
        return f"ours are {_count(scenes, 'scene')}, the published {column.scenes}"
    return ""


def _comparable(table: PublishedTable, ours: Measured) -> list[int]:
    """Return the published columns that ours can be held against."""
    columns = enumerate(table.columns)
    return [index for index, column in columns if not reason(table, column, ours)]


def _all_rows(table: PublishedTable, ours: Measured) -> list[Row]:
    """Return the published rows and those that only we have; numbers in order."""
    known = {row.label for row in table.rows}
    own = dict.fromkeys(f.label for f in ours.fields if f.label not in known)
    blank = (None,) * len(table.columns), ("-",) * len(table.facts)
    rows = [*table.rows, *(Row(label, *blank) for label in own)]
    if all(row.label.isdecimal() for row in rows):
        rows.sort(key=lambda row: int(row.label))
    return rows


def _difference(
    table: PublishedTable, row: Row, index: int, ours: Measured
) -> float | None:
    """Return ours (the mean) minus a published figure, in the column's unit."""
    published = row.figures[index]
    mean = mean_of_known(ours.values(row.label, table.columns[index].quantity))
    return None if published is None or mean is None else mean - published


def _protocol(table: PublishedTable, ours: Measured) -> str:
    published = f"Published: {_published_protocol(table)}."
    parts = [f"{_units(ours)}{published}", table.remark]
    rules: dict[Kind, str]
    rules = {"3D": _PROTOCOL_3D, "2D": _PROTOCOL_2D, "colours": _PROTOCOL_COLOURS}
    own = "; ".join(rules[kind] for kind in ours.scenes)
    parts.append(f"Ours: measured here. {own}.")
    if ours.said:
        parts.append(f"{ours.said['views_words']}.")
    if "colours" in ours.scenes:
        parts.append(ours.said["image_words"])
    if ours.scenes.keys() & {"3D", "2D"}:
        parts.append(f"{_RULE}.")
    labels = [field.label for field in ours.fields]
    if len(set(labels)) < len(labels):
        parts.append(
            "Several fields in one row (seeds): mean (lowest..highest), each field by "
            "itself below."
        )
    parts += _verdict(table, ours)
    return " ".join(filter(None, parts))


def _verdict(table: PublishedTable, ours: Measured) -> list[str]:
    """Say which columns ours cannot be held against and why, each reason once."""
    barred: dict[str, list[str]] = {}
    for column in table.columns:
        if why := reason(table, column, ours):
            barred.setdefault(why, []).append(_named(column))
    parts = []
    for why, names in barred.items():
        these = "" if len(names) == len(table.columns) else f" with {', '.join(names)}"
        parts.append(f"NOT COMPARABLE{these}: {why}.")
    if _comparable(table, ours):
        parts.append("Difference: ours minus published.")
    return parts


def _published_protocol(table: PublishedTable) -> str:
    return "; ".join(filter(None, [f"as {table.source} prints it", table.protocol]))


def _named(column: Column) -> str:
    called = f" ({column.called})" if column.called else ""
    return f"{column.dataset} {column.split}{called} {column.quantity}"


def _published_heading(column: Column) -> str:
    called = f", {column.called}" if column.called else ""
    where = f"{column.dataset} {column.split}{called}"
    return f"published, {where}: {_with_unit(column)}"


def _our_heading(table: PublishedTable, quantity: str, ours: Measured) -> str:
    data = {column.dataset for column in table.columns}
    other = "" if ours.comparable in data else ", another data set"
    return (
        f"ours, {ours.place(quantity)}{other}: {_with_unit(_column(table, quantity))}"
    )


def _difference_heading(column: Column) -> str:
    where = f"{column.dataset} {column.split}"
    return f"ours - published, {where}: {_with_unit(column)}"


def _quantities(kind: Kind) -> list[str]:
    """Return what is measured of a kind."""
    if kind == "colours":
        return [*COLOR_SCORES]
    further = [*_POOLINGS_2D] if kind == "2D" else []
    return [f"{kind} {name}" for name in _MEASURES] + further


def _kind(quantity: str) -> Kind:
    if quantity in COLOR_SCORES:
        return "colours"
    return "3D" if quantity.startswith("3D") else "2D"


def _column(table: PublishedTable, quantity: str) -> Column:
    """Return the column whose unit and decimals figures of a quantity have."""
    columns = (column for column in table.columns if column.quantity == quantity)
    return next(columns, Column(quantity, "", "", None))


def _with_unit(column: Column) -> str:
    """Name a quantity; of shares a table says once that they are in percent."""
    plain = column.unit in ("", "percent")
    return column.quantity if plain else f"{column.quantity} ({column.unit})"


def _units(ours: Measured) -> str:
    return "" if "colours" in ours.scenes else "Scores in percent. "


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _figure(value: float | None, column: Column) -> str:
    return "-" if value is None else f"{value:.{column.decimals}f}"


def _signed(value: float | None, column: Column) -> str:
    return "-" if value is None else f"{value:+.{column.decimals}f}"


def _ours(values: Sequence[float], column: Column) -> str:
    mean = _figure(mean_of_known(values), column)
    if len(values) < 2:
        return mean
    return f"{mean} ({_figure(min(values), column)}..{_figure(max(values), column)})"


def plain_text(block: Block) -> str:
    """Write a table for a terminal, with its headings wrapped."""
    headings = [textwrap.wrap(name, _TEXT_COLUMN) for name in block.columns]
    height = max(map(len, headings))
    stacked = [[""] * (height - len(words)) + words for words in headings]
    cells = [list(line) for line in zip(*stacked, strict=True)]
    cells += [[str(value) for value in row] for row in block.rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    body = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    body.insert(height, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    title = textwrap.fill(block.title, 88)
    return "\n".join([title, "", *body, "", textwrap.fill(block.protocol, 88)])
