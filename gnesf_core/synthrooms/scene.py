"""Write scenes of SynthRooms in ScanNet's own files."""

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnesf_core.config import SynthRoomsConfig, SynthRoomsCounts
from gnesf_core.data.annotation import write_aggregation, write_segments
from gnesf_core.data.images import encode_jpeg
from gnesf_core.data.label_zip import LabelZipWriter
from gnesf_core.data.ply import write_ply
from gnesf_core.data.scan import ScanInfo
from gnesf_core.data.scannet import (
    SceneFiles,
    check_scene_id,
    write_mesh_labels,
    write_meta,
    write_scene_list,
)
from gnesf_core.data.sens import SensWriter
from gnesf_core.data.store import INVALID_DEPTH
from gnesf_core.geometry.camera import invert_rigid, pixel_rays, transform
from gnesf_core.shapes import Bool, Float32, Float64, Int64
from gnesf_core.synthrooms import truth
from gnesf_core.synthrooms.categories import (
    ID_FROM_CATEGORY,
    NYU40_FROM_CATEGORY,
)
from gnesf_core.synthrooms.lighting import draw_lights
from gnesf_core.synthrooms.path import camera_path, lose_tracking
from gnesf_core.synthrooms.render import Camera, Renderer
from gnesf_core.synthrooms.rooms import KINDS, SCENE_TYPES, Room, build_room, streams
from gnesf_core.synthrooms.sensor import ColorSensor, DepthSensor, draw_cameras
from gnesf_core.synthrooms.shapes import place
from gnesf_core.synthrooms.surfaces import Surfaces, gather

log = logging.getLogger(__name__)

SCANNED_M = 3.0  # what no camera came closer to is not in the ground-truth mesh
FRAME_US = 33_333  # ScanNet's sensors take thirty frames a second


@dataclass(frozen=True)
class Film:
    """A room and everything that is needed to take pictures of it."""

    room: Room
    surfaces: Surfaces
    renderer: Renderer
    color_camera: Camera
    depth_camera: Camera
    room_from_camera: Float64[np.ndarray, "frames 4 4"]
    world_from_room: Float64[np.ndarray, "4 4"]
    lost: Bool[np.ndarray, " frames"]
    color_sensor: ColorSensor
    depth_sensor: DepthSensor

    def world_from_camera(self, index: int) -> Float64[np.ndarray, "4 4"]:
        """Return a frame's pose as it is stored: all -inf where tracking was lost."""
        if self.lost[index]:
            return np.full((4, 4), -np.inf)
        return self.world_from_room @ self.room_from_camera[index]


def scene_names(config: SynthRoomsCounts) -> dict[str, tuple[str, ...]]:
    """Return the scenes of each split; numbers run through train, val and test."""
    names: dict[str, tuple[str, ...]] = {}
    start = 0
    for split in ("train", "val", "test"):
        count = getattr(config, f"scenes_{split}")
        names[split] = tuple(f"scene{start + i:04d}_00" for i in range(count))
        start += count
    return names


def scene_number(scene: str) -> int:
    """Return the number in a scene's name, which decides everything in its room."""
    return int(check_scene_id(scene)[5:].split("_")[0])


def scene_kind(scene: str) -> str:
    """Return a scene's kind of room: the kinds take turns.

    It does not depend on the splits, so that asking for more scenes leaves those alone
    that are there.
    """
    return KINDS[scene_number(scene) % len(KINDS)]


def write_lists(folder: Path, config: SynthRoomsCounts) -> None:
    """Write the list of each split's scenes."""
    for split, scenes in scene_names(config).items():
        write_scene_list(folder / f"scannetv2_{split}.txt", scenes)


def write_scene(
    folder: Path,
    scene: str,
    labelled: bool,
    config: SynthRoomsConfig,
    device: str = "cpu",
) -> None:
    """Render a scene and write its files into `folder`.

    Args:
        folder: an existing folder; files get ScanNet's names inside it.
        scene: one of `scene_names`.
        labelled: also write annotations, as ScanNet does for train and val.
        config: sizes and seed. Equal settings give equal bytes with the same ray engine
            and Pillow; engines may differ in single pixels on edges.
        device: where rays are cast and surfaces shaded.
    """
    started = time.monotonic()
    film = set_up(scene, config, device)
    log.info("%s: a %s of %d things", scene, film.room.kind, len(film.room.things))
    mesh = truth.cut(film.surfaces, config.mesh_edge_m)
    seen = _shoot(folder, scene, labelled, config, film, mesh)
    _write_meta(folder, scene, labelled, config, film)
    _write_mesh(folder, scene, labelled, film, mesh.keep(seen))
    seconds = time.monotonic() - started
    rate = config.frames / seconds
    log.info("%s: %.1f s, %.1f frames/s", scene, seconds, rate)


