"""ScanNet's mesh annotation: segments of a mesh, objects made of segments.

Both files are JSON from outside: bounded in size, plain integers only, and a segment
that one of them names must exist in the other, so that an aggregation of the full
mesh cannot be taken for one of the decimated mesh.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gnesf_core.data.bounded import read_bounded
from gnesf_core.errors import BadInput
from gnesf_core.labels import LabelMap
from gnesf_core.shapes import Int32, Integer, UInt16

_MAX_BYTES = 64 << 20  # of the largest meshes of ScanNet: some 5 MB
_MAX_ID = 2**31 - 1
_REMEDY = "fetch the file again from ScanNet; both files belong to _vh_clean_2.ply"


@dataclass(frozen=True)
class SegmentGroup:
    """One annotated object."""

    object_id: int
    label: str  # raw category
    segments: tuple[int, ...]


def read_segments(
    path: Path, vertex_count: int | None = None
) -> Int32[np.ndarray, " vertices"]:
    """Return the segment of every vertex of the mesh.

    Raises:
        BadInput: The file is damaged or is not of a mesh with `vertex_count` vertices.
    """
    payload = _read_object(path)
    segments = _integers(path, "segIndices", payload.get("segIndices"))
    if vertex_count is not None and len(segments) != vertex_count:
        _fail(path, "segIndices", f"{vertex_count} entries", len(segments))
    return segments


def write_segments(
    path: Path, scene: str, segments: Integer[np.ndarray, " vertices"]
) -> None:
    """Write the segment of every vertex in ScanNet's layout."""
    payload = {
        "params": {"kThresh": "0.01", "segMinVerts": "20"},
        "sceneId": scene,
        "segIndices": segments.tolist(),
    }
    Path(path).write_text(json.dumps(payload, separators=(",", ":")))


def read_aggregation(path: Path) -> tuple[SegmentGroup, ...]:
    """Return the annotated objects of a scan."""
    payload = _read_object(path)
    segments_file = payload.get("segmentsFile", "")
    if isinstance(segments_file, str) and segments_file.endswith("_vh_clean.segs.json"):
        _fail(path, "segmentsFile", "an aggregation of _vh_clean_2", segments_file)
    groups = payload.get("segGroups")
    if not isinstance(groups, list):
        _fail(path, "segGroups", "a list", type(groups).__name__)
    return tuple(_group(path, f"segGroups[{i}]", g) for i, g in enumerate(groups))


def write_aggregation(path: Path, scene: str, groups: Sequence[SegmentGroup]) -> None:
    """Write the annotated objects in ScanNet's layout."""
    payload = {
        "sceneId": f"scannet.{scene}",
        "appId": "Aggregator.v2",
        "segGroups": [
            {
                "id": index,
                "objectId": group.object_id,
                "segments": list(group.segments),
                "label": group.label,
            }
            for index, group in enumerate(groups)
        ],
        "segmentsFile": f"scannet.{scene}_vh_clean_2.0.010000.segs.json",
    }
    Path(path).write_text(json.dumps(payload))


def nyu40_from_aggregation(
    segments: Integer[np.ndarray, " vertices"],
    groups: Sequence[SegmentGroup],
    label_map: LabelMap,
    path: Path | str = "aggregation",
) -> tuple[UInt16[np.ndarray, " vertices"], Int32[np.ndarray, " vertices"]]:
    """Return each vertex's nyu40 id and object, by the benchmark's export rule.

    An object's raw category gives the nyu40 id of all vertices of its segments; what
    no object claims is 0, unannotated, in both. Of two objects with the same segment
    the later one has it.

    Args:
        segments: The segment of every vertex.
        groups: The annotated objects.
        label_map: The meaning of raw categories.
        path: The aggregation file, for messages.

    Returns:
        nyu40 ids and instance ids, which are objectId + 1.
    """
    known, segment_of_vertex = np.unique(segments, return_inverse=True)
    nyu40 = np.zeros(len(known), np.uint16)
    instance = np.zeros(len(known), np.int32)
    for index, group in enumerate(groups):
        place = f"segGroups[{index}]"
        wanted = np.asarray(group.segments, np.int64)
        missing = wanted[~np.isin(wanted, known)]
        if len(missing):
            _fail(path, place, "segments of this mesh", f"segment {missing[0]}")
        category = group.label.strip()
        if category not in label_map.nyu40_from_category:
            raise BadInput(
                path,
                place,
                expected="a raw category of the label map",
                found=repr(category[:80]),
                remedy="use the current scannetv2-labels.combined.tsv",
            )
        rows = np.searchsorted(known, wanted)
        nyu40[rows] = label_map.nyu40_from_category[category]
        instance[rows] = group.object_id + 1
    return nyu40[segment_of_vertex], instance[segment_of_vertex]


def _fail(path: Path | str, place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(path, place, expected=expected, found=found, remedy=_REMEDY)


def _read_object(path: Path) -> dict[str, Any]:
    """Parse a bounded JSON object without duplicate keys and non-numbers."""
    data = read_bounded(path, _MAX_BYTES, _REMEDY)
    try:
        payload = json.loads(
            data.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    except RecursionError:
        _fail(path, "JSON", "shallow nesting", "too many levels")
    except ValueError as error:
        _fail(path, "JSON", "a JSON document", str(error)[:200])
    if not isinstance(payload, dict):
        _fail(path, "JSON", "an object", type(payload).__name__)
    return payload


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key is there twice")
    return unique


def _integers(path: Path, place: str, values: object) -> Int32[np.ndarray, " n"]:
    """Return a list of JSON integers; checks types first, which bounds the array."""
    if not isinstance(values, list):
        _fail(path, place, "a list of integers", type(values).__name__)
    for value in values:
        if type(value) is not int or not 0 <= value <= _MAX_ID:
            _fail(path, place, f"integers in 0..{_MAX_ID}", repr(value)[:80])
    return np.array(values, np.int32)


def _group(path: Path, place: str, group: object) -> SegmentGroup:
    if not isinstance(group, dict) or not isinstance(group.get("label"), str):
        _fail(path, place, "an object with a label", repr(group)[:80])
    object_id = _integers(path, f"{place}.objectId", [group.get("objectId")])
    if object_id[0] == _MAX_ID:
        _fail(path, f"{place}.objectId", "an id", object_id[0])
    segments = _integers(path, f"{place}.segments", group.get("segments"))
    return SegmentGroup(int(object_id[0]), group["label"], tuple(segments.tolist()))
