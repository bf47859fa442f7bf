"""Find the upright world in metres that a capture is moved into.

The networks assume gravity: z is up, the floor is at 0, lengths are metres. A capture
knows some of it, its depth images and points show more; the rest is asked for.
"""

import logging
from contextlib import suppress

import numpy as np

from gnesf_core.config import CaptureConfig
from gnesf_core.data import capture_evidence as evidence
from gnesf_core.data.capture_evidence import DepthMaps, depth_points, refuse
from gnesf_core.data.posed_images import PosedImages
from gnesf_core.data.scan import CaptureWorld
from gnesf_core.data.store import depth_in_metres
from gnesf_core.errors import BadInput
from gnesf_core.geometry import camera, upright
from gnesf_core.shapes import Float32, Float64, Int64

log = logging.getLogger(__name__)

_AXES = {
    sign + name: np.eye(3)[axis] * (-1.0 if sign else 1.0)
    for axis, name in enumerate("xyz")
    for sign in ("", "-")
}
_FRAMES = 60  # whose depth is looked at
_ROWS = 24  # of its pixels, for the floor
_FAR_M = 6.0
_ASSUMED_HEIGHT_M = 1.4  # of a camera in somebody's hand
_PLAUSIBLE_HEIGHT_M = 0.3, 3.0
_LEAST_RATIOS = 30
_MOST_RATIO_SPREAD = 0.2  # typical deviation of the scale that single points tell
_FARTHEST_M = 900.0  # from the origin; beyond, poses are refused
_PLACE = "config: capture"


def find_world(scan: PosedImages, config: CaptureConfig) -> CaptureWorld:
    """Find scale, up and floor, say in one line how, and refuse what is contradictory.

    The poses of `scan` must still be those of the capture.
    """
    usable = _posed(scan)
    evidence.check_sightings(scan, usable)
    depth_m = _some_depth(scan, usable)
    metres_per_unit, scale_by = _scale(scan, depth_m, config.metres_per_unit)
    poses = scan.world_from_camera[usable].copy()
    poses[:, :3, 3] *= metres_per_unit
    _check_near(scan, poses)
    evidence.check_poses(scan, usable, depth_m, metres_per_unit)
    points_m = _points(scan, depth_m, metres_per_unit)
    up, up_by = _up(scan, poses, config.up)
    floor_m = config.floor_m
    if floor_m is not None:
        height, floor_by = floor_m * metres_per_unit, "stated"
    else:
        up, height, up_by, floor_by = _floor(poses, points_m, up, up_by)
    world_from_capture = np.eye(4)
    world_from_capture[:3, :3] = metres_per_unit * upright.turn_upright(up)
    world_from_capture[2, 3] = -height
    world = CaptureWorld(
        world_from_capture,
        metres_per_unit,
        scale_by,
        up,
        up_by,
        height / metres_per_unit,
        floor_by,
    )
    _tell(scan, world, float(np.median(poses[:, :3, 3] @ up) - height))
    return world


def _posed(scan: PosedImages) -> Int64[np.ndarray, " n"]:
    """Return the frames whose poses are rigid, wherever they are."""
    turned = scan.world_from_camera.copy()
    finite = np.isfinite(turned).all((1, 2))
    turned[:, :3, 3] = 0
    usable = [i for i in np.flatnonzero(finite) if camera.is_rigid(turned[i])]
    if len(usable) < 2:
        refuse(
            scan,
            "poses",
            "at least 2 that turn and shift: finite, right-handed, not scaled",
            f"{len(usable)} of {len(turned)}",
            "export 4x4 matrices world_from_camera whose rotation is one",
        )
    return np.array(usable, np.int64)


def _check_near(scan: PosedImages, poses: Float64[np.ndarray, "frames 4 4"]) -> None:
    farthest = np.abs(poses[:, :3, 3]).max()
    if farthest > _FARTHEST_M:
        refuse(
            scan,
            "poses",
            f"cameras within {_FARTHEST_M:.0f} m of the origin",
            f"{farthest:.4g} m",
            "correct metres_per_unit, or take an offset off all poses",
        )


def _scale(scan: PosedImages, depth_m: DepthMaps, stated: float) -> tuple[float, str]:
    """Return the metres of a unit of the capture, and how they were found."""
    if not (0 <= stated < 1e6):
        raise BadInput(
            _PLACE,
            "metres_per_unit",
            expected="a number above 0, or 0 to find it",
            found=stated,
            remedy="correct the config",
        )
    if stated:
        return stated, "stated"
    capture = scan.capture
    if capture.metres_per_unit == 1:
        if not depth_m:
            log.warning(
                "%s: nothing tells the unit of the poses, a metre is assumed: poses "
                "computed from pictures have an arbitrary one, so state "
                "`metres_per_unit` unless you know that it is 1",
                scan.info.path,
            )
        return 1.0, "assumed"
    if capture.metres_per_unit:
        return capture.metres_per_unit, "by applied_scale"
    if depth_m:
        return _scale_by_depth(scan, depth_m)
    refuse(
        scan,
        "scale",
        "the capture's unit in metres: COLMAP's is arbitrary",
        "neither metres_per_unit in the config nor depth images",
        "measure something in the room (a door is about 2 m high), measure the same "
        "in the model (colmap gui shows it), set metres_per_unit to the quotient",
    )


