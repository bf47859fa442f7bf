"""Every HDF5 layout of the project: the names, types and units of what is on disk.

frames   one scene's kept frames: colour bytes untouched, depth, poses, labels
targets  one scene's TSDF pyramid
prior    class probabilities of one scene's kept frames
volume   one scene's geometry, measured or estimated: signed distances and encoding

`docs/output.md` describes each field. Files are opened where they are used, in the
process that uses them: an HDF5 handle does not survive a fork.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from gnesf_core.data import images
from gnesf_core.data.container import Container, ContainerWriter, write_container
from gnesf_core.data.scan import CaptureWorld, ScanInfo
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.shapes import Bool, Float32, Float64, Int64, UInt8

INVALID_DEPTH = 65535  # sensors saturate to this; like 0 it means "no depth"

# Why a raw frame can or cannot be used, in the order in which it is decided.
FRAME_STATUS = (
    "usable",
    "pose is not finite",
    "pose is not a rigid motion",
    "colour is missing",
    "colour cannot be decoded",
    "depth is missing or empty",
    "depth cannot be decoded",
)
USABLE = 0


@dataclass(frozen=True)
class Selection:
    """Which raw frames are kept, and in which roles."""

    index: Int64[np.ndarray, " kept"]  # raw frame numbers, ascending
    is_key: Bool[np.ndarray, " kept"]
    is_view: Bool[np.ndarray, " kept"]
    fragments: Int64[np.ndarray, "fragments views"]  # positions in `index`; -1 = none


class FramesWriter:
    """Streams the kept frames of one scan into a `frames` file."""

    def __init__(
        self,
        writer: ContainerWriter,
        info: ScanInfo,
        selection: Selection,
        with_labels: bool,
    ) -> None:
        self._writer = writer
        self._info = info
        self._offsets = [0]
        count = len(selection.index)
        self._color = writer.file.create_dataset(
            "color/bytes",
            (0,),
            "u1",
            maxshape=(None,),
            chunks=(1 << 16,),
            fletcher32=True,
        )
        self._depth = None
        if info.has_depth:
            shape = (info.depth_height, info.depth_width)
            self._depth = writer.frames("depth/frames", count, shape, "<u2")
        self._labels = None
        if with_labels:
            shape = (info.color_height, info.color_width)
            self._labels = writer.frames("labels/frames", count, shape, "u1")

    def add(
        self,
        color: bytes,
        depth: bytes | np.ndarray | None,
        labels: UInt8[np.ndarray, "h w"] | None,
    ) -> None:
        """Append one frame; `depth` is uint16 values or their zlib stream, if any."""
        position = len(self._offsets) - 1
        start = self._offsets[-1]
        self._color.resize((start + len(color),))
        self._color[start:] = np.frombuffer(color, np.uint8)
        self._writer.account_bytes(f"color[{position}]", color)
        self._offsets.append(start + len(color))
        if self._depth is not None and isinstance(depth, bytes):
            # A scan's zlib stream is the HDF5 chunk that it would become.
            self._writer.put_stream(self._depth, position, depth)
            self._writer.account_bytes(f"depth[{position}]", depth)
        elif self._depth is not None and depth is not None:
            self._writer.put(self._depth, position, depth)
        if self._labels is not None and labels is not None:
            self._writer.put(self._labels, position, labels)

    def finish(self) -> None:
        """Write what is known only at the end."""
        info = self._info
        self._writer.array("color/offsets", np.asarray(self._offsets, np.int64))
        self._writer.array("color/intrinsics", info.color_intrinsics)
        if info.has_depth:
            self._writer.array("depth/intrinsics", info.depth_intrinsics)
        self._writer.attributes(
            "color",
            encoding=info.color_encoding,
            width=info.color_width,
            height=info.color_height,
        )
        if info.has_depth:
            self._writer.attributes(
                "depth",
                units_per_metre=info.depth_units_per_metre,
                invalid=INVALID_DEPTH,
                width=info.depth_width,
                height=info.depth_height,
            )


@contextmanager
def write_frames(
    path: Path,
    scene: str,
    info: ScanInfo,
    raw_world_from_camera: Float64[np.ndarray, "raw 4 4"],
    raw_status: UInt8[np.ndarray, " raw"],
    selection: Selection,
    with_labels: bool,
    made_by: Mapping[str, Any],
    world: CaptureWorld | None = None,
) -> Iterator[FramesWriter]:
    """Publish a `frames` file; the block adds each kept frame in order.

    `world` says how poses were moved, if they are not as they stand in the scan.
    """
    with write_container(path, "frames", scene, made_by) as writer:
        writer.array("raw/world_from_camera", raw_world_from_camera, compress=True)
        writer.array("raw/status", raw_status)
        writer.attributes("raw", status_names=json.dumps(FRAME_STATUS))
        if world is not None:
            _write_world(writer, world)
        writer.array("kept/index", selection.index)
        poses = raw_world_from_camera[selection.index]
        writer.array("kept/world_from_camera", poses)
        writer.array("kept/is_key", selection.is_key.astype(np.uint8))
        writer.array("kept/is_view", selection.is_view.astype(np.uint8))
        writer.array("fragments", selection.fragments)
        frames = FramesWriter(writer, info, selection, with_labels)
        yield frames
        frames.finish()


def _write_world(writer: ContainerWriter, world: CaptureWorld) -> None:
    name = "raw/world_from_capture"
    writer.array(name, world.world_from_capture)
    writer.attributes(
        name,
        metres_per_unit=world.metres_per_unit,
        scale_by=world.scale_by,
        up_capture=json.dumps(world.up_capture.tolist()),
        up_by=world.up_by,
        floor_m=world.floor_m,
        floor_by=world.floor_by,
    )


class Frames(Container):
    """The kept frames of one scene."""

    def __init__(self, path: Path, scene: str | None = None) -> None:
        super().__init__(path, "frames", scene)
        array = self.array
        self.raw_world_from_camera = array("raw/world_from_camera", "<f8", (None, 4, 4))
        self.raw_status = array("raw/status", "u1", (len(self.raw_world_from_camera),))
        self.index = array("kept/index", "<i8", (None,))
        count = len(self.index)
        self.world_from_camera = array("kept/world_from_camera", "<f8", (count, 4, 4))
        self.is_key = array("kept/is_key", "u1", (count,)).astype(bool)
        self.is_view = array("kept/is_view", "u1", (count,)).astype(bool)
        self.fragments = array("fragments", "<i8", (None, None))
        self.color_intrinsics = array("color/intrinsics", "<f8", (3, 3))
        color = self.attributes("color")
        self.color_encoding = color["encoding"]
        self.color_size = int(color["width"]), int(color["height"])
        self._offsets = array("color/offsets", "<i8", (count + 1,))
        self._color = self.dataset("color/bytes", "u1", (int(self._offsets[-1]),))
        self._depth = self._open_depth() if self.has("depth") else None
        self._labels: h5py.Dataset | None = None
        if self.has("labels"):
            width, height = self.color_size
            self._labels = self.dataset("labels/frames", "u1", (count, height, width))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def has_labels(self) -> bool:
        """Tell whether the scene came with 2D labels."""
        return self._labels is not None

    def color_bytes(self, position: int) -> bytes:
        """Return a kept frame's colour image as the scan encoded it."""
        part = slice(self._offsets[position], self._offsets[position + 1])
        return self.read(self._color, part).tobytes()

    def color(self, position: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decode a kept frame's colour image to RGB."""
        where = (self.path, f"colour of frame {self.index[position]}")
        data = self.color_bytes(position)
        return images.decode_color(data, self.color_encoding, *self.color_size, where)

    @property
    def has_depth(self) -> bool:
        """Tell whether the scene came with depth images."""
        return self._depth is not None

    def _known_depth(self) -> "_Depth":
        if self._depth is None:
            raise BadInput(
                self.path,
                "depth",
                expected="depth images",
                found="a capture without any",
                remedy="use recipes that need none: geometries by neucon or "
                "plane_sweep, fields by gnesf",
            )
        return self._depth

    @property
    def depth_size(self) -> tuple[int, int]:
        """Return width and height of the depth images."""
        return self._known_depth().size

    @property
    def depth_intrinsics(self) -> Float64[np.ndarray, "3 3"]:
        """Return the matrix of the depth camera."""
        return self._known_depth().intrinsics

    def depth_m(self, position: int) -> Float32[np.ndarray, "h w"]:
        """Return a kept frame's depth in metres; 0 where there is none."""
        depth = self._known_depth()
        units = self.frame(depth.frames, position)
        return depth_in_metres(units, depth.units_per_metre)

    def _open_depth(self) -> "_Depth":
        about = self.attributes("depth")
        width, height = int(about["width"]), int(about["height"])
        return _Depth(
            self.dataset("depth/frames", "<u2", (len(self.index), height, width)),
            self.array("depth/intrinsics", "<f8", (3, 3)),
            (width, height),
            float(about["units_per_metre"]),
        )

    def labels(self, position: int) -> UInt8[np.ndarray, "h w"]:
        """Return a kept frame's class ids, at the colour camera's size."""
        assert self._labels is not None
        return self.frame(self._labels, position)


class _Depth(NamedTuple):
    """The depth images of a scene and their camera."""

    frames: h5py.Dataset
    intrinsics: Float64[np.ndarray, "3 3"]
    size: tuple[int, int]
    units_per_metre: float


def depth_in_metres(
    units: np.ndarray, units_per_metre: float
) -> Float32[np.ndarray, "h w"]:
    """Convert a sensor's integers to metres; saturated values become 0 (none)."""
    depth_m = units.astype(np.float32) / np.float32(units_per_metre)
    depth_m[units == INVALID_DEPTH] = 0
    return depth_m


@dataclass(frozen=True)
class DistanceGrid:
    """Truncated signed distances on a regular grid."""

    origin_world: Float64[np.ndarray, " 3"]  # centre of voxel (0, 0, 0)
    voxel_size_m: float
    truncation_m: float
    tsdf: Float32[np.ndarray, "x y z"]  # in [-1, 1], positive in free space
    weight: np.ndarray  # uint16 [x, y, z], views that observed the voxel


def write_targets(
    path: Path, scene: str, levels: Sequence[DistanceGrid], made_by: Mapping[str, Any]
) -> None:
    """Publish a `targets` file, finest level first."""
    with write_container(path, "targets", scene, made_by) as writer:
        for number, level in enumerate(levels):
            name = f"level{number}"
            # float16 keeps 1/2048 of a truncation distance near the surface.
            writer.array(f"{name}/tsdf", level.tsdf.astype(np.float16), compress=True)
            writer.array(f"{name}/weight", level.weight, compress=True)
            writer.array(f"{name}/origin_world", level.origin_world)
            writer.attributes(
                name,
                voxel_size_m=level.voxel_size_m,
                truncation_m=level.truncation_m,
            )
        writer.attributes("/", levels=len(levels))


class Targets(Container):
    """The TSDF pyramid of one scene."""

    def __init__(self, path: Path, scene: str | None = None) -> None:
        super().__init__(path, "targets", scene)
        self.levels = int(self.attributes("/")["levels"])

    def level(self, number: int) -> DistanceGrid:
        """Read one level; 0 is the finest."""
        return self.box(number, np.full(3, -np.inf), np.full(3, np.inf))

    def box(
        self,
        number: int,
        lower_world: Float64[np.ndarray, " 3"],
        upper_world: Float64[np.ndarray, " 3"],
    ) -> DistanceGrid:
        """Read the part of a level around a box, down to nothing if it lies outside.

        The eight voxels around a point of the box are in it, as far as there are any.
        """
        name = f"level{number}"
        attributes = self.attributes(name)
        size_m = float(attributes["voxel_size_m"])
        origin_world = self.array(f"{name}/origin_world", "<f8", (3,))
        tsdf = self.dataset(f"{name}/tsdf", "<f2", (None, None, None))
        weight = self.dataset(f"{name}/weight", "<u2", tsdf.shape)
        lower = np.floor((lower_world - origin_world) / size_m).clip(0, tsdf.shape)
        upper = np.ceil((upper_world - origin_world) / size_m) + 1
        upper = upper.clip(lower, tsdf.shape)
        bounds = zip(lower.astype(int), upper.astype(int), strict=True)
        part = tuple(slice(start, stop) for start, stop in bounds)
        return DistanceGrid(
            origin_world + size_m * lower,
            size_m,
            float(attributes["truncation_m"]),
            self.read(tsdf, part).astype(np.float32),
            self.read(weight, part),
        )


@dataclass(frozen=True)
class SceneVolume:
    """One scene's geometry: where its surface is, and what a network says about it."""

    surface: DistanceGrid  # weight: views that observed the voxel; 0 = nothing known
    confidence: Float32[np.ndarray, "x y z"]  # probability of a surface within reach
    encoding_ijk: Int64[np.ndarray, "n 3"]  # voxels that have an encoding, in C order
    encoding: Float32[np.ndarray, "n channels"]  # M of the paper; 0 channels = none


_MOST_VOXELS = 1 << 28  # as tsdf.py makes them
_MOST_CHANNELS = 1 << 12


def write_volume(
    path: Path, frames: Frames, volume: SceneVolume, made_by: Mapping[str, Any]
) -> None:
    """Publish a `volume` file of the scene of `frames`."""
    surface = volume.surface
    encoding = volume.encoding.astype(np.float16)
    for name, values in (("tsdf", surface.tsdf), ("encoding", encoding)):
        if not np.isfinite(values).all():
            raise BadInput(
                path,
                name,
                expected="finite numbers",
                found="others, or too large ones for float16",
                remedy="look at the weights or the frames that the volume is made of",
            )
    with write_container(path, "volume", frames.scene, made_by) as writer:
        writer.array("tsdf", surface.tsdf.astype(np.float16), compress=True)
        writer.array("weight", surface.weight.astype(np.uint16), compress=True)
        shares = np.rint(volume.confidence * 255).astype(np.uint8)
        writer.array("confidence", shares, compress=True)
        writer.array("origin_world", surface.origin_world)
        writer.array(
            "encoding/ijk", volume.encoding_ijk.astype(np.int32), compress=True
        )
        writer.array("encoding/features", encoding)
        writer.attributes(
            "/",
            voxel_size_m=surface.voxel_size_m,
            truncation_m=surface.truncation_m,
        )


class VolumeFile(Container):
    """The geometry of one scene, whoever estimated it."""

    def __init__(self, path: Path, frames: Frames) -> None:
        super().__init__(path, "volume", frames.scene)
        self.expect_input("frames", frames.fingerprint)

    def volume(self) -> SceneVolume:
        """Read all of it."""
        about = self.attributes("/")
        stored = self.dataset("tsdf", "<f2", (None, None, None))
        if math.prod(stored.shape) > _MOST_VOXELS:
            self._refuse("tsdf", f"at most {_MOST_VOXELS} voxels", stored.shape)
        tsdf = self.read(stored, ()).astype(np.float32)
        if not (np.abs(tsdf) <= 1).all():  # not so for NaN either
            self._refuse("tsdf", "distances in [-1, 1]", "others")
        surface = DistanceGrid(
            self.array("origin_world", "<f8", (3,)),
            float(about["voxel_size_m"]),
            float(about["truncation_m"]),
            tsdf,
            self.array("weight", "<u2", tsdf.shape),
        )
        sizes = surface.voxel_size_m, surface.truncation_m
        if not (min(sizes) > 0 and np.isfinite([*sizes, *surface.origin_world]).all()):
            found = f"{surface.origin_world}, {sizes}"
            self._refuse("grid", "a finite origin and sizes above 0", found)
        shares = self.array("confidence", "u1", tsdf.shape)
        voxels = self.dataset("encoding/ijk", "<i4", (None, 3))
        encoded = self.dataset("encoding/features", "<f2", (len(voxels), None))
        if len(voxels) > tsdf.size or encoded.shape[1] > _MOST_CHANNELS:
            expected = f"at most {tsdf.size} voxels of {_MOST_CHANNELS} channels"
            self._refuse("encoding", expected, encoded.shape)
        ijk = self.read(voxels, ()).astype(np.int64)
        if ((ijk < 0) | (ijk >= tsdf.shape)).any():
            self._refuse("encoding/ijk", f"voxels of {tsdf.shape}", "others")
        features = self.read(encoded, ())
        if not np.isfinite(features).all():
            self._refuse("encoding/features", "finite numbers", "others")
        return SceneVolume(
            surface,
            shares.astype(np.float32) / 255,
            ijk,
            features.astype(np.float32),
        )


class PriorWriter:
    """Streams the class maps of a scene's kept frames into a `prior` file."""

    def __init__(
        self,
        writer: ContainerWriter,
        count: int,
        map_size: tuple[int, int],
        logits: bool,
    ) -> None:
        width, height = map_size
        shape = (len(CLASS_NAMES), height, width)
        fields = [("probabilities", "u1", shape)]
        fields += [("logits", "<f2", shape)] if logits else []
        self.record_type = np.dtype(fields)
        self._writer = writer
        self._next = 0
        self._datasets = {
            name: writer.frames(name, count, shape, kind)
            for name, kind, shape in fields
        }

    def record(self, scores: Float32[np.ndarray, "classes h w"]) -> np.ndarray:
        """Return what is stored of one frame's class scores."""
        if not (np.isfinite(scores).all() and (scores >= 0).all()):
            raise BadInput(
                self._writer.file.filename,
                f"kept frame {self._next}",
                expected="class scores >= 0",
                found="negative or not finite ones",
                remedy="look at the weights or the maps that the prior is made of",
            )
        record = np.empty((), self.record_type)
        record["probabilities"] = quantize_probabilities(scores)
        if "logits" in self._datasets:
            logits = np.log(np.maximum(scores, SMALLEST_SCORE))
            # Where nothing is known no class has a logit, and blends of them skip it.
            record["logits"] = np.where(scores.any(axis=0), logits, -np.inf)
        return record

    def put(self, record: np.ndarray) -> None:
        """Append one frame's record."""
        for name, dataset in self._datasets.items():
            self._writer.put(dataset, self._next, record[name])
        self._next += 1

    def add(self, scores: Float32[np.ndarray, "classes h w"]) -> None:
        """Append one frame's class scores, which are >= 0 and sum to anything."""
        self.put(self.record(scores))


_MOST_MAP_PIXELS = 1 << 24
SMALLEST_SCORE = 1e-7  # below, a logarithm says nothing about the class any more


def quantize_probabilities(
    scores: Float32[np.ndarray, "classes h w"],
) -> UInt8[np.ndarray, "classes h w"]:
    """Divide scores by their sum over classes, in 1/255; readers renormalise.

    A pixel whose scores are all 0 stays 0: there the prior says nothing.
    """
    total = scores.sum(axis=0)
    shares = np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)
    return np.rint(shares * 255).astype(np.uint8)