def set_up(scene: str, config: SynthRoomsConfig, device: str) -> Film:
    """Build a scene's room, light it, and plan the walk through it."""
    rngs = streams(config.seed, scene_number(scene))
    room = build_room(scene_kind(scene), rngs)
    surfaces = gather(room)
    lights, ambient = draw_lights(room.plan, rngs["looks"])
    renderer = Renderer(surfaces, room.plan, lights, ambient, device)
    color_camera, depth_camera = draw_cameras(config, rngs["sensor"])
    path = camera_path(
        room.plan, renderer.caster, depth_camera, config.frames, rngs["path"]
    )
    lost = np.zeros(config.frames, bool)
    lost[lose_tracking(config.frames, rngs["path"])] = True
    # The world is turned and shifted against the room, as in any real capture.
    low = rngs["path"].uniform([0.2, 0.2, -0.03], [1.5, 1.5, 0.03])
    world_from_room = place(0, 0, 0, rngs["path"].uniform(0, 360))
    corners = np.column_stack([room.plan.corners, np.zeros(len(room.plan.corners))])
    turned = transform(world_from_room, corners).min(0)
    world_from_room[:3, 3] = low - turned
    color_rng, depth_rng = rngs["sensor"].spawn(2)
    return Film(
        room,
        surfaces,
        renderer,
        color_camera,
        depth_camera,
        path,
        world_from_room,
        lost,
        ColorSensor(color_rng),
        DepthSensor(depth_rng, config.depth_range_m),
    )


def _shoot(
    folder: Path,
    scene: str,
    labelled: bool,
    config: SynthRoomsConfig,
    film: Film,
    mesh: truth.TruthMesh,
) -> Bool[np.ndarray, " n"]:
    """Write all frames and return which vertices of the mesh some frame saw."""
    files = SceneFiles(folder.parent, scene)
    names = [ID_FROM_CATEGORY.get(thing.category, 0) for thing in film.room.things]
    labels = np.array([*names, 0], np.uint16)
    instances = np.array(
        [truth.instance_of(i) + 1 if name else 0 for i, name in enumerate(names)] + [0],
        np.uint8,
    )
    seen = np.zeros(len(mesh.vertices), bool)
    with ExitStack() as stack:
        sens = stack.enter_context(
            SensWriter(folder / files.sens.name, _scan_info(folder, config, film))
        )
        if labelled:
            label_zip = stack.enter_context(
                LabelZipWriter(folder / files.labels_2d.name)
            )
            instance_zip = stack.enter_context(
                LabelZipWriter(folder / files.instances_2d.name, "instance-filt")
            )
        for index, pose in enumerate(film.room_from_camera):
            color, thing = take_picture(film, pose)
            depth, true_depth = take_depth(film, pose)
            jpeg = encode_jpeg(color, config.jpeg_quality)
            stamp = index * FRAME_US
            sens.add(film.world_from_camera(index), jpeg, depth, stamp, stamp)
            if labelled:
                label_zip.write(index, labels[thing])
                instance_zip.write(index, instances[thing])
            if not film.lost[index]:
                hidden = np.flatnonzero(~seen)
                # A scan's mesh holds what was measured, and from near enough.
                measured = (depth != 0) & (depth != INVALID_DEPTH)
                true_depth[~measured | (true_depth > SCANNED_M)] = 0
                near = truth.seen_by(
                    mesh.vertices[hidden], pose, film.depth_camera, true_depth
                )
                hidden = hidden[near]
                seen[hidden] = truth.is_in_sight(
                    mesh.vertices[hidden], pose, film.renderer.caster
                )
    return seen


def take_picture(
    film: Film, room_from_camera: Float64[np.ndarray, "4 4"]
) -> tuple[np.ndarray, Int64[np.ndarray, "h w"]]:
    """Return the colour image and the thing at each pixel (-1 = none)."""
    linear, triangle = film.renderer.picture(room_from_camera, film.color_camera)
    triangle = triangle.cpu().numpy()
    thing = np.where(triangle < 0, -1, film.surfaces.thing[triangle])
    return film.color_sensor.expose(linear.cpu().numpy()), thing


