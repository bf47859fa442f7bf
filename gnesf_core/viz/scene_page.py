"""A web page that holds a labelled mesh and lets one walk around it, offline.

The page draws with three.js, which trimesh brings along for its own viewer.
"""

import base64
import gzip
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TEMPLATE = Path(__file__).with_suffix(".html")


def scene_page(title: str, about: Mapping[str, Any], glb: bytes) -> str:
    """Return one HTML file that needs no other.

    Args:
        title: Of the page.
        about: `classes` and `verdicts` (right, wrong, not judged) as `name` and
            `color`, the last class standing for none; `confidence`, colours of 0 to 1;
            and a `note`.
        glb: The mesh, with the attributes `_CLASS`, `_CONFIDENCE`, `_PHOTO` and, where
            the truth is known, `_TRUTH`.
    """
    # Inside a script element only "<" could end it.
    facts = json.dumps(about, sort_keys=True).replace("<", r"\u003c")
    packed = gzip.compress(glb, 9, mtime=0)
    parts = {
        "[TITLE]": html.escape(title),
        "[ABOUT]": facts,
        "[MESH]": base64.b64encode(packed).decode(),
        "[LIBRARY]": _three_js(),
    }
    # All at once, so that no part can stand in for another.
    places = re.compile("|".join(map(re.escape, parts)))
    return places.sub(lambda found: parts[found[0]], _TEMPLATE.read_text())


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
