"""Refuse captures whose poses do not mean what their format says.

Poses in another convention make no error by themselves, only a scene of nonsense. But
the pictures and depth images of a capture show which convention they fit.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

import numpy as np

from gnesf_core.data.posed_images import PosedImages, Sightings
from gnesf_core.errors import BadInput
from gnesf_core.geometry import agreement, camera
from gnesf_core.geometry.agreement import Agreement
from gnesf_core.shapes import Float32, Float64, Int64

log = logging.getLogger(__name__)

DepthMaps = Mapping[int, Float32[np.ndarray, "h w"]]  # metres, by frame

_LEAST_POINTS = 300
_AGREES = 0.7  # share of points with which depth images are believed
_BETTER = 0.25  # how much larger it is under the right convention,
_RIGHT = 0.5  # which explains at least this share
_LEAST_PIXELS = 3000
_MORE_ALIKE = 0.1  # the same for correlations of pictures
# Depth units that are mixed up with millimetres, as factors on what was read.
_UNITS = (0.001, 0.1, 0.2, 0.25, 4.0, 5.0, 10.0, 1000.0)
_PICTURES = 60
_PICTURE_PAIRS = 16
_MOST_REPROJECTION_PX = 4.0
_SIGHT_M = 1.5  # what is this far in front of a camera, another one should see as well
_LEAST_OVERLAP = 0.5  # share of the cameras of which that is true
_MOST_LOOKED_AT = 500
_STEP = 4


def check_sightings(scan: PosedImages, usable: Int64[np.ndarray, " frames"]) -> None:
    """Refuse a model whose points are not where its pictures saw them."""
    capture = scan.capture
    sightings, points = capture.sightings, capture.points
    if sightings is None or points is None:
        return
    known = np.isin(sightings.image, usable)
    some = np.flatnonzero(known)[:: max(1, int(known.sum()) // 20_000)]
    if len(some) < _LEAST_POINTS // 10:
        return
    error_px = _reprojection_px(scan, sightings, points, some)
    if not np.median(error_px) < _MOST_REPROJECTION_PX:
        refuse(
            scan,
            "points",
            f"points within {_MOST_REPROJECTION_PX} pixels of where they were seen",
            f"half of them further off than {np.median(error_px):.3g} pixels",
            "export the model again; quaternions are (w, x, y, z) and lead from the "
            "world to the camera",
        )


def _reprojection_px(
    scan: PosedImages,
    sightings: Sightings,
    points: Float64[np.ndarray, "points 3"],
    some: Int64[np.ndarray, " n"],
) -> Float64[np.ndarray, " n"]:
    """Return how far from its key point each point is seen by its camera."""
    error_px = np.full(len(some), np.inf)
    frames = sightings.image[some]
    for index in np.unique(frames).tolist():
        own = frames == index
        world_from_camera = scan.world_from_camera[index]
        points_camera = camera.transform(
            camera.invert_rigid(world_from_camera), points[sightings.point[some[own]]]
        )
        in_front = points_camera[:, 2] > 0
        xy = points_camera[:, :2] / np.where(in_front, points_camera[:, 2], 1)[:, None]
        off = scan.lens(index).pixels(xy) - sightings.uv[some[own]]
        error_px[own] = np.where(in_front, np.linalg.norm(off, axis=1), np.inf)
    return error_px


def check_poses(
    scan: PosedImages,
    usable: Int64[np.ndarray, " frames"],
    depth_m: DepthMaps,
    metres_per_unit: float,
) -> None:
    """Refuse poses that depth or pictures show to be meant otherwise, or too sparse."""
    declared = agreement.WORLD_OPENCV
    # Frames that are of no use stand where they do no harm.
    poses = np.tile(np.eye(4), (len(scan.world_from_camera), 1, 1))
    poses[usable] = scan.world_from_camera[usable]
    poses[usable, :3, 3] *= metres_per_unit
    matrices = poses
    if scan.capture.kind == "nerfstudio":
        declared = agreement.WORLD_OPENGL
        matrices = agreement.readings(poses)[declared]  # back to what the file has
    if depth_m:
        _check_by_depth(scan, matrices[list(depth_m)], list(depth_m.values()), declared)
    elif scan.capture.sightings is None:
        _check_by_pictures(scan, usable, matrices, declared)
    _check_overlap(scan, poses[usable])


def _check_overlap(scan: PosedImages, poses: Float64[np.ndarray, "n 4 4"]) -> None:
    info = scan.info
    camera_from_world = camera.invert_rigid(poses)
    some = range(0, len(poses), max(1, len(poses) // _MOST_LOOKED_AT))
    seen = np.zeros(len(some), bool)
    for place, index in enumerate(some):
        middle = poses[index, :3, 3] + _SIGHT_M * poses[index, :3, 2]
        copies = np.broadcast_to(middle, (len(poses), 1, 3))
        local = camera.transform(camera_from_world, copies)[:, 0]
        uv, _ = camera.project(local, info.color_intrinsics)
        sees = camera.in_image(uv, info.color_width, info.color_height)
        sees[index] = False
        seen[place] = sees.any()
    if seen.mean() < _LEAST_OVERLAP:
        refuse(
            scan,
            "poses",
            "cameras that look at the same things, two at a time at least",
            f"{1 - seen.mean():.0%} whose view no other one shares",
            "take more pictures, each overlapping the last; if there are many, "
            "look at metres_per_unit and at the convention of the poses",
        )


def _check_by_depth(
    scan: PosedImages,
    matrices: Float64[np.ndarray, "n 4 4"],
    depth_m: list[np.ndarray],
    declared: str,
) -> None:
    readings = agreement.readings(matrices)
    pairs = agreement.pairs_of(readings[declared])
    info = scan.info
    intrinsics = info.depth_intrinsics
    rays = camera.pixel_rays(intrinsics, info.depth_width, info.depth_height)
    step = max(1, min(info.depth_height, info.depth_width) // 48) * _STEP

    def agree(poses: Float64[np.ndarray, "n 4 4"], factor: float = 1.0) -> Agreement:
        maps = [image * np.float32(factor) for image in depth_m]
        points = [depth_points(image, rays, step) for image in maps]
        return agreement.depth_agreement(points, maps, intrinsics, poses, pairs)

    own = agree(readings[declared])
    enough = own.compared >= _LEAST_POINTS
    if enough and own.share >= _AGREES:
        return
    least = max(_RIGHT, own.share + _BETTER if enough else 0)
    found = {name: agree(poses) for name, poses in readings.items()}
    best = agreement.best_of(found, _LEAST_POINTS)
    if best not in ("", declared) and found[best].share > least:
        what = "points that two cameras measured agree"
        _refuse_convention(scan, declared, best, found, what)
    units = {str(f): agree(readings[declared], f) for f in _UNITS}
    best = agreement.best_of(units, _LEAST_POINTS)
    if best and units[best].share > least:
        _refuse_unit(scan, best, units[best].share, own.share)
    if enough:
        log.warning(
            "%s: only %.0f %% of the points that two cameras measured agree: look at "
            "the poses, the intrinsics and the unit of depth",
            scan.info.path,
            100 * own.share,
        )


def _refuse_unit(scan: PosedImages, factor: str, share: float, own: float) -> NoReturn:
    refuse(
        scan,
        "depth",
        "depth and poses in the same unit",
        f"depth that fits the poses after multiplication by {factor} ({share:.0%} of "
        f"the points agree instead of {own:.0%})",
        "convert the depth images to millimetres (or correct "
        "depth_unit_scale_factor), or correct metres_per_unit",
    )


def depth_points(
    depth_m: Float32[np.ndarray, "h w"],
    rays: Float64[np.ndarray, "h w 3"],
    step: int,
) -> Float64[np.ndarray, "n 3"]:
    """Return what a depth image shows at every few pixels, in the camera's frame."""
    thinned = slice(step // 2, None, step), slice(step // 2, None, step)
    depth = depth_m[thinned].astype(np.float64)
    return rays[thinned][depth > 0] * depth[depth > 0][:, None]


def _check_by_pictures(
    scan: PosedImages,
    usable: Int64[np.ndarray, " frames"],
    matrices: Float64[np.ndarray, "all 4 4"],
    declared: str,
) -> None:
    # Torch takes seconds to import, which others need not wait for.
    import torch

    from gnesf_core.geometry import likeness

    info = scan.info
    size = info.color_width, info.color_height
    some = usable[:: max(1, -(-len(usable) // _PICTURES))]
    small = {}
    for index in some.tolist():
        with suppress(BadInput):  # extraction leaves damaged pictures out, and says so
            small[index] = likeness.small_grey([scan.decode_color(index)])
    if not small:
        return
    grey = torch.cat(list(small.values()))
    readings = agreement.readings(matrices[list(small)])
    pairs = agreement.pairs_of(readings[declared])
    pairs = pairs[:: max(1, -(-len(pairs) // _PICTURE_PAIRS))]
    found = {
        name: likeness.picture_agreement(
            grey, info.color_intrinsics, size, poses, pairs
        )
        for name, poses in readings.items()
    }
    best = agreement.best_of(found, _LEAST_PIXELS)
    if best and found[best].share > found[declared].share + _MORE_ALIKE:
        what = "pictures of two cameras are alike to"
        _refuse_convention(scan, declared, best, found, what)


def _refuse_convention(
    scan: PosedImages,
    declared: str,
    best: str,
    found: Mapping[str, Agreement],
    what: str,
) -> NoReturn:
    is_inverse = best in (agreement.CAMERA_OPENCV, agreement.CAMERA_OPENGL)
    to_opengl = best in (agreement.WORLD_OPENGL, agreement.CAMERA_OPENGL)
    steps = ["invert every matrix"] if is_inverse else []
    if to_opengl != (declared == agreement.WORLD_OPENGL):
        steps.append("negate the second and the third column of every matrix")
    refuse(
        scan,
        "poses",
        declared,
        f"poses that fit as {best}: {what} {found[best].share:.0%} then, and "
        f"{found[declared].share:.0%} as they are",
        ", then ".join(steps),
    )


def refuse(
    scan: PosedImages, place: str, expected: str, found: object, remedy: str
) -> NoReturn:
    """Refuse a capture by the file that it is opened by."""
    raise BadInput(scan.info.path, place, expected=expected, found=found, remedy=remedy)