def _scale_by_depth(scan: PosedImages, depth_m: DepthMaps) -> tuple[float, str]:
    """Compare the depth of points with the distance that the model has them at."""
    sightings, points = scan.capture.sightings, scan.capture.points
    ratios = [np.zeros(0)]
    if sightings is not None and points is not None:
        for index, measured_m in depth_m.items():
            seen = points[sightings.point[sightings.image == index]]
            ratios.append(_depth_ratios(scan, index, measured_m, seen))
    ratio = np.concatenate(ratios)
    scale = float(np.median(ratio)) if len(ratio) else 0.0
    spread = float(np.median(np.abs(np.log(ratio / scale)))) if scale else np.inf
    if len(ratio) < _LEAST_RATIOS or spread > _MOST_RATIO_SPREAD:
        refuse(
            scan,
            "scale",
            f"{_LEAST_RATIOS} points whose depth tells one scale",
            f"{len(ratio)} points with a typical deviation of {spread:.0%}",
            "check that depth/ belongs to these pictures and is in millimetres, or set "
            "metres_per_unit in the config",
        )
    return scale, f"by depth at {len(ratio)} points"


def _depth_ratios(
    scan: PosedImages,
    index: int,
    depth_m: Float32[np.ndarray, "h w"],
    points: Float64[np.ndarray, "n 3"],
) -> Float64[np.ndarray, " m"]:
    """Return measured depth over modelled depth of the points that a frame saw."""
    info = scan.info
    camera_from_world = camera.invert_rigid(scan.world_from_camera[index])
    points_camera = camera.transform(camera_from_world, points)
    uv, depth = camera.project(points_camera, info.depth_intrinsics)
    inside = camera.in_image(uv, info.depth_width, info.depth_height)
    u, v = np.floor(uv[inside] + 0.5).astype(np.int64).T
    measured_m = depth_m[v, u]
    known = measured_m > 0
    return (measured_m[known] / depth[inside][known]).astype(np.float64)


def _points(
    scan: PosedImages, depth_m: DepthMaps, metres_per_unit: float
) -> Float64[np.ndarray, "n 3"]:
    """Return points of the scene in metres, by depth or else those of the capture."""
    if not depth_m:
        points = scan.capture.points
        return np.zeros((0, 3)) if points is None else points * metres_per_unit
    info = scan.info
    rays = camera.pixel_rays(info.depth_intrinsics, info.depth_width, info.depth_height)
    step = max(1, info.depth_height // _ROWS)
    points = [np.zeros((0, 3))]
    for index, image in depth_m.items():
        own = depth_points(image, rays, step)
        pose = scan.world_from_camera[index].copy()
        pose[:3, 3] *= metres_per_unit
        points.append(camera.transform(pose, own[own[:, 2] < _FAR_M]))
    return np.concatenate(points)


def _up(
    scan: PosedImages, poses: Float64[np.ndarray, "frames 4 4"], stated: str
) -> tuple[Float64[np.ndarray, " 3"], str]:
    if stated in _AXES:
        return _AXES[stated], "stated"
    if stated != "auto":
        raise BadInput(
            _PLACE,
            "up",
            expected=f"auto or one of {', '.join(_AXES)}",
            found=stated,
            remedy="correct the config",
        )
    up = upright.up_of_cameras(poses)
    if up.lie_sideways:
        log.warning(
            "%s: the pictures seem to lie on their side, which segmenters are not used "
            "to; if so, turn them and their poses by 90 degrees, or else state `up`",
            scan.info.path,
        )
    return up.direction, f"by {up.how}"


def _floor(
    poses: Float64[np.ndarray, "frames 4 4"],
    points_m: Float64[np.ndarray, "n 3"],
    up: Float64[np.ndarray, " 3"],
    up_by: str,
) -> tuple[Float64[np.ndarray, " 3"], float, str, str]:
    """Return up, the floor's height in metres, and how both were found."""
    centres = poses[:, :3, 3]
    stated = up_by == "stated"
    floor = upright.floor_of_points(points_m, centres, up, turn=not stated)
    if floor is None:
        height = float(np.median(centres @ up)) - _ASSUMED_HEIGHT_M
        return up, height, up_by, f"assumed {_ASSUMED_HEIGHT_M} m below the cameras"
    if not stated:
        up_by += " and the floor"
    return floor.up, floor.height, up_by, f"by {floor.points} points on it"


def _tell(scan: PosedImages, world: CaptureWorld, height_m: float) -> None:
    log.info(
        "world: up is (%.3f, %.3f, %.3f) %s; the floor, %s, is %.2f m below the "
        "cameras; a unit is %.4g m, %s",
        *world.up_capture,
        world.up_by,
        world.floor_by,
        height_m,
        world.metres_per_unit,
        world.scale_by,
    )
    low, high = _PLAUSIBLE_HEIGHT_M
    if not low < height_m < high:
        log.warning(
            "%s: cameras %.2f m above the floor are unusual: look at up and at the "
            "scale, and state them in the config if they are wrong",
            scan.info.path,
            height_m,
        )


def _some_depth(scan: PosedImages, usable: Int64[np.ndarray, " frames"]) -> DepthMaps:
    """Return the depth of not too many frames, evenly spread, in metres."""
    indices = [index for index in usable.tolist() if scan.has_depth(index)]
    step = max(1, -(-len(indices) // _FRAMES))
    units_per_metre = scan.info.depth_units_per_metre
    depth_m = {}
    for index in indices[::step]:
        with suppress(BadInput):  # extraction leaves damaged images out, and says so
            depth_m[index] = depth_in_metres(scan.decode_depth(index), units_per_metre)
    return depth_m
