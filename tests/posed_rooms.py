"""The tiny room as people's own captures: one film of it, written in every format.

A capture's world is turned, shifted and scaled against the room's. Walls are painted
with waves, so that pictures tell where they look.
"""

import json
import struct

import numpy as np

from gnesf_core.data import images
from gnesf_core.geometry.camera import pixel_rays
from tests import tiny_room

SIZE, DEPTH_SIZE = (96, 72), (48, 36)
COUNT = 24
OPENGL_FROM_OPENCV = np.diag([1.0, -1, -1, 1])


def turn(axis, degrees):
    """Return a rotation by Rodrigues' formula."""
    axis = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * np.eye(3) + sine * cross + (1 - cosine) * np.outer(axis, axis)


def capture_from_room(scale=1.0, degrees=130.0):
    """Return a similarity that leaves nothing upright; `scale` is units per metre."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * turn([1, 2, -0.7], degrees)
    matrix[:3, 3] = [3.0, -2.0, 5.0]
    return matrix


def moved(capture_from_room, room_from_camera):
    """Return the rigid pose of a camera in a scaled world."""
    pose = capture_from_room @ room_from_camera
    pose[:3, :3] /= np.cbrt(np.linalg.det(capture_from_room[:3, :3]))
    return pose


def camera_path(count=COUNT):
    """Walk around with the unsteadiness of a hand."""
    rng = np.random.default_rng(1)
    poses = tiny_room.camera_path(count)
    for pose in poses:
        pose[:3, :3] = pose[:3, :3] @ turn(rng.normal(size=3), rng.normal(0, 3))
        pose[:3, 3] += rng.normal(0, 0.05, 3)
    return poses


def paint(points_world):
    """Return a colour for every point of the room."""
    x, y, z = np.moveaxis(points_world, -1, 0)
    waves = [
        np.sin(7 * x + 3 * y) + np.sin(5 * z - 2 * x),
        np.sin(9 * y + 2 * z) + np.cos(4 * x + 6 * z),
        np.cos(6 * z + 5 * x) + np.sin(8 * y - 3 * x),
    ]
    return np.rint(128 + 55 * np.stack(waves, -1)).astype(np.uint8)


def picture(pose, rays):
    depth_m, _ = tiny_room.cast_rays(pose, rays)
    points = rays * depth_m[..., None] @ pose[:3, :3].T + pose[:3, 3]
    return paint(points)


def pinhole_rays(size=SIZE):
    return pixel_rays(tiny_room.intrinsics(size), *size)


def depth_png(pose, size=DEPTH_SIZE, units_per_metre=1000.0):
    depth_m, _ = tiny_room.cast(pose, size)
    return images.encode_png16(np.rint(depth_m * units_per_metre).astype(np.uint16))


def shoot(pose, rays=None, kind="png"):
    rgb = picture(pose, pinhole_rays() if rays is None else rays)
    return images.encode_png(rgb) if kind == "png" else images.encode_jpeg(rgb, 95)


def write_nerfstudio(
    folder, poses, world=None, depth=True, rays=None, kind="png", **extra
):
    """Write the capture; `extra` keys go into the file."""
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    world = capture_from_room() if world is None else world
    matrix = tiny_room.intrinsics(SIZE)
    about = {
        "camera_model": "OPENCV", "w": SIZE[0], "h": SIZE[1],
        "fl_x": matrix[0, 0], "fl_y": matrix[1, 1],
        "cx": matrix[0, 2] + 0.5, "cy": matrix[1, 2] + 0.5,
        "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0,
    } | extra  # fmt: skip
    about["frames"] = []
    for index, pose in enumerate(poses):
        name = f"images/frame_{index:05d}.{'png' if kind == 'png' else 'jpg'}"
        (folder / name).write_bytes(shoot(pose, rays, kind))
        own = moved(world, pose) @ OPENGL_FROM_OPENCV
        frame = {"file_path": name, "transform_matrix": own.tolist()}
        if depth:
            frame["depth_file_path"] = f"depth/frame_{index:05d}.png"
            (folder / frame["depth_file_path"]).write_bytes(depth_png(pose))
        about["frames"].insert(0, frame)  # their order is nobody's business
    (folder / "transforms.json").write_text(json.dumps(about))
    return folder / "transforms.json"


def write_seven_scenes(folder, poses, world=None, depth=True):
    folder.mkdir(parents=True)
    world = capture_from_room() if world is None else world
    for index, pose in enumerate(poses):
        name = f"frame-{index:06d}"
        (folder / f"{name}.color.png").write_bytes(shoot(pose))
        np.savetxt(folder / f"{name}.pose.txt", moved(world, pose))
        if depth:
            (folder / f"{name}.depth.png").write_bytes(depth_png(pose, SIZE))
    np.savetxt(folder / "intrinsics.txt", tiny_room.intrinsics(SIZE))
    return folder / "intrinsics.txt"


def write_exported(folder, poses, world=None):
    """Write subfolders as ScanNet's exporter does; numbers have no zeros in front."""
    world = capture_from_room() if world is None else world
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    for index, pose in enumerate(poses):
        (folder / f"color/{index}.jpg").write_bytes(shoot(pose, kind="jpg"))
        (folder / f"depth/{index}.png").write_bytes(depth_png(pose))
        np.savetxt(folder / f"pose/{index}.txt", moved(world, pose))
    for name, size in (("color", SIZE), ("depth", DEPTH_SIZE)):
        matrix = np.eye(4)
        matrix[:3, :3] = tiny_room.intrinsics(size)
        np.savetxt(folder / f"intrinsic/intrinsic_{name}.txt", matrix)
    return folder / "intrinsic/intrinsic_color.txt"


