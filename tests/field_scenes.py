"""The tiny room as the files that fields are made of, all of it in closed form.

Pictures have one colour per class, the distances are those of the room's planes, and
the prior says what the labels say. The ceiling is void.
"""

import itertools

import numpy as np
import torch

from gnesf_core.config import (
    GnesfConfig,
    NeuconConfig,
    RayDataConfig,
    TrainingConfig,
)
from gnesf_core.data import images, store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.scan import ScanInfo
from gnesf_core.fields.samples import ScenePaths
from gnesf_core.geometries import neucon
from gnesf_core.geometry.camera import look_at
from gnesf_core.priors.labels import class_shares
from gnesf_core.training.weights import write_weights
from tests import room_files, tiny_room

SIZE = tiny_room.COLOR_SIZE
MAP_SIZE = (32, 24)
VOXEL_M, TRUNCATION_M = 0.1, 0.3
ENCODER = NeuconConfig(
    image_width=64, image_height=48, encoder_width=0.25, encoder_weights="", channels=3,
    voxel_size_m=0.16, truncation_m=0.24, volume_x=24, volume_y=24, volume_z=20,
    volume_bottom_m=-0.32, view_range_m=3.0, statistics="mean-variance",
    fusion="gru", occupancy_threshold=0.5, positive_weight=1.5, coarser_weight=0.8,
    sparse_engine="gather",
)  # fmt: skip
SETTINGS = GnesfConfig(
    vote="learned", network="paper", payload="probabilities", informed=False,
    displacement="vector", feature_channels=[2, 2, 4], widths=[8, 8],
    source_frames="keys", voters="nearest", views=4, view_overlap=0.1,
    visibility="none", unobserved="skip", vote_at="samples", near_m=0.1, far_m=5.0,
    sampler="by-weight", coarse_samples=24, fine_samples=8, render_truncation_m=0.1,
    render_reach_m=0.1,
)  # fmt: skip
DATA = RayDataConfig(
    scenes=0, held_out_scenes=1, frames="kept", order="random", rays=64,
    exclude_target=True, semantic_loss="cross-entropy", color_loss="squared",
    semantic_weight=1.0, color_weight=0.5,
)  # fmt: skip
TRAINING = TrainingConfig(
    seed=1, steps=6, batch=2, learning_rate=5e-3, backbone_rate=1.0, weight_decay=0.01,
    schedule="constant", warmup_steps=1, clip_norm=1.0, precision="float32", workers=0,
    report_steps=1, state_steps=2, validate_steps=3,
)  # fmt: skip


def write_frames(
    path,
    scene,
    poses,
    pictures=None,
    labels=None,
    size=SIZE,
    keys=None,
    fragment_views=0,
):
    """Write a frames file of any pictures; every other frame is a key frame.

    Key frames are grouped by `fragment_views`, as the pipeline does it; 0 groups none.
    """
    count = len(poses)
    depth_size = (8, 6)
    info = ScanInfo(
        path.with_suffix(".sens"), count, *size, *depth_size,
        tiny_room.intrinsics(size), tiny_room.intrinsics(depth_size), 1000.0, "png",
        "zlib",
    )  # fmt: skip
    is_key = np.arange(count) % 2 == 0 if keys is None else np.asarray(keys, bool)
    index = 3 * np.arange(count)  # raw numbers are not positions
    raw = np.repeat(np.stack(poses), 3, axis=0)
    fragments = np.full((1, 9), -1)
    if fragment_views:
        positions = np.flatnonzero(is_key)
        starts = [*range(0, len(positions) - fragment_views, fragment_views)]
        starts = np.array([*starts, len(positions) - fragment_views])
        fragments = positions[starts[:, None] + np.arange(fragment_views)]
    selection = store.Selection(index, is_key, ~is_key, fragments)
    status = np.zeros(len(raw), np.uint8)
    made_by = provenance("test", {}, {"scan": scene})
    with store.write_frames(
        path, scene, info, raw, status, selection, labels is not None, made_by
    ) as writer:
        for number in range(count):
            blank = np.full((*size[::-1], 3), number, np.uint8)
            picture = blank if pictures is None else pictures[number]
            own = None if labels is None else labels[number]
            writer.add(images.encode_png(picture), np.full((6, 8), 1000, "<u2"), own)
    return path