def take_depth(
    film: Film, room_from_camera: Float64[np.ndarray, "4 4"]
) -> tuple[np.ndarray, Float64[np.ndarray, "h w"]]:
    """Return the depth image in millimetres, and the true depth in metres."""
    camera = film.depth_camera
    triangle, t = film.renderer.trace(room_from_camera, camera)
    triangle, t = triangle.cpu().numpy(), t.cpu().numpy()
    failing = film.renderer.failing.cpu().numpy()[triangle]
    corners = film.surfaces.corners[triangle]
    normal = np.cross(
        corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    )
    rays = pixel_rays(camera.intrinsics, camera.width, camera.height)
    rays = rays @ room_from_camera[:3, :3].T
    cosine = np.abs((normal * rays).sum(-1)) / np.maximum(
        np.linalg.norm(normal, axis=-1) * np.linalg.norm(rays, axis=-1), 1e-12
    )
    grazing = np.clip((0.3 - cosine) / 0.25, 0, 1) ** 2
    failing = np.maximum(failing, grazing).astype(np.float32)
    return film.depth_sensor.measure(t, failing), t


def _scan_info(folder: Path, config: SynthRoomsConfig, film: Film) -> ScanInfo:
    return ScanInfo(
        path=folder,
        frame_count=config.frames,
        color_width=config.color_width,
        color_height=config.color_height,
        depth_width=config.depth_width,
        depth_height=config.depth_height,
        color_intrinsics=film.color_camera.intrinsics,
        depth_intrinsics=film.depth_camera.intrinsics,
        depth_units_per_metre=1000.0,
        color_encoding="jpeg",
        depth_encoding="zlib",
    )


def _write_meta(
    folder: Path, scene: str, labelled: bool, config: SynthRoomsConfig, film: Film
) -> None:
    """Write the text file of a scan; the alignment is kept from test scenes."""
    color, depth = film.color_camera.intrinsics, film.depth_camera.intrinsics
    meta: dict[str, object] = {}
    if labelled:
        meta["axisAlignment"] = invert_rigid(film.world_from_room)
    meta |= {
        "colorHeight": config.color_height,
        "colorWidth": config.color_width,
        "depthHeight": config.depth_height,
        "depthWidth": config.depth_width,
        "fx_color": color[0, 0],
        "fx_depth": depth[0, 0],
        "fy_color": color[1, 1],
        "fy_depth": depth[1, 1],
        "mx_color": color[0, 2],
        "mx_depth": depth[0, 2],
        "my_color": color[1, 2],
        "my_depth": depth[1, 2],
        "numColorFrames": config.frames,
        "numDepthFrames": config.frames,
        "numIMUmeasurements": 0,
        "sceneType": SCENE_TYPES[film.room.kind],
    }
    files = SceneFiles(folder.parent, scene)
    write_meta(folder / files.meta.name, meta)


def _write_mesh(
    folder: Path, scene: str, labelled: bool, film: Film, mesh: truth.TruthMesh
) -> None:
    """Write the mesh, and if labelled its labels, segments and objects."""
    files = SceneFiles(folder.parent, scene)
    vertices: Float32[np.ndarray, "n 3"]
    vertices = transform(film.world_from_room, mesh.vertices).astype(np.float32)
    colors = truth.vertex_colors(mesh, film.renderer)
    vertex = {name: colors[:, i] for i, name in enumerate(("red", "green", "blue"))}
    vertex["alpha"] = np.full(len(vertices), 255, np.uint8)
    write_ply(folder / files.mesh.name, vertices, mesh.faces, vertex=vertex)
    if not labelled:
        return
    nyu40 = np.array(
        [NYU40_FROM_CATEGORY.get(thing.category, 0) for thing in film.room.things]
    )
    write_mesh_labels(
        folder / files.mesh_labels.name, vertices, mesh.faces, nyu40[mesh.thing]
    )
    segments = truth.segment(mesh, film.surfaces)
    write_segments(folder / files.segments.name, scene, segments)
    groups = truth.groups(mesh, segments, film.room)
    write_aggregation(folder / files.aggregation.name, scene, groups)
