"""What the geometry network sees at once: fragments, runs of key frames of a scene.

A training sample is a function of its number alone: which fragments it has, and how
their world is turned, moved and coloured, comes from generators seeded by seed and
number, so that a resumed training sees what an uninterrupted one would.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from gnesf_core.config import FragmentDataConfig, NeuconConfig, TrainingConfig
from gnesf_core.data.keyframes import fragments_of
from gnesf_core.data.store import Frames, Targets
from gnesf_core.errors import BadInput
from gnesf_core.geometries.targets import TargetBox, read_box
from gnesf_core.geometry import camera
from gnesf_core.nets.pictures import frame_picture, jitter
from gnesf_core.shapes import Float32, Float64, Int64, UInt8
from gnesf_core.spread import spread

log = logging.getLogger(__name__)

LEVELS = 3
COARSEST = 2 ** (LEVELS - 1)  # finest voxels per voxel of the coarsest level
DEPTH_STRIDE = 4
_OPEN_SCENES = 128
_ORDER, _VARIATION = 1, 2  # what a generator is for, as part of its seed
_UNMOVED = np.eye(4)

Fragment = dict[str, Any]


class FragmentInputs(NamedTuple):
    """The pictures of a fragment, and the volume that the network looks for in them."""

    pictures: UInt8[Tensor, "views 3 h w"]  # RGB
    pixel_from_world: Float64[Tensor, "views 3 4"]  # (x, y, z, 1) to (u * z, v * z, z)
    origin_voxel: Int64[Tensor, " 3"]  # its first voxel, in the world's finest voxels


def fragment_inputs(
    frames: Frames,
    positions: Sequence[int] | Int64[np.ndarray, " views"],
    settings: NeuconConfig,
    world_from_scan: Float64[np.ndarray, "4 4"] = _UNMOVED,
) -> FragmentInputs:
    """Decode a fragment's pictures and place its volume; negative positions are none.

    Pixels are those of the resized pictures. The world is the scan's own, unless
    training moves the scan into another.
    """
    views = [int(position) for position in positions if position >= 0]
    if not views:
        raise ValueError("a fragment has at least one view")
    size = settings.image_width, settings.image_height
    intrinsics = camera.scale_intrinsics(
        frames.color_intrinsics, frames.color_size, size
    )
    world_from_camera = world_from_scan @ frames.world_from_camera[views]
    return FragmentInputs(
        torch.stack([frame_picture(frames, view, size) for view in views]),
        torch.from_numpy(camera.pixel_from_world(intrinsics, world_from_camera)),
        volume_origin(frames, views, settings, world_from_scan),
    )


def volume_origin(
    frames: Frames,
    views: Sequence[int],
    settings: NeuconConfig,
    world_from_scan: Float64[np.ndarray, "4 4"] = _UNMOVED,
) -> Int64[Tensor, " 3"]:
    """Return the first voxel of the volume that views are to be seen in.

    In x and y its middle is that of the box around all that the views see up to
    `view_range_m`; its bottom is where the settings say. It starts at a whole voxel of
    the coarsest level, so that the volumes of a scene share one lattice at each level.
    """
    width, height = frames.color_size
    edges = [(u, v, 1) for u in (-0.5, width - 0.5) for v in (-0.5, height - 0.5)]
    rays = np.array(edges) @ np.linalg.inv(frames.color_intrinsics).T
    frustum = np.concatenate([np.zeros((1, 3)), rays * settings.view_range_m])
    frusta = np.broadcast_to(frustum, (len(views), *frustum.shape))
    world_from_camera = world_from_scan @ frames.world_from_camera[views]
    points_world = camera.transform(world_from_camera, frusta).reshape(-1, 3)
    lower_world = (points_world.min(0) + points_world.max(0)) / 2
    counts = np.array([settings.volume_x, settings.volume_y, settings.volume_z])
    lower_world -= (counts - 1) / 2 * settings.voxel_size_m
    lower_world[2] = settings.volume_bottom_m
    blocks = lower_world / (COARSEST * settings.voxel_size_m)
    # A bottom that is a whole number of blocks stays that, however it is rounded.
    return torch.from_numpy(COARSEST * np.floor(blocks + 1e-6).astype(np.int64))


def measured_depth(
    frames: Frames,
    views: Sequence[int],
    world_from_scan: Float64[np.ndarray, "4 4"],
) -> tuple[Float32[Tensor, "views h w"], Float64[Tensor, "views 3 4"]]:
    """Return every fourth pixel of views' depth, and the matrices that find it.

    The nearest of these pixels is the one amid the 4 x 4 pixels that it stands for.
    """
    first = DEPTH_STRIDE // 2
    part = slice(first, None, DEPTH_STRIDE)
    depth_m = np.stack([frames.depth_m(view)[part, part] for view in views])
    scaled = np.diag([1 / DEPTH_STRIDE, 1 / DEPTH_STRIDE, 1.0])
    scaled[:2, 2] = -first / DEPTH_STRIDE
    poses = world_from_scan @ frames.world_from_camera[views]
    matrices = camera.pixel_from_world(scaled @ frames.depth_intrinsics, poses)
    return torch.from_numpy(depth_m), torch.from_numpy(matrices)


class FragmentSamples:
    """Fragments, later runs of fragments, with the depth they learn from, by number.

    An epoch shows every fragment once, and then every run of `sequence_fragments`
    consecutive fragments, in an order of its own; a scene that has fewer is one run, in
    which its last fragment comes again. So all runs are of one length, all processes
    have as much to do, and none needs scenes of its own.

    Each sample's world is turned about the vertical and moved, all its fragments alike,
    so that they share one lattice. Its colours are varied alike as well: what differs
    between the views of a real camera is in the scans already, and more of it would
    only hide from the network which voxels look the same in all views.

    Of the scenes with fragments, by name, the middle ones of `held_out_scenes` equally
    long stretches are not shown.
    """

    def __init__(
        self,
        frames: Sequence[Path],
        targets: Sequence[Path],
        settings: NeuconConfig,
        data: FragmentDataConfig,
        training: TrainingConfig,
    ) -> None:
        paths = list(zip(frames, targets, strict=True))
        self._paths = [paths[n] for n in spread(len(paths), data.scenes or len(paths))]
        self._settings, self._data = settings, data
        self.seed = training.seed
        self._open: dict[int, tuple[Frames, Targets]] = {}
        self.fingerprints: dict[str, str] = {}  # by what and scene
        self._counts: dict[int, int] = {}  # fragments by scene, in order of names
        self._survey()
        self._held_out = self._choose_held_out()
        self._singles = self._starts(1)
        self._runs = self._starts(data.sequence_fragments)
        self._first_run = data.sequence_from_step * training.batch
        if settings.fusion != "none" and data.sequence_from_step >= training.steps:
            raise BadInput(
                "settings",
                "sequence_from_step",
                expected=f"fewer than the {training.steps} steps of the training",
                found=data.sequence_from_step,
                remedy="let the memory learn from an earlier step on; or fusion: none",
            )

    def _survey(self) -> None:
        """Count the fragments of every scene."""
        counts = {}
        for scene in range(len(self._paths)):
            frames, targets = self._files(scene)
            self.fingerprints[f"frames {frames.scene}"] = frames.fingerprint
            self.fingerprints[f"targets {frames.scene}"] = targets.fingerprint
            count = len(fragments_of(frames))
            if count:
                counts[frames.scene, scene] = count
            else:
                log.warning("%s has no fragments to train on", frames.scene)
        if not counts:
            raise BadInput(
                self._paths[0][0] if self._paths else "training split",
                "fragments",
                expected="fragments to train on",
                found=f"none in {len(self._paths)} files",
                remedy="check the `frames` settings and the poses of the scans",
            )
        self._counts = {scene: counts[name, scene] for name, scene in sorted(counts)}

    def _choose_held_out(self) -> list[int]:
        """Return the scenes that are spread most evenly over the names."""
        wanted, found = self._data.held_out_scenes, len(self._counts)
        if wanted >= found:
            raise BadInput(
                "settings",
                "held_out_scenes",
                expected=f"fewer than the {found} training scenes with fragments",
                found=wanted,
                remedy="hold fewer scenes out, or train on more",
            )
        scenes = list(self._counts)
        return [scenes[place] for place in spread(found, wanted)]

    def _starts(self, length: int) -> Int64[np.ndarray, "starts 2"]:
        """Return the scene and the first fragment of every run."""
        return np.array(
            [
                (scene, start)
                for scene, count in self._counts.items()
                if scene not in self._held_out
                for start in range(max(count - length, 0) + 1)
            ]
        )

    def has_memory(self, number: int) -> bool:
        """Tell whether a sample is a run of fragments that share a memory."""
        return self._settings.fusion != "none" and number >= self._first_run

    def __getitem__(self, number: int) -> dict[str, Any]:
        starts, length, past = self._singles, 1, number
        if self.has_memory(number):
            starts, length = self._runs, self._data.sequence_fragments
            past = number - self._first_run
        epoch, place = divmod(past, len(starts))
        shuffler = np.random.default_rng((self.seed, _ORDER, length, epoch))
        scene, start = starts[shuffler.permutation(len(starts))[place]].tolist()
        last = self._counts[scene] - 1
        run = [min(start + step, last) for step in range(length)]
        rng = np.random.default_rng((self.seed, _VARIATION, number))
        world_from_scan = self._moved(rng)
        factors = 1 + self._data.color_jitter * rng.uniform(-1, 1, 3)
        which = (
            f"fragments {start}-{run[-1]}" if run[-1] > start else f"fragment {start}"
        )
        return {
            "name": f"{self._files(scene)[0].scene} {which}",
            "number": number,
            "fragments": list(self._fragments(scene, run, world_from_scan, factors)),
        }

    def held_out(self) -> Iterator[tuple[Int64[Tensor, "n 3"], Iterator[Fragment]]]:
        """Yield the scenes that are never shown: where volumes begin, and fragments.

        They are whole and as they are; each fragment is read when it is asked for.
        """
        for scene in self._held_out:
            frames, _ = self._files(scene)
            origins = [
                volume_origin(frames, views, self._settings)
                for views in fragments_of(frames)
            ]
            run = range(len(origins))
            yield (
                torch.stack(origins),
                self._fragments(scene, run, _UNMOVED, np.ones(3)),
            )

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, list]:
        """Return a batch: names, numbers, and the fragments of each sample."""
        names = [sample["name"] for sample in samples]
        numbers = [sample["number"] for sample in samples]
        fragments = [sample["fragments"] for sample in samples]
        return {"name": names, "number": numbers, "samples": fragments}

    def _moved(self, rng: np.random.Generator) -> Float64[np.ndarray, "4 4"]:
        """Draw a turn about the vertical and a shift."""
        angle = np.deg2rad(self._data.rotation_deg * rng.uniform(-1, 1))
        cosine, sine = np.cos(angle), np.sin(angle)
        world_from_scan = np.eye(4)
        world_from_scan[:2, :2] = [[cosine, -sine], [sine, cosine]]
        world_from_scan[:3, 3] = self._data.shift_m * rng.uniform(-1, 1, 3)
        return world_from_scan

    def _fragments(
        self,
        scene: int,
        run: Sequence[int],
        world_from_scan: Float64[np.ndarray, "4 4"],
        factors: Float64[np.ndarray, " 3"],
    ) -> Iterator[Fragment]:
        frames, targets = self._files(scene)
        positions = fragments_of(frames)
        for views in (positions[number] for number in run):
            inputs = fragment_inputs(frames, views, self._settings, world_from_scan)
            if (factors != 1).any():
                varied = [jitter(picture, factors) for picture in inputs.pictures]
                inputs = inputs._replace(pictures=torch.stack(varied))
            depth_m, matrices = measured_depth(frames, views, world_from_scan)
            yield {
                "inputs": inputs,
                "depth_m": depth_m,
                "depth_from_world": matrices,
                "targets": self._targets(targets, inputs, world_from_scan),
            }

    def _targets(
        self,
        targets: Targets,
        inputs: FragmentInputs,
        world_from_scan: Float64[np.ndarray, "4 4"],
    ) -> list[TargetBox]:
        """Read what surrounds the centres of the voxels of a volume, at every level."""
        s = self._settings
        first = inputs.origin_voxel.numpy()
        last = first + [s.volume_x - 1, s.volume_y - 1, s.volume_z - 1]
        bounds_m = first * s.voxel_size_m, last * s.voxel_size_m
        return [
            read_box(targets, level, *bounds_m, world_from_scan)
            for level in range(LEVELS)
        ]

    def _files(self, scene: int) -> tuple[Frames, Targets]:
        """Open a scene, or return it if it is open; files do not survive a pickle."""
        if scene not in self._open:
            if len(self._open) == _OPEN_SCENES:
                for file in self._open.pop(next(iter(self._open))):
                    file.close()
            self._open[scene] = self._open_scene(*self._paths[scene])
        return self._open[scene]

    def _open_scene(
        self, frames_path: Path, targets_path: Path
    ) -> tuple[Frames, Targets]:
        """Open the files of a scene, refusing those that do not belong together."""
        frames = Frames(frames_path)
        targets = Targets(targets_path, frames.scene)
        targets.expect_input("frames", frames.fingerprint)
        if targets.levels < LEVELS:
            _refuse_targets(targets, "targets.levels", f">= {LEVELS}", targets.levels)
        for level in range(LEVELS):
            wanted = self._settings.truncation_m * 2**level
            found = float(targets.attributes(f"level{level}")["truncation_m"])
            if not math.isclose(wanted, found, rel_tol=1e-6):
                where = f"truncation of targets.level{level}"
                _refuse_targets(targets, where, f"{wanted} m, as in the recipe", found)
        return frames, targets

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": {}}


def _refuse_targets(
    targets: Targets, place: str, expected: str, found: object
) -> NoReturn:
    raise BadInput(
        targets.path,
        place,
        expected=expected,
        found=found,
        remedy="let `targets` of the configuration fit the recipe; run snakemake again",
    )
