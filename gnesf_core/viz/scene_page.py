"""A web page that holds a labelled mesh and lets one walk around it, offline.

The page draws with three.js, which trimesh brings along for its own viewer. Reports
hold many pages, so the mesh is packed as what changes from one number to the next: a
third of the bytes of a zipped GLB.
"""

import base64
import gzip
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gnesf_core.data.meshes import LabelledMesh
from gnesf_core.shapes import Integer, UInt8

_TEMPLATE = Path(__file__).with_suffix(".html")
_MM = 1000  # per metre: places are rounded to millimetres
_SURE = 255  # of a byte of confidence


def scene_page(
    title: str,
    about: Mapping[str, Any],
    mesh: LabelledMesh,
    truth: UInt8[np.ndarray, " n"] | None = None,
) -> str:
    """Return one HTML file that needs no other.

    Args:
        title: Of the page.
        about: `classes` and `verdicts` (right, wrong, not judged) as `name` and
            `color`, the last class standing for none; `confidence`, colours of 0 to 1;
            and a `note`.
        mesh: What is shown.
        truth: The true class of each vertex, where it is known.
    """
    columns = [*np.rint(_MM * mesh.vertices_world.T), *mesh.faces.T, mesh.label]
    columns += [np.rint(_SURE * mesh.confidence), *mesh.color.T]
    columns += [] if truth is None else [truth]
    counts = {"vertices": len(mesh.vertices_world), "triangles": len(mesh.faces)}
    counts["judged"] = truth is not None
    # Inside a script element only "<" could end it.
    facts = json.dumps({**about, **counts}, sort_keys=True).replace("<", r"\u003c")
    parts = {
        "[TITLE]": html.escape(title),
        "[ABOUT]": facts,
        "[MESH]": _zipped(b"".join(_steps(c.astype(np.int32)) for c in columns)),
        "[LIBRARY]": _zipped(_three_js().encode()),
    }
    # All at once, so that no part can stand in for another.
    places = re.compile("|".join(map(re.escape, parts)))
    return places.sub(lambda found: parts[found[0]], _TEMPLATE.read_text())


def _steps(column: Integer[np.ndarray, " n"]) -> bytes:
    """Return each number less the one before, all lowest bytes first.

    Signs are moved to the lowest bit, so that small steps have high bytes of zero.
    """
    step = np.diff(column, prepend=np.int32(0))
    step = (step << 1) ^ (step >> 31)
    return step.astype("<i4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _zipped(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _three_js() -> str:
    """Cut three.js, its controls and its glTF reader out of trimesh's viewer."""
    import trimesh
    from trimesh.viewer.notebook import scene_to_html

    viewer = scene_to_html(trimesh.Scene(trimesh.creation.box()))
    script = viewer.partition("<script>")[2]
    library, start, _ = script.partition("var camera,controls,scene")
    if not start:
        raise RuntimeError(
            f"the viewer of trimesh {trimesh.__version__} is another one"
        )
    return library
