"""Tables for people, each with the protocol of its numbers: Markdown and HTML."""

import base64
import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnesf_core.evaluation.depth import ERRORS

_HTML_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 sans-serif; max-width: 70em; margin: 1em auto; padding: 0 1em }}
div {{ overflow-x: auto }}
table {{ border-collapse: collapse }}
th, td {{ padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd }}
th {{ vertical-align: bottom }}
p {{ max-width: 50em; color: #444 }}
/* A wide table is pulled along below its first column, a wide picture whole. */
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0;
  background: #fff }}
/* Of two columns the second is words. */
:is(th, td):nth-child(2):last-child {{ text-align: left; overflow-wrap: anywhere }}
img {{ width: 100%; min-width: 62em }}
@media (max-width: 600px) {{
  h1 {{ font-size: 1.5em }}
  img {{ min-width: 80em }}
}}
</style>
<h1>{title}</h1>"""


@dataclass(frozen=True)
class Block:
    """One table with the protocol of its numbers."""

    title: str
    protocol: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    jpeg: bytes = b""  # shown below the table, on HTML pages


WORST_SCENES = 10  # of each competitor, in a list of scenes
DEPTH_SCORES = (*ERRORS, "completeness")


def scored(line: Mapping[str, Any], name: str) -> str:
    """Say how many scenes entered a mean: failures must not flatter it unseen."""
    return f"{line[name]} of {line['scenes']}"


def depth_block(kind: str, lines: Sequence[Mapping[str, Any]]) -> Block:
    """Tabulate the depth scores of whatever `kind` is compared."""
    return Block(
        "Depth",
        "Protocol: depth cast off the surface against the sensor's, over all kept "
        "frames; mean over frames, then scenes. Completeness: share of measured pixels "
        "with a prediction, over all scenes; errors: over those with one.",
        [kind, "scenes", *(name.replace("_", " ") for name in DEPTH_SCORES)],
        [
            [line[kind], scored(line, "depth_scenes_scored")]
            + [fixed(line[f"depth_{name}"]) for name in DEPTH_SCORES]
            for line in lines
        ],
    )


def markdown(title: str, tables: Sequence[Block]) -> str:
    """Write tables as one Markdown page."""
    parts = [f"# {title}"]
    for table in tables:
        lines = [table.columns, ["---"] * len(table.columns), *table.rows]
        body = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
        text = textwrap.fill(table.protocol, 88)
        parts.append("\n\n".join(filter(None, [f"## {table.title}", text, body])))
    return "\n\n".join(parts) + "\n"


def html_page(title: str, tables: Sequence[Block]) -> str:
    """Write tables as one HTML page that needs nothing else."""
    return _HTML_HEAD.format(title=html.escape(title)) + "\n" + html_part(tables)


def html_part(tables: Sequence[Block]) -> str:
    """Write tables as a part of a page."""
    parts = []
    for table in tables:
        parts.append(f"<h2>{html.escape(table.title)}</h2>")
        parts.append(f"<p>{html.escape(table.protocol)}</p>" if table.protocol else "")
        parts.append("<div><table>" + _html_row("th", table.columns))
        parts.extend(_html_row("td", row) for row in table.rows)
        parts.append("</table></div>")
        if table.jpeg:
            data = base64.b64encode(table.jpeg).decode()
            about = html.escape(table.title)
            picture = f'<img alt="{about}" src="data:image/jpeg;base64,{data}">'
            parts.append(f"<div>{picture}</div>")
    return "\n".join(parts) + "\n"


def _html_row(tag: str, values: Sequence[Any]) -> str:
    cells = "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)
    return f"<tr>{cells}</tr>"


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are there, or `None`."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def percent(value: float | None) -> str:
    """Write a share in percent, one decimal; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def fixed(value: float | None) -> str:
    """Write a number with three decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"
