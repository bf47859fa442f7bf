"""The labelled mesh of a scene: what `extract_mesh` writes and evaluation reads.

A PLY that any viewer opens. Vertices are in world metres; `red green blue` is the
colour, `label` the class id 0..19 (255 = no class), `confidence` the winner's share of
the vote. Comment lines carry scene, fingerprint and provenance.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gnesf_core.data.ply import read_ply, write_ply
from gnesf_core.data.publish import publish, verify
from gnesf_core.errors import BadInput
from gnesf_core.shapes import Float32, Int32, UInt8

_MARK = "gnesf "
_LONGEST_COMMENT = 900  # bytes: Open3D dies of lines of more than 1,023


@dataclass(frozen=True)
class LabelledMesh:
    """A surface with a class, a confidence and a colour at every vertex."""

    vertices_world: Float32[np.ndarray, "n 3"]
    faces: Int32[np.ndarray, "m 3"]
    label: UInt8[np.ndarray, " n"]
    confidence: Float32[np.ndarray, " n"]
    color: UInt8[np.ndarray, "n 3"]


def write_mesh(
    path: Path, scene: str, mesh: LabelledMesh, made_by: Mapping[str, Any]
) -> None:
    """Publish a labelled mesh."""
    vertex = {
        "red": mesh.color[:, 0],
        "green": mesh.color[:, 1],
        "blue": mesh.color[:, 2],
        "label": mesh.label,
        "confidence": mesh.confidence,
    }
    digest = hashlib.sha256()
    for values in (mesh.vertices_world, mesh.faces, *vertex.values()):
        digest.update(np.ascontiguousarray(values).data)
    about = {"scene": scene, "fingerprint": digest.hexdigest(), "provenance": made_by}
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))  # ASCII
    text = text.replace(" ", r"\u0020")  # readers strip the ends of a line
    starts = range(0, len(text), _LONGEST_COMMENT)
    comments = tuple(_MARK + text[at : at + _LONGEST_COMMENT] for at in starts)
    with publish(path) as temporary:
        write_ply(
            temporary, mesh.vertices_world, mesh.faces, vertex=vertex, comments=comments
        )


def read_mesh(path: Path) -> tuple[LabelledMesh, dict[str, Any]]:
    """Read a labelled mesh of ours and what it says about itself."""
    complaint = verify(path)
    about = None
    if complaint is None:
        ply = read_ply(path)
        marked = [line for line in ply.comments if line.startswith(_MARK)]
        text = "".join(line.removeprefix(_MARK) for line in marked)
        about = json.loads(text) if marked else None
        complaint = ("header", "no such comment") if about is None else None
    if complaint is not None:
        raise BadInput(
            path,
            complaint[0],
            expected="a labelled mesh as it was published",
            found=complaint[1],
            remedy="delete the file and run snakemake again",
        )
    names = ("red", "green", "blue")
    mesh = LabelledMesh(
        ply.vertices.astype(np.float32),
        ply.faces,
        ply.vertex["label"],
        ply.vertex["confidence"],
        np.stack([ply.vertex[name] for name in names], axis=1),
    )
    return mesh, about


def expect_input(
    path: Path, about: Mapping[str, Any], role: str, fingerprint: str
) -> None:
    """Refuse a mesh that was made from another `role` than the given one."""
    recorded = str(about["provenance"]["inputs"].get(role))
    if recorded != fingerprint:
        raise BadInput(
            path,
            f"input {role}",
            expected=f"fingerprint {fingerprint[:12]}",
            found=f"made from {recorded[:12]}",
            remedy="delete the file and run snakemake again",
        )