def surface_points(poses, count=1200, seed=2):
    """Return points that some camera sees, in the room."""
    rng = np.random.default_rng(seed)
    points = []
    for pose in poses:
        pixel = rng.uniform(0, 1, (count // len(poses) + 1, 2)) * SIZE - 0.5
        matrix = tiny_room.intrinsics(SIZE)
        xy = (pixel - matrix[:2, 2]) / matrix.diagonal()[:2]
        rays = np.column_stack([xy, np.ones(len(xy))])
        depth_m, _ = tiny_room.cast_rays(pose, rays)
        points.append(rays * depth_m[:, None] @ pose[:3, :3].T + pose[:3, 3])
    return np.concatenate(points)


def colmap_model(poses, world):
    """Return pictures as (quaternion, shift, [(u, v, point id)]) and points.

    Points are (x y z, track) by id; a track has pairs of picture and key point.
    """
    points = surface_points(poses)
    own = points @ world[:3, :3].T + world[:3, 3]
    ids = 7 + 3 * np.arange(len(points))
    pictures = []
    for pose in poses:
        camera_from_world = np.linalg.inv(moved(world, pose))
        room_camera = np.linalg.inv(pose)
        local = points @ room_camera[:3, :3].T + room_camera[:3, 3]
        xy = local[:, :2] / local[:, 2:]
        matrix = tiny_room.intrinsics(SIZE)
        uv = xy * matrix.diagonal()[:2] + matrix[:2, 2]
        rays = np.column_stack([xy, np.ones(len(xy))])
        depth_m, _ = tiny_room.cast_rays(pose, rays)
        seen = (local[:, 2] > 0) & (np.abs(depth_m - local[:, 2]) < 0.01)
        seen &= ((uv > -0.5) & (uv < np.array(SIZE) - 0.5)).all(1)
        key_points = [(*(uv[i] + 0.5), ids[i]) for i in np.flatnonzero(seen)]
        key_points.append((3.0, 4.0, -1))  # of no point
        quaternion = quaternion_of(camera_from_world[:3, :3])
        pictures.append((quaternion, camera_from_world[:3, 3], key_points))
    tracks = {identity: [] for identity in ids.tolist()}
    for index, (_, _, key_points) in enumerate(pictures):
        for place, (_, _, identity) in enumerate(key_points[:-1]):
            tracks[int(identity)].append((index + 1, place))
    return pictures, {
        identity: (xyz, tracks[identity])
        for identity, xyz in zip(ids.tolist(), own, strict=True)
    }


def quaternion_of(rotation):
    """Return (w, x, y, z), from SciPy's definition."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return w, x, y, z


def write_colmap(folder, poses, world=None, text=True, depth=True, camera=None):
    """Write a model in sparse/0, pictures in images/, and depth/ if asked for."""
    world = capture_from_room(scale=0.4) if world is None else world
    model = folder / "sparse/0"
    for name in (model, folder / "images", folder / "depth"):
        name.mkdir(parents=True)
    matrix = tiny_room.intrinsics(SIZE)
    camera = camera or (
        "PINHOLE",
        [matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5],
    )
    for index, pose in enumerate(poses):
        (folder / f"images/{index}.png").write_bytes(shoot(pose))
        if depth:
            (folder / f"depth/{index}.png").write_bytes(depth_png(pose))
    (folder / "images/unregistered.png").write_bytes(shoot(poses[0]))
    write = write_text_model if text else write_binary_model
    write(model, camera, *colmap_model(poses, world))
    return model / f"images.{'txt' if text else 'bin'}"


def write_text_model(model, camera, pictures, points):
    name, values = camera
    words = " ".join(repr(float(v)) for v in values)
    (model / "cameras.txt").write_text(
        f"# Camera list\n5 {name} {SIZE[0]} {SIZE[1]} {words}\n"
    )
    lines = ["# Image list with two lines of data per image:"]
    for index, (quaternion, shift, key_points) in enumerate(pictures):
        pose = " ".join(repr(float(v)) for v in (*quaternion, *shift))
        lines.append(f"{index + 1} {pose} 5 {index}.png")
        flat = [f"{u!r} {v!r} {i}" for u, v, i in _plain(key_points)]
        lines.append(" ".join(flat))
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [
        f"{i} {' '.join(repr(float(v)) for v in xyz)} 9 9 9 0.5 "
        + " ".join(f"{image} {place}" for image, place in track)
        for i, (xyz, track) in points.items()
    ]
    (model / "points3D.txt").write_text("\n".join(rows) + "\n")


def _plain(key_points):
    return [(float(u), float(v), int(i)) for u, v, i in key_points]


MODEL_NUMBERS = {"PINHOLE": 1, "SIMPLE_RADIAL": 2, "OPENCV": 4, "OPENCV_FISHEYE": 5}


def write_binary_model(model, camera, pictures, points):
    name, values = camera
    head = struct.pack("<QiiQQ", 1, 5, MODEL_NUMBERS[name], *SIZE)
    (model / "cameras.bin").write_bytes(head + struct.pack(f"<{len(values)}d", *values))
    data = struct.pack("<Q", len(pictures))
    for index, (quaternion, shift, key_points) in enumerate(pictures):
        data += struct.pack("<i7di", index + 1, *quaternion, *shift, 5)
        data += f"{index}.png".encode() + b"\0" + struct.pack("<Q", len(key_points))
        for u, v, i in _plain(key_points):
            data += struct.pack("<ddq", u, v, i)
    (model / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(points))
    for identity, (xyz, track) in points.items():
        data += struct.pack("<Q3d3Bd", identity, *xyz, 9, 9, 9, 0.5)
        data += struct.pack("<Q", len(track))
        data += b"".join(struct.pack("<2i", *sight) for sight in track)
    (model / "points3D.bin").write_bytes(data)
