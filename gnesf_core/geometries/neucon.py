"""Geometry by the coarse-to-fine network: a scene's fragments, one after the other.

What is remembered at the finest level in the end is the encoding volume M, and the
signed distances are what the network's last layer says of it (Eq. 2). Without a memory
M is the mean of what the fragments say, each counted by its views; the last layer is
linear, so that averages distances as well.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gnesf_core.config import NeuconConfig
from gnesf_core.data.keyframes import fragments_of
from gnesf_core.data.publish import sha256_of
from gnesf_core.data.store import DistanceGrid, Frames, SceneVolume, Targets
from gnesf_core.errors import BadInput
from gnesf_core.geometries.coarse_to_fine import (
    LevelResult,
    Neucon,
    make_memories,
    recall,
)
from gnesf_core.geometries.fragments import (
    LEVELS,
    FragmentInputs,
    fragment_inputs,
    volume_origin,
)
from gnesf_core.geometry.tsdf import MOST_VOXELS
from gnesf_core.nets.mnasnet import load_imagenet
from gnesf_core.progress import Progress
from gnesf_core.shapes import Int64
from gnesf_core.sparse.engine import engine
from gnesf_core.training.loop import moved
from gnesf_core.training.weights import load_into

Settings = NeuconConfig
PACKAGES = ("safetensors",)

_LEAST_TRUNCATION = 1.5  # voxels: below, a surface cannot be told from a jump of depth


def build(settings: NeuconConfig, device: torch.device) -> Neucon:
    """Return the network, with the encoder's weights where the recipe names some."""
    network = _network(settings, device)
    if settings.encoder_weights:
        load_imagenet(network.encoder, Path(settings.encoder_weights))
    return network


def _network(settings: NeuconConfig, device: torch.device) -> Neucon:
    if settings.truncation_m < _LEAST_TRUNCATION * settings.voxel_size_m * 0.999:
        raise BadInput(
            "recipe",
            "truncation_m",
            expected=f"{_LEAST_TRUNCATION} voxels of {settings.voxel_size_m} m or more",
            found=settings.truncation_m,
            remedy="choose smaller voxels, or a larger truncation here and in targets",
        )
    return Neucon(settings, engine(settings.sparse_engine, device))


def sources(settings: NeuconConfig) -> list[Path]:
    """Name the files that training starts from."""
    return [Path(settings.encoder_weights)] if settings.encoder_weights else []


def open_geometry(
    settings: NeuconConfig, weights: Path | None, device: str
) -> "NeuconGeometry":
    """Return the network with its weights."""
    if weights is None:
        raise BadInput(
            "recipe",
            "weights",
            expected="the weights of the network",
            found="none",
            remedy="train it, or name a file of weights in the recipe",
        )
    where = torch.device(device)
    network = _network(settings, where)
    load_into(network, weights)
    return NeuconGeometry(network.to(where).eval(), sha256_of(weights))


class NeuconGeometry:
    """The trained network, as a geometry."""

    needs_targets = False

    def __init__(self, network: Neucon, weights_sha256: str) -> None:
        self.network = network
        self._weights_sha256 = weights_sha256

    def inputs(self) -> dict[str, str]:
        """Return the digest of the weights."""
        return {"weights": self._weights_sha256}

    @torch.inference_mode()
    def reconstruct(self, frames: Frames, targets: Targets | None) -> SceneVolume:
        """Let the network see a scene's fragments in their order."""
        settings = self.network.settings
        fragments = fragments_of(frames)
        if not fragments:
            raise BadInput(
                frames.path,
                "fragments",
                expected="key frames to reconstruct the scene from",
                found="none",
                remedy="look at the scan's poses, or take the scene out of its list",
            )
        origins = torch.stack([volume_origin(frames, f, settings) for f in fragments])
        extent = origins.amax(0) - origins.amin(0) + torch.tensor(self.network.shape(0))
        if int(extent.prod()) > MOST_VOXELS:
            raise BadInput(
                frames.path,
                "kept/world_from_camera",
                expected="a scene that fits into memory",
                found=f"a volume of {extent.tolist()} voxels",
                remedy="look for stray poses, or raise voxel_size_m in the recipe",
            )
        scene = SceneFusion(self.network, origins)
        progress = Progress("fragments", len(fragments))
        for done, positions in enumerate(fragments, 1):
            scene.add(fragment_inputs(frames, positions, settings))
            progress.tell(done)
        return scene.volume()