def camera_path(count):
    """Walk a circle, looking across the room, down at the block and up in turns."""
    centre = (tiny_room.LOW + tiny_room.HIGH) / 2
    poses = []
    for n, angle in enumerate(np.linspace(0, 2 * np.pi, count, endpoint=False)):
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        aim_m = (0.6, -0.5)[n // 2 % 2]
        eye, target = centre - 0.9 * out, centre + 0.8 * out
        poses.append(look_at(eye + [0, 0, 0.2], target + [0, 0, aim_m]))
    return poses


def filmed(poses, size=SIZE):
    """Return the room's pictures and labels."""
    labels = [room_files.true_classes(pose, size)[0] for pose in poses]
    shades = np.zeros((256, 3), np.uint8)
    for label, shade in room_files.SHADE.items():
        shades[label] = shade
    return [shades[own] for own in labels], labels


def room_volume(channels=ENCODER.channels, seed=0):
    """Return the room's distances, with a random encoding of voxels near surfaces."""
    grid = room_files.distances(VOXEL_M, TRUNCATION_M)
    near = np.argwhere(np.abs(grid.tsdf) < 0.5)
    rng = np.random.default_rng(seed)
    encoding = rng.normal(size=(len(near), channels)).astype(np.float32)
    return store.SceneVolume(grid, np.zeros_like(grid.tsdf), near, encoding)


def write_volume(path, frames_path, volume=None):
    with store.Frames(frames_path) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        made = room_volume() if volume is None else volume
        store.write_volume(path, frames, made, made_by)
    return path


def write_prior(path, frames_path, scores=None, logits=False, size=MAP_SIZE):
    """Write a prior that says `scores(position)`; else what the frames' labels say."""
    with store.Frames(frames_path) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        with store.write_prior(path, frames, size, logits, made_by) as writer:
            for position in range(len(frames)):
                if scores is None:
                    writer.add(class_shares(frames.labels(position), *size))
                else:
                    writer.add(scores(position))
    return path


def write_scene(
    folder,
    scene,
    frames=12,
    labelled=True,
    logits=False,
    volume=None,
    fragment_views=0,
):
    """Write all files of the room under a name; return their paths."""
    poses = camera_path(frames)
    pictures, labels = filmed(poses)
    path = folder / f"{scene}.h5"
    shown = labels if labelled else None
    write_frames(path, scene, poses, pictures, shown, fragment_views=fragment_views)
    prior = folder / f"{scene}.prior.h5"
    blank = np.full((20, *MAP_SIZE[::-1]), 0.05, np.float32)
    write_prior(prior, path, None if labelled else lambda _: blank, logits)
    volume_path = write_volume(folder / f"{scene}.volume.h5", path, volume)
    return ScenePaths(path, prior, volume_path, volume_path)


def scenes_in(folder):
    """Return the scenes that were written into a folder, by name."""
    return [
        ScenePaths(folder / f"{name}.h5", folder / f"{name}.prior.h5", volume, volume)
        for volume in sorted(folder.glob("*.volume.h5"))
        for name in [volume.name.removesuffix(".volume.h5")]
    ]


def write_start(path, encoder=ENCODER, seed=5):
    """Write weights of a geometry's network as chance made them; return the path."""
    torch.manual_seed(seed)
    network = neucon.build(encoder, torch.device("cpu"))
    write_weights(path, network.state_dict(), {})
    return path


def tensors_of(value):
    """Yield all tensors of a nested structure, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain(*map(tensors_of, value.values()))
    elif isinstance(value, list | tuple):
        yield from itertools.chain(*map(tensors_of, value))


def same(one, other):
    """Tell whether two structures have equal tensors."""
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
