"""Geometry learned coarse to fine: NeuralRecon's structure on the volume of GNeSF.

A fragment of key frames fills a volume in front of its cameras with the mean and the
variance of its views' features (Eq. 1); or, as NeuralRecon and the authors' code have
it, with their mean and how deep the views see a voxel. Three levels, each with half the
voxel size of the one before, aggregate it with a sparse 3D network, and keep the voxels
near which they expect a surface. A gated unit per level lets fragments share a memory
of the scene. The finest level's features are the encoding volume M.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from gnesf_core.config import NeuconConfig
from gnesf_core.geometries.fragments import LEVELS, FragmentInputs
from gnesf_core.geometries.memory import Memory
from gnesf_core.nets.gru import ConvGru
from gnesf_core.nets.mnasnet import Pyramid
from gnesf_core.nets.spvcnn import Spvcnn
from gnesf_core.ops.back_projection import back_project, mean_depth
from gnesf_core.shapes import Bool, Float, Int64
from gnesf_core.sparse.engine import Engine
from gnesf_core.sparse.sites import Sites


class LevelResult(NamedTuple):
    """What a level says about its voxels; level 0 is the finest."""

    level: int
    sites: Sites  # coordinates from the first voxel of each fragment's volume
    features: Float[Tensor, "n c"]
    tsdf: Float[Tensor, " n"]
    occupancy: Float[Tensor, " n"]  # logit of the probability of a surface within reach
    count: Int64[Tensor, " n"]  # views that see the voxel; 0 if only remembered

    def points_world(
        self, fragments: Sequence[FragmentInputs], voxel_size_m: float
    ) -> Float[Tensor, "n 3"]:
        """Return the voxels' centres; `voxel_size_m` is the finest level's."""
        return _centres(self.sites.batch_xyz, fragments, self.level, voxel_size_m)


# Says which voxels of a level the next one refines.
Choose = Callable[[LevelResult], Bool[Tensor, " n"]]


class Level(nn.Module):
    """One level: aggregation, memory, and what it says about a voxel."""

    def __init__(
        self, inputs: int, channels: int, with_memory: bool, engine: Engine
    ) -> None:
        super().__init__()
        self.aggregate = Spvcnn(inputs, channels, engine)
        self.gru = ConvGru(channels, engine) if with_memory else None
        self.tsdf = nn.Linear(channels, 1)
        self.occupancy = nn.Linear(channels, 1)


class Neucon(nn.Module):
    """The network; its state is in its weights alone, memories come from outside."""

    def __init__(self, settings: NeuconConfig, engine: Engine) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Pyramid(settings.encoder_width)
        self.channels = [settings.channels * 2**level for level in range(LEVELS)]
        with_memory = settings.fusion == "gru"
        self.levels = nn.ModuleList()
        for level, channels in enumerate(self.channels):
            own = self.encoder.channels[level]
            inputs = own + 1 if settings.statistics == "mean-depth" else 2 * own
            if level + 1 < LEVELS:
                inputs += self.channels[level + 1] + 2
            self.levels.append(Level(inputs, channels, with_memory, engine))

    def shape(self, level: int) -> tuple[int, int, int]:
        """Return how many voxels a fragment's volume has at a level."""
        s = self.settings
        x, y, z = (n // 2**level for n in (s.volume_x, s.volume_y, s.volume_z))
        return x, y, z

    def forward(
        self,
        fragments: Sequence[FragmentInputs],
        memories: Sequence[Sequence[Memory]] | None = None,
        choose: Choose | None = None,
    ) -> list[LevelResult]:
        """Return what each level says about fragments, coarsest first.

        With `memories` (for each fragment one per level, finest first) the fragments go
        on from what is remembered of their voxels; then those near surfaces are
        remembered. Without `choose` they are also what the next level refines.
        """
        choose = choose or self.above_threshold
        maps = self._encode(fragments)
        results: list[LevelResult] = []
        device = maps[0][0].device
        batch_xyz = torch.cat(
            [
                _all_voxels(n, self.shape(LEVELS - 1), device)
                for n in range(len(fragments))
            ]
        )
        inherited = torch.zeros(len(batch_xyz), 0, device=device)
        for level in reversed(range(LEVELS)):
            volume, count = self._project(fragments, maps[level], batch_xyz, level)
            seen = count > 0
            batch_xyz, count = batch_xyz[seen], count[seen]
            inputs = torch.cat([volume[seen], inherited[seen]], 1)
            own = memories and [memory[level] for memory in memories]
            result = self._aggregate(level, inputs, batch_xyz, count, fragments, own)
            results.append(result)
            if level:
                chosen = choose(result)
                batch_xyz = _children(result.sites.batch_xyz[chosen])
                inherited = self._inherited(result, chosen)
        return results

    def above_threshold(self, result: LevelResult) -> Bool[Tensor, " n"]:
        """Choose the voxels that are probably near a surface."""
        return result.occupancy.sigmoid() > self.settings.occupancy_threshold

    def _encode(self, fragments: Sequence[FragmentInputs]) -> list[list[Tensor]]:
        """Return feature maps by level and fragment.

        A map's pixels are centred on every 4th, 8th or 16th of the picture from 0 on.
        One more, the last again, covers what is right of and below their centres: at
        1/16 that is much of a small picture.
        """
        views = [len(fragment.pictures) for fragment in fragments]
        maps = self.encoder(torch.cat([f.pictures for f in fragments]))
        covering = [pad(scale, (0, 1, 0, 1), mode="replicate") for scale in maps]
        return [list(scale.split(views)) for scale in covering]

    def _project(
        self,
        fragments: Sequence[FragmentInputs],
        maps: Sequence[Float[Tensor, "_ c h w"]],
        batch_xyz: Int64[Tensor, "n 4"],
        level: int,
    ) -> tuple[Float[Tensor, "n both"], Int64[Tensor, " n"]]:
        """Return statistics of the views' features, and how many views."""
        with_depth = self.settings.statistics == "mean-depth"
        points = _centres(batch_xyz, fragments, level, self.settings.voxel_size_m)
        parts = []
        sizes = batch_xyz[:, 0].bincount(minlength=len(fragments)).tolist()
        for fragment, features, own in zip(
            fragments, maps, points.split(sizes), strict=True
        ):
            matrices = fragment.pixel_from_world.clone()
            matrices[:, :2] /= 4 * 2**level
            matrices = matrices.to(own.dtype)
            mean, second, count = back_project(features, own, matrices)
            if with_depth:
                depth = mean_depth(features.shape[2:], own, matrices)
                second = normalized_depth(depth)[:, None].to(mean.dtype)
            parts.append((mean, second, count))
        mean, second, count = (torch.cat(part) for part in zip(*parts, strict=True))
        return torch.cat([mean, second], 1), count.long()

    def _aggregate(
        self,
        level: int,
        inputs: Float[Tensor, "n inputs"],
        batch_xyz: Int64[Tensor, "n 4"],
        count: Int64[Tensor, " n"],
        fragments: Sequence[FragmentInputs],
        memories: Sequence[Memory] | None,
    ) -> LevelResult:
        part = self.levels[level]
        sites = Sites(batch_xyz)
        features = part.aggregate(inputs, sites)
        boxes = [(f.origin_voxel // 2**level, self.shape(level)) for f in fragments]
        if memories is not None:
            remembered, features, sites, count = recall(
                memories, boxes, features, sites, count
            )
            features = part.gru(remembered, features, sites)
        elif part.gru is not None:
            features = features.tanh()  # as an empty memory lets it through at first
        tsdf, occupancy = part.tsdf(features)[:, 0], part.occupancy(features)[:, 0]
        result = LevelResult(level, sites, features, tsdf, occupancy, count)
        if memories is not None:
            _remember(memories, boxes, result, self.above_threshold(result))
        return result

    def _inherited(
        self, result: LevelResult, chosen: Bool[Tensor, " n"]
    ) -> Float[Tensor, "children inherited"]:
        """Return what the children of chosen voxels know from their parents."""
        parts = [result.features, result.tsdf[:, None], result.occupancy[:, None]]
        return torch.cat(parts, 1)[chosen].repeat_interleave(8, 0)


def normalized_depth(depth: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return by how much seen voxels are deeper than their mean; 0 for those unseen.

    Divided by the norm of all those differences, not by their standard deviation: that
    is what NeuralRecon's code divides by, so that its weights fit.
    """
    seen = depth > 0
    mean = depth.sum() / seen.sum().clamp(min=1)
    difference = torch.where(seen, depth - mean, 0)
    return difference / (difference.norm() + 1e-5)


def _all_voxels(
    fragment: int, shape: tuple[int, int, int], device: torch.device
) -> Int64[Tensor, "n 4"]:
    xyz = torch.ones(shape, dtype=torch.bool, device=device).nonzero()
    return torch.cat([torch.full_like(xyz[:, :1], fragment), xyz], 1)


def _children(batch_xyz: Int64[Tensor, "n 4"]) -> Int64[Tensor, "children 4"]:
    """Return the 8 voxels of half the size that each voxel stands for."""
    steps = [(0, *step) for step in itertools.product((0, 1), repeat=3)]
    scale = torch.tensor([1, 2, 2, 2], device=batch_xyz.device)
    offsets = torch.tensor(steps, device=batch_xyz.device)
    return ((batch_xyz * scale)[:, None] + offsets).flatten(0, 1)


def _centres(
    batch_xyz: Int64[Tensor, "n 4"],
    fragments: Sequence[FragmentInputs],
    level: int,
    voxel_size_m: float,
) -> Float[Tensor, "n 3"]:
    origins = torch.stack([f.origin_voxel for f in fragments]).to(batch_xyz.device)
    voxels = origins[batch_xyz[:, 0]] + batch_xyz[:, 1:] * 2**level
    return voxels.float() * voxel_size_m


Box = tuple[Tensor, tuple[int, int, int]]


def recall(
    memories: Sequence[Memory],
    boxes: Sequence[Box],
    features: Float[Tensor, "n c"],
    sites: Sites,
    count: Int64[Tensor, " n"],
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m c"], Sites, Int64[Tensor, " m"]]:
    """Return remembered and seen features of all voxels that have either; else 0.

    The voxels and the number of views that see each come with them.
    """
    xyz, values = [], []
    for fragment, (memory, box) in enumerate(zip(memories, boxes, strict=True)):
        own_xyz, own_values = memory.read(*box)
        batch = torch.full_like(own_xyz[:, :1], fragment)
        xyz.append(torch.cat([batch, own_xyz], 1))
        values.append(own_values)
    known, recalled = torch.cat(xyz), torch.cat(values)
    rows = sites.lookup(known)
    only_known = known[rows < 0]
    # Ordered by fragment, as everything that is split by fragment must be.
    everything = torch.cat([sites.batch_xyz, only_known])
    order = everything[:, 0].argsort(stable=True)
    union = Sites(everything[order])
    blank = features.new_zeros(len(only_known), features.shape[1])
    seen = torch.cat([features, blank])[order]
    remembered = features.new_zeros(len(union), recalled.shape[1])
    remembered[union.lookup(known)] = recalled.to(features.dtype)
    count = torch.cat([count, count.new_zeros(len(only_known))])[order]
    return remembered, seen, union, count


def _remember(
    memories: Sequence[Memory],
    boxes: Sequence[Box],
    result: LevelResult,
    worth_it: Bool[Tensor, " n"],
) -> None:
    """Keep what was found near surfaces, which alone makes a memory grow."""
    for fragment, (memory, box) in enumerate(zip(memories, boxes, strict=True)):
        own = worth_it & (result.sites.batch_xyz[:, 0] == fragment)
        memory.replace(*box, result.sites.batch_xyz[own, 1:], result.features[own])


def make_memories(network: Neucon, origins: Int64[Tensor, "n 3"]) -> list[Memory]:
    """Return an empty memory per level that has room for volumes at `origins`."""
    device = next(network.parameters()).device
    lower, upper = origins.cpu().aminmax(dim=0)
    memories = []
    for level, channels in enumerate(network.channels):
        span = (upper - lower) // 2**level + torch.tensor(network.shape(level))
        x, y, z = span.tolist()
        memories.append(Memory(lower // 2**level, (x, y, z), channels, device))
    return memories
