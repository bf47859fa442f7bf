"""Frames, prior and geometry of the tiny room as files, from closed forms alone."""

import numpy as np

from gnesf_core.config import GnesfConfig, NeuconConfig
from gnesf_core.data import images, store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.scan import ScanInfo
from gnesf_core.labels import IGNORE
from tests import tiny_room

SCENE = "scene0000_00"
CLASS = {tiny_room.WALL: 0, tiny_room.FLOOR: 1, tiny_room.CHAIR: 4,
         tiny_room.CEILING: IGNORE}  # fmt: skip
SHADE = {0: (200, 180, 160), 1: (120, 90, 60), 4: (30, 60, 200), IGNORE: (240,) * 3}
ENCODER = NeuconConfig(
    image_width=48, image_height=36, encoder_width=0.5, encoder_weights="",
    channels=4, voxel_size_m=0.1, truncation_m=0.3, volume_x=24, volume_y=24,
    volume_z=16, volume_bottom_m=-0.5, view_range_m=3.0, statistics="mean-variance",
    fusion="gru", occupancy_threshold=0.5, positive_weight=1.5, coarser_weight=0.8,
    sparse_engine="gather",
)  # fmt: skip
FIELD = GnesfConfig(
    vote="mean", network="paper", payload="probabilities", informed=False,
    displacement="vector", feature_channels=[4, 4, 4], widths=[8, 8],
    source_frames="keys", voters="nearest", views=6, view_overlap=0.05,
    visibility="sdf", unobserved="skip", vote_at="samples", near_m=0.1, far_m=6.0,
    sampler="by-weight", coarse_samples=128, fine_samples=48,
    render_truncation_m=0.01, render_reach_m=0.01,
)  # fmt: skip


def true_classes(pose, size):
    """Return train ids and z-depth, as the room's closed form has them."""
    depth_m, ids = tiny_room.cast(pose, size)
    return np.vectorize(CLASS.get)(ids).astype(np.uint8), depth_m


def one_hot(labels):
    return (np.arange(20)[:, None, None] == labels).astype(np.float32)


def write_frames(path, is_key, is_view, labelled=True):
    """Write a frame for each pair of roles, filmed around the room."""
    size, count = tiny_room.COLOR_SIZE, len(is_key)
    info = ScanInfo(
        path, count, *size, *tiny_room.DEPTH_SIZE, tiny_room.intrinsics(size),
        tiny_room.intrinsics(tiny_room.DEPTH_SIZE), 1000.0, "png", "zlib",
    )  # fmt: skip
    poses = tiny_room.camera_path(count)
    selection = store.Selection(
        np.arange(count), np.array(is_key), np.array(is_view), np.full((1, 9), -1)
    )
    made_by = provenance("test", {}, {"scan": str(count)})
    status = np.zeros(count, np.uint8)
    with store.write_frames(
        path, SCENE, info, poses, status, selection, labelled, made_by
    ) as writer:
        for pose in poses:
            labels, _ = true_classes(pose, size)
            rgb = np.stack(np.vectorize(SHADE.get)(labels), -1).astype(np.uint8)
            _, depth_m = true_classes(pose, tiny_room.DEPTH_SIZE)
            units = np.rint(1000 * depth_m).astype(np.uint16)
            writer.add(images.encode_png(rgb), units, labels if labelled else None)
    return path


def write_prior(path, frames_path, scores=lambda frames, position: None):
    """Write what `scores` says of frames, or else the truth."""
    with store.Frames(frames_path) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        size = tiny_room.COLOR_SIZE
        with store.write_prior(path, frames, size, False, made_by) as writer:
            for position, pose in enumerate(frames.world_from_camera):
                own = scores(frames, position)
                labels, _ = true_classes(pose, size)
                writer.add(one_hot(labels) if own is None else own)
    return path


def signed_distance(points_world):
    """Return metres to the nearest wall or side of the block, positive in between."""
    room = np.minimum(points_world - tiny_room.LOW, tiny_room.HIGH - points_world)
    beyond = np.maximum(
        tiny_room.BLOCK_LOW - points_world, points_world - tiny_room.BLOCK_HIGH
    )
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
    return np.minimum(room.min(-1), outside + np.minimum(beyond.max(-1), 0))


def distances(voxel_size_m=0.05, truncation_m=0.15):
    """Return the room's signed distances, known up to the truncation behind walls."""
    origin = tiny_room.LOW - 0.3
    shape = np.ceil((tiny_room.HIGH + 0.3 - origin) / voxel_size_m).astype(int)
    points = origin + voxel_size_m * np.stack(np.indices(shape), -1)
    sdf_m = signed_distance(points)
    tsdf = np.clip(sdf_m / truncation_m, -1, 1).astype(np.float32)
    weight = (sdf_m > -truncation_m).astype(np.uint16)
    return store.DistanceGrid(origin, voxel_size_m, truncation_m, tsdf, weight)


def write_volume(path, frames_path, grid):
    blank = np.zeros((0, 3), np.int64), np.zeros((0, 4), np.float32)
    volume = store.SceneVolume(grid, np.zeros_like(grid.tsdf), *blank)
    with store.Frames(frames_path) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        store.write_volume(path, frames, volume, made_by)
    return path