@contextmanager
def write_prior(
    path: Path,
    frames: Frames,
    map_size: tuple[int, int],
    logits: bool,
    made_by: Mapping[str, Any],
) -> Iterator[PriorWriter]:
    """Publish a `prior` file for the kept frames of `frames`, in their order."""
    with write_container(path, "prior", frames.scene, made_by) as writer:
        maps = PriorWriter(writer, len(frames), map_size, logits)
        yield maps
        width, height = frames.color_size
        writer.attributes(
            "probabilities",
            class_names=json.dumps(CLASS_NAMES),
            image_width=width,
            image_height=height,
        )


class PriorMaps(Container):
    """Class probabilities of the kept frames of one scene, whoever estimated them.

    A map covers the whole colour image: its intrinsics are the colour camera's, scaled
    from `frames.color_size` to `map_size`.
    """

    def __init__(self, path: Path, frames: Frames) -> None:
        super().__init__(path, "prior", frames.scene)
        self.expect_input("frames", frames.fingerprint)
        shape = (len(frames), len(CLASS_NAMES), None, None)
        self._probabilities = self.dataset("probabilities", "u1", shape)
        if math.prod(self._probabilities.shape[2:]) > _MOST_MAP_PIXELS:
            size = self._probabilities.shape[2:]
            self._refuse("map size", f"at most {_MOST_MAP_PIXELS} pixels", size)
        self.map_size: tuple[int, int] = self._probabilities.shape[:1:-1]
        self._logits: h5py.Dataset | None = None
        if self.has("logits"):
            shape = self._probabilities.shape
            self._logits = self.dataset("logits", "<f2", shape)
        names = json.loads(self.attributes("probabilities")["class_names"])
        if tuple(names) != CLASS_NAMES:
            self._refuse("class names", str(CLASS_NAMES), names)

    def __len__(self) -> int:
        return len(self._probabilities)

    def probabilities(self, position: int) -> UInt8[np.ndarray, "classes h w"]:
        """Return a kept frame's probabilities in 1/255; sums are only nearly 255."""
        return self.frame(self._probabilities, position)

    @property
    def has_logits(self) -> bool:
        """Tell whether the recipe asked for logits."""
        return self._logits is not None

    def logits(self, position: int) -> np.ndarray:
        """Return a kept frame's logits, float16 [classes, h, w]."""
        assert self._logits is not None
        return self.frame(self._logits, position)

    @property
    def stored_bytes(self) -> int:
        """Return the size of the compressed maps."""
        sizes = [
            d.id.get_storage_size() for d in (self._probabilities, self._logits) if d
        ]
        return sum(sizes)
