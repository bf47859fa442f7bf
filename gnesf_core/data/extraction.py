"""Decide which frames of a scan can be used and kept, and copy those into a store.

Usable is decided here, once, for every raw frame: a finite rigid pose, a colour image
that decodes, and, in scans with a depth camera, a depth image with at least one
measurement. Later stages trust it.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gnesf_core.config import FramesConfig
from gnesf_core.data import images, store
from gnesf_core.data.keyframes import select_key_frames
from gnesf_core.data.scan import CaptureWorld, Scan
from gnesf_core.errors import BadInput
from gnesf_core.geometry.camera import is_rigid
from gnesf_core.shapes import UInt8

log = logging.getLogger(__name__)

_NOT_FINITE, _NOT_RIGID, _NO_COLOR, _BAD_COLOR, _NO_DEPTH, _BAD_DEPTH = range(1, 7)


@runtime_checkable
class LabelSource(Protocol):
    """2D class labels of a scan's frames."""

    def read(self, index: int) -> UInt8[np.ndarray, "h w"] | None:
        """Return class ids of one raw frame, or None where it has no label image."""
        ...


def examine(scan: Scan) -> UInt8[np.ndarray, " raw"]:
    """Give every raw frame its status, an index into `store.FRAME_STATUS`.

    Depth is inflated in full. Colour is checked by its structure and declared size;
    `select` probes the frames that it chooses, which costs far more.
    """
    status = np.zeros(scan.info.frame_count, np.uint8)
    for index in range(scan.info.frame_count):
        status[index] = _frame_status(scan, index)
    return status


def _frame_status(scan: Scan, index: int) -> int:
    world_from_camera = scan.world_from_camera[index]
    if not np.isfinite(world_from_camera).all():
        return _NOT_FINITE
    if not is_rigid(world_from_camera):
        return _NOT_RIGID
    info = scan.info
    try:
        color = scan.color_bytes(index)
        if not color:
            return _NO_COLOR
        images.check_color(
            color,
            info.color_encoding,
            info.color_width,
            info.color_height,
            (info.path, f"colour of frame {index}"),
        )
    except BadInput as error:
        log.warning("%s", error)
        return _BAD_COLOR
    if not info.has_depth:
        return store.USABLE
    if not scan.depth_bytes(index):
        return _NO_DEPTH
    try:
        depth = scan.decode_depth(index)
    except BadInput as error:
        log.warning("%s", error)
        return _BAD_DEPTH
    measured = (depth != 0) & (depth != store.INVALID_DEPTH)
    return store.USABLE if measured.any() else _NO_DEPTH


def select(
    scan: Scan, status: UInt8[np.ndarray, " raw"], config: FramesConfig
) -> store.Selection:
    """Choose key frames and views among the usable frames.

    A chosen frame whose colour turns out not to decode gets its status in place, and
    the choice is made again without it.
    """
    decoded: set[int] = set()
    while True:
        chosen = _choose(scan, status == store.USABLE, config)
        fresh = [int(index) for index in chosen.index if int(index) not in decoded]
        spoilt = [index for index in fresh if not _color_decodes(scan, index)]
        status[spoilt] = _BAD_COLOR
        decoded.update(fresh)
        if not spoilt:
            return chosen


def _choose(scan: Scan, usable: np.ndarray, config: FramesConfig) -> store.Selection:
    keys = select_key_frames(scan.world_from_camera, usable, config)
    views = np.zeros(0, np.int64)
    if config.view_stride:
        views = np.arange(config.view_offset, len(usable), config.view_stride)
        views = views[usable[views]]
    index = np.union1d(keys.indices, views).astype(np.int64)
    # Fragments count key frames; the store counts kept frames.
    position = np.searchsorted(index, keys.indices)
    fragments = np.full(keys.fragments.shape, -1, np.int64)
    present = keys.fragments >= 0
    fragments[present] = position[keys.fragments[present]]
    return store.Selection(
        index, np.isin(index, keys.indices), np.isin(index, views), fragments
    )


def _color_decodes(scan: Scan, index: int) -> bool:
    info = scan.info
    try:
        images.probe_color(
            scan.color_bytes(index),
            info.color_encoding,
            info.color_width,
            info.color_height,
            (info.path, f"colour of frame {index}"),
        )
    except BadInput as error:
        log.warning("%s", error)
        return False
    return True


def extract(
    path: Path,
    scan: Scan,
    scene: str,
    labels: LabelSource | None,
    config: FramesConfig,
    made_by: Mapping[str, Any],
    world: CaptureWorld | None = None,
) -> store.Selection:
    """Write the `frames` file of one scan; `world` says how it was moved, if it was."""
    status = examine(scan)
    selection = select(scan, status, config)
    _report(scan, status, selection)
    if not len(selection.index):
        reasons = ", ".join(
            f"{int(n)} x {store.FRAME_STATUS[code]}"
            for code, n in enumerate(np.bincount(status))
            if n
        )
        raise BadInput(
            scan.info.path,
            "frames",
            expected="at least one usable frame",
            found=reasons or "no frames",
            remedy="take the scene out of its list, or get the scan again",
        )
    unlabelled = 0
    with store.write_frames(
        path,
        scene,
        scan.info,
        scan.world_from_camera,
        status,
        selection,
        labels is not None,
        made_by,
        world,
    ) as writer:
        for index in selection.index.tolist():
            label = labels.read(index) if labels is not None else None
            if labels is not None and label is None:
                unlabelled += 1
                label = _all_ignored(scan)
            writer.add(scan.color_bytes(index), _depth_to_store(scan, index), label)
        if unlabelled == len(selection.index):
            raise BadInput(
                scan.info.path,
                "label images",
                expected="one for at least some of the kept frames",
                found="none",
                remedy="take the label archive that belongs to this scan",
            )
        scan.check_unchanged()
    if unlabelled:
        log.warning("%s: %d kept frames have no label image", scene, unlabelled)
    return selection


def _all_ignored(scan: Scan) -> UInt8[np.ndarray, "h w"]:
    return np.full((scan.info.color_height, scan.info.color_width), 255, np.uint8)


def _depth_to_store(scan: Scan, index: int) -> bytes | np.ndarray | None:
    """Hand a zlib stream over as it is; decode what the store cannot copy."""
    if not scan.info.has_depth:
        return None
    if scan.info.depth_encoding == "zlib":
        return scan.depth_bytes(index)
    return scan.decode_depth(index)


def _report(
    scan: Scan, status: UInt8[np.ndarray, " raw"], selection: store.Selection
) -> None:
    for code, count in enumerate(np.bincount(status)):
        if count and code != store.USABLE:
            log.info("left out %d frames: %s", count, store.FRAME_STATUS[code])
    log.info(
        "kept %d of %d frames: %d key frames in %d fragments, %d views",
        len(selection.index),
        scan.info.frame_count,
        selection.is_key.sum(),
        len(selection.fragments),
        selection.is_view.sum(),
    )
