"""Stream the depth of a whole scan into a TSDF pyramid, memory flat."""

import logging
from collections.abc import Iterator

import numpy as np

from gnesf_core.config import TargetsConfig
from gnesf_core.data import store
from gnesf_core.data.scan import Scan
from gnesf_core.errors import BadInput
from gnesf_core.geometry import tsdf
from gnesf_core.geometry.grid import Grid
from gnesf_core.progress import Progress
from gnesf_core.shapes import Float32, Float64, Int64

log = logging.getLogger(__name__)

_BATCH = 16  # frames per call of `fuse`: a block of voxels stays in cache meanwhile


def fuse_scan(
    scan: Scan, frames: store.Frames, config: TargetsConfig, device: str = "cpu"
) -> list[store.DistanceGrid]:
    """Fuse every usable frame of `scan`; finest level first.

    Poses are those of `frames`, which has them upright and in metres.
    """
    _check_same(scan, frames)
    if not frames.has_depth:
        raise BadInput(
            scan.info.path,
            "depth",
            expected="depth images",
            found="a capture without any",
            remedy="use a geometry that needs none: neucon, plane_sweep",
        )
    usable = np.flatnonzero(frames.raw_status == store.USABLE)
    lower, upper = _bounds(scan, frames, config.max_depth_m)
    volumes = [
        tsdf.TsdfVolume.empty(
            grid,
            config.truncation_voxels * grid.voxel_size_m,
            None if device == "cpu" else device,
        )
        for grid in _grids(scan, lower, upper, config)
    ]
    progress, done = Progress("frames", len(usable)), 0
    for depth_m, part in _batches(scan, usable):
        poses = frames.raw_world_from_camera[part]
        tsdf.fuse(
            volumes, depth_m, scan.info.depth_intrinsics, poses, config.max_depth_m
        )
        done += len(poses)
        progress.tell(done)
    scan.check_unchanged()
    log.info("fused %d frames into %s voxels", done, volumes[0].grid.shape)
    return [_level(volume) for volume in volumes]


def _grids(
    scan: Scan,
    lower: Float64[np.ndarray, " 3"],
    upper: Float64[np.ndarray, " 3"],
    config: TargetsConfig,
) -> list[Grid]:
    try:
        return tsdf.pyramid_grids(lower, upper, config)
    except ValueError as error:
        raise BadInput(
            scan.info.path,
            "poses and depth",
            expected="a scene that fits into memory",
            found=error,
            remedy="look for frames with stray poses; or raise targets.voxel_size_m",
        ) from None


def _check_same(scan: Scan, frames: store.Frames) -> None:
    """Refuse a scan that the frames were not taken from."""
    recorded, found = frames.provenance["inputs"].get("scan"), scan.sha256()
    if found != recorded:
        raise BadInput(
            scan.info.path,
            "content",
            expected=f"the scan that {frames.path} was made from",
            found=f"SHA-256 {found[:12]}... instead of {str(recorded)[:12]}...",
            remedy="delete the frames file and run snakemake again",
        )


def _bounds(
    scan: Scan, frames: store.Frames, max_depth_m: float
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
    """Enclose all measured points of the kept frames.

    What a frame between two key frames sees, one of them saw too but for a rim, for
    which the volume has a margin of a coarse truncation.
    """
    lower, upper = np.full(3, np.inf), np.full(3, -np.inf)
    for index, world_from_camera in zip(
        frames.index.tolist(), frames.world_from_camera, strict=True
    ):
        low, high = tsdf.depth_bounds(
            _depth_m(scan, index),
            scan.info.depth_intrinsics,
            world_from_camera,
            max_depth_m,
        )
        lower, upper = np.fmin(lower, low), np.fmax(upper, high)
    if not np.isfinite(lower).all():
        raise BadInput(
            scan.info.path,
            "depth",
            expected=f"measurements closer than {max_depth_m} m",
            found="none",
            remedy="raise targets.max_depth_m, or take the scene out of its list",
        )
    return lower, upper


def _batches(
    scan: Scan, usable: Int64[np.ndarray, " frames"]
) -> Iterator[tuple[Float32[np.ndarray, "b h w"], Int64[np.ndarray, " b"]]]:
    for start in range(0, len(usable), _BATCH):
        part = usable[start : start + _BATCH]
        depth_m = np.stack([_depth_m(scan, index) for index in part.tolist()])
        yield depth_m, part


def _depth_m(scan: Scan, index: int) -> Float32[np.ndarray, "h w"]:
    units = scan.decode_depth(index)
    return store.depth_in_metres(units, scan.info.depth_units_per_metre)


def _level(volume: tsdf.TsdfVolume) -> store.DistanceGrid:
    tsdf, weight = volume.arrays()
    return store.DistanceGrid(
        volume.grid.origin_world,
        volume.grid.voxel_size_m,
        volume.truncation_m,
        tsdf,
        np.minimum(weight, 65535).astype(np.uint16),
    )