class SceneFusion:
    """What a network has said so far about a scene."""

    def __init__(self, network: Neucon, origins: Int64[Tensor, "n 3"]) -> None:
        self._network = network
        self._memories = make_memories(network, origins)
        finest, coarsest = self._memories[0], self._memories[-1]
        self._remembers = network.settings.fusion == "gru"
        if not self._remembers:
            # Sums of features, and of the views that each was counted by.
            self._memories = [finest.like(network.channels[0] + 1)]
        self._views = torch.zeros(
            coarsest.shape, dtype=torch.int32, device=finest.device
        )
        self._lower, self._shape = finest.lower, finest.shape

    @property
    def nbytes(self) -> int:
        """Return the bytes of everything that outlives a fragment."""
        return self._views.nbytes + sum(memory.nbytes for memory in self._memories)

    @torch.inference_mode()
    def add(self, inputs: FragmentInputs) -> None:
        """Let the network see one more fragment."""
        inputs = moved(inputs, self._views.device)
        memories = [self._memories] if self._remembers else None
        results = self._network([inputs], memories)
        self._count(inputs, results[0])
        if not self._remembers:
            self._average(inputs, results[-1])

    def _count(self, inputs: FragmentInputs, coarsest: LevelResult) -> None:
        scale = 2 ** (LEVELS - 1)
        start = (inputs.origin_voxel.cpu() - self._lower) // scale
        ijk = coarsest.sites.batch_xyz[:, 1:] + start.to(coarsest.count.device)
        self._views[tuple(ijk.T)] += coarsest.count.int()

    def _average(self, inputs: FragmentInputs, finest: LevelResult) -> None:
        memory, box = self._memories[0], (inputs.origin_voxel, self._network.shape(0))
        known, seen, sites, count = recall(
            [memory], [box], finest.features, finest.sites, finest.count
        )
        views = count[:, None].to(seen.dtype)
        total = known + torch.cat([seen * views, views], 1)
        memory.replace(*box, sites.batch_xyz[:, 1:], total)

    @torch.inference_mode()
    def volume(self) -> SceneVolume:
        """Return what is known by now."""
        settings = self._network.settings
        ijk, encoding = self._memories[0].read(self._lower, self._shape)
        if not self._remembers:
            encoding = encoding[:, :-1] / encoding[:, -1:]
        level = self._network.levels[0]
        probability = level.occupancy(encoding)[:, 0].sigmoid()
        near = probability > settings.occupancy_threshold
        ijk, encoding, probability = ijk[near], encoding[near], probability[near]
        tsdf, confidence = torch.ones(self._shape), torch.zeros(self._shape)
        tsdf[tuple(ijk.T.cpu())] = level.tsdf(encoding)[:, 0].clamp(-1, 1).cpu()
        confidence[tuple(ijk.T.cpu())] = probability.cpu()
        # A view that sees a coarse voxel sees the fine ones that it stands for.
        views = self._views.clamp(max=np.iinfo(np.uint16).max).cpu().numpy()
        for axis in range(3):
            views = views.repeat(2 ** (LEVELS - 1), axis)
        surface = DistanceGrid(
            self._lower.numpy() * settings.voxel_size_m,
            settings.voxel_size_m,
            settings.truncation_m,
            tsdf.numpy(),
            views.astype(np.uint16),
        )
        return SceneVolume(
            surface, confidence.numpy(), ijk.cpu().numpy(), encoding.cpu().numpy()
        )
