"""A box room filmed by a level-ish camera, written in ScanNet's formats in a second.

Everything in it has a closed form: the room spans LOW..HIGH, a block stands on the
floor, depth is the distance to the nearest plane. The label map is of four rows.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnesf_core.data import images, scannet
from gnesf_core.data.label_zip import LabelZipWriter
from gnesf_core.data.scan import ScanInfo
from gnesf_core.data.sens import SensWriter
from gnesf_core.geometry.camera import look_at, pixel_rays

LOW, HIGH = np.array([0.5, 0.7, 0.0]), np.array([4.0, 3.5, 2.4])
BLOCK_LOW, BLOCK_HIGH = np.array([2.0, 1.8, 0.0]), np.array([2.6, 2.5, 0.7])
WALL, FLOOR, CHAIR, CEILING = 1, 3, 5, 41  # ids of the label map below
NYU40 = {WALL: 1, FLOOR: 2, CHAIR: 5, CEILING: 22}
COLOR_SIZE, DEPTH_SIZE = (96, 72), (64, 48)

LABEL_MAP = (
    "\t".join(scannet.LABEL_MAP_COLUMNS)
    + "\n"
    + "".join(
        "\t".join(
            [str(id), name, name, "10", str(NYU40[id])]
            + [""] * (len(scannet.LABEL_MAP_COLUMNS) - 5)
        )
        + "\n"
        for id, name in ((1, "wall"), (3, "floor"), (5, "chair"), (41, "ceiling"))
    )
)


@dataclass
class TinyRoom:
    """Where the files are."""

    scene: str
    sens: Path
    labels: Path
    label_map: Path
    mesh: Path
    mesh_labels: Path


def intrinsics(size, focal=0.8):
    width, height = size
    return np.array(
        [[focal * width, 0, (width - 1) / 2], [0, focal * width, (height - 1) / 2],
         [0, 0, 1.0]]
    )  # fmt: skip


def camera_path(count):
    """Walk a circle, looking across the room, slightly downwards."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    centre = (LOW + HIGH) / 2
    poses = []
    for angle in angles:
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        poses.append(look_at(centre - 0.9 * out + [0, 0, 0.5], centre + out * 0.8))
    return np.stack(poses)


def cast(world_from_camera, size, focal=0.8):
    """Return z-depth and label id per pixel, from slabs (no ray caster involved)."""
    return cast_rays(world_from_camera, pixel_rays(intrinsics(size, focal), *size))


def cast_rays(world_from_camera, rays_camera):
    """Return the same along rays of the camera frame that have z = 1."""
    rays = rays_camera @ world_from_camera[:3, :3].T
    eye = world_from_camera[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.where(rays > 0, (HIGH - eye) / rays, (LOW - eye) / rays)
        near = np.where(rays > 0, (BLOCK_LOW - eye) / rays, (BLOCK_HIGH - eye) / rays)
        far = np.where(rays > 0, (BLOCK_HIGH - eye) / rays, (BLOCK_LOW - eye) / rays)
    axis, depth = out.argmin(-1), out.min(-1)
    ids = np.where(axis < 2, WALL, np.where(rays[..., 2] > 0, CEILING, FLOOR))
    entry, exit_ = near.max(-1), far.min(-1)
    block = (entry < exit_) & (entry > 0) & (entry < depth)
    return np.where(block, entry, depth), np.where(block, CHAIR, ids).astype(np.uint16)


def truth_vertices(spacing=0.08):
    """Return points on every surface with their nyu40 ids."""
    points, ids = [], []
    for low, high, block in ((LOW, HIGH, False), (BLOCK_LOW, BLOCK_HIGH, True)):
        for axis in range(3):
            for side in (0, 1):
                if block and axis == 2 and side == 0:
                    continue  # the block stands on the floor
                others = [a for a in range(3) if a != axis]
                grids = [np.arange(low[a], high[a], spacing) for a in others]
                a, b = np.meshgrid(*grids, indexing="ij")
                face = np.empty((a.size, 3))
                face[:, others[0]], face[:, others[1]] = a.ravel(), b.ravel()
                face[:, axis] = (low, high)[side][axis]
                floor_or_ceiling = (FLOOR, CEILING)[side] if axis == 2 else WALL
                points.append(face)
                ids.append(np.full(a.size, NYU40[CHAIR if block else floor_or_ceiling]))
    return np.concatenate(points), np.concatenate(ids).astype(np.uint16)


def write_room(
    folder, scene="scene0000_00", frames=40, bad_poses=(7,), empty_depth=(9,)
):
    """Write the room's files below `folder` and say where they are."""
    where = folder / "scans" / scene
    where.mkdir(parents=True)
    info = ScanInfo(
        where / f"{scene}.sens", frames, *COLOR_SIZE, *DEPTH_SIZE,
        intrinsics(COLOR_SIZE), intrinsics(DEPTH_SIZE), 1000.0, "jpeg", "zlib",
    )  # fmt: skip
    shades = {WALL: 200, FLOOR: 120, CHAIR: 60, CEILING: 240}
    labels = where / f"{scene}_2d-label-filt.zip"
    with (
        SensWriter(info.path, info) as sens,
        LabelZipWriter(labels, "label-filt") as archive,
    ):
        for index, pose in enumerate(camera_path(frames)):
            _, ids = cast(pose, COLOR_SIZE)
            depth, _ = cast(pose, DEPTH_SIZE)
            grey = np.vectorize(shades.get)(ids).astype(np.uint8)
            units = np.rint(depth * 1000).astype(np.uint16)
            if index in empty_depth:
                units[:] = 0
            if index in bad_poses:
                pose = np.full((4, 4), -np.inf)
            jpeg = images.encode_jpeg(np.repeat(grey[..., None], 3, axis=2), 95)
            sens.add(pose, jpeg, units)
            archive.write(index, ids)
    label_map = folder / "labels.tsv"
    label_map.write_text(LABEL_MAP)
    vertices, nyu40 = truth_vertices()
    mesh = where / f"{scene}_vh_clean_2.ply"
    mesh_labels = where / f"{scene}_vh_clean_2.labels.ply"
    faces = np.zeros((0, 3), np.int32)
    scannet.write_mesh_labels(mesh_labels, vertices, faces, nyu40)
    scannet.write_mesh_labels(mesh, vertices, faces, nyu40)
    return TinyRoom(scene, info.path, labels, label_map, mesh, mesh_labels)


def write_replica(folder, frames=20):
    """Write the room as Semantic-NeRF renders Replica; return its depth and ids too."""
    size = (64, 48)
    root = folder / "room_0"
    for kind in ("rgb", "depth", "semantic_class"):
        (root / kind).mkdir(parents=True)
    poses = camera_path(frames)
    np.savetxt(root / "traj_w_c.txt", poses.reshape(frames, 16))
    truth = []
    for index, pose in enumerate(poses):
        depth, ids = cast(pose, size, focal=0.5)
        units = np.rint(depth * 1000).astype(np.uint16)
        rgb = np.repeat((ids[..., None] * 5).astype(np.uint8), 3, axis=2)
        (root / f"rgb/rgb_{index}.png").write_bytes(images.encode_png(rgb))
        png = images.encode_png16(units)
        (root / f"depth/depth_{index}.png").write_bytes(png)
        png = images.encode_png8(ids.astype(np.uint8))
        (root / f"semantic_class/semantic_class_{index}.png").write_bytes(png)
        truth.append((depth, ids))
    (folder / "labels.tsv").write_text(LABEL_MAP)
    return root, truth
