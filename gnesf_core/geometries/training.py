"""Learning geometry from fused depth, as a task for the training loop.

Each level learns from the level of the targets that has its truncation: whether a
voxel is near a surface that this fragment's views see, and there its signed distance.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gnesf_core.config import FragmentDataConfig, TrainingConfig
from gnesf_core.geometries.coarse_to_fine import LevelResult, Neucon, make_memories
from gnesf_core.geometries.fragments import (
    LEVELS,
    Fragment,
    FragmentInputs,
    FragmentSamples,
)
from gnesf_core.geometries.memory import Memory
from gnesf_core.geometries.targets import sample_box, seen_by_views
from gnesf_core.shapes import Bool, Float, Int64
from gnesf_core.training.distributed import mean_over_processes
from gnesf_core.training.groups import parameter_groups
from gnesf_core.training.loop import moved

_SATURATED = 0.999
_VIEWS = ("depth_m", "depth_from_world")  # of a fragment: what its views measured


class Truth(NamedTuple):
    """What the voxels of a level are, as far as a fragment's views can tell."""

    tsdf: Float[Tensor, " n"]
    occupied: Bool[Tensor, " n"]  # near a surface that some view of the run sees


Told = tuple[LevelResult, Truth]


class GeometryTask:
    """A network, the fragments that it learns from, and those that judge it."""

    def __init__(
        self, network: Neucon, samples: FragmentSamples, data: FragmentDataConfig
    ) -> None:
        self.model: nn.Module = network
        self.samples = samples
        self._settings, self._data = network.settings, data
        self._remembers = False  # whether the last step's fragments had a memory

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, object]]:
        """Let the picture encoder learn at its own rate."""
        return parameter_groups(self.model, self.model.encoder.parameters(), config)

    def losses(
        self, model: Neucon, batch: dict[str, Any]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of occupancy and distance, summed over the levels.

        Fragments at the same place in their samples go through the network together.
        """
        samples, numbers = batch["samples"], batch["number"]
        self._remembers = self.samples.has_memory(numbers[0])
        told: list[list[Told]] = [[] for _ in range(LEVELS)]
        memories = None
        if self._remembers:
            memories = [make_memories(model, _origins(own)) for own in samples]
        for place in range(len(samples[0])):
            fragments = [_seen_so_far(own[: place + 1]) for own in samples]
            seeds = [(self.samples.seed, number, place) for number in numbers]
            for result, truth in self._run(model, fragments, seeds, memories):
                told[result.level].append((result, truth))
        return self._weighted(told)

    def _run(
        self,
        model: Neucon,
        fragments: Sequence[Fragment],
        seeds: Sequence[tuple[int, ...]],
        memories: Sequence[Sequence[Memory]] | None,
    ) -> list[Told]:
        """Return what the levels say of fragments, and the truth."""
        told: list[Told] = []

        def choose(result: LevelResult) -> Bool[Tensor, " n"]:
            # Where surfaces truly are is refined too: else finer levels would learn
            # nothing before the coarser ones have learned a lot.
            truth = self._truth(result, fragments)
            told.append((result, truth))
            wanted = model.above_threshold(result) | truth.occupied
            most = self._data.max_voxels // (8 * 4 ** (result.level - 1))
            return _at_most(wanted, result, most, seeds)

        finest = model(_inputs(fragments), memories, choose)[-1]
        return [*told, (finest, self._truth(finest, fragments))]

    def _truth(self, result: LevelResult, fragments: Sequence[Fragment]) -> Truth:
        inputs = _inputs(fragments)
        points = result.points_world(inputs, self._settings.voxel_size_m)
        batch = result.sites.batch_xyz[:, 0]
        sizes = batch.bincount(minlength=len(fragments)).tolist()
        # Autocast would round positions to a fraction of a voxel.
        with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
            truths = [
                self._truth_at(own, fragment, result.level)
                for own, fragment in zip(points.split(sizes), fragments, strict=True)
            ]
        return Truth(*(torch.cat(part) for part in zip(*truths, strict=True)))

    def _truth_at(
        self, points_world: Float[Tensor, "n 3"], fragment: Fragment, level: int
    ) -> Truth:
        box = fragment["targets"][level]
        tsdf, known = sample_box(box, points_world, self._data.min_weight)
        seen = seen_by_views(
            points_world,
            fragment["depth_m"],
            fragment["depth_from_world"],
            self._settings.truncation_m * 2**level,
        )
        return Truth(tsdf, known & seen & (tsdf.abs() < _SATURATED))

    def _weighted(self, told: Sequence[Sequence[Told]]) -> dict[str, Float[Tensor, ""]]:
        """Add up the levels, the coarsest with weight 1."""
        occupancy, distance = [], []
        for level, pairs in enumerate(told):
            weight = self._settings.coarser_weight ** (LEVELS - 1 - level)
            parts = _level_losses(pairs, self._settings.positive_weight)
            occupancy.append(weight * parts[0])
            distance.append(weight * parts[1])
        return {
            "occupancy": torch.stack(occupancy).sum(),
            "distance": torch.stack(distance).sum(),
        }

    def validate(self, model: Neucon) -> float:
        """Return the mean error of the truncated distance near surfaces.

        That is over the finest voxels of held-out fragments which truly are near a
        surface, or which the network believes to be; either distance is 1 where it is
        not near one. Weights that have no memory yet are no result.
        """
        if self._settings.fusion == "gru" and not self._remembers:
            return float("nan")
        error, count = 0.0, 0
        device = next(model.parameters()).device
        for origins, fragments in self.samples.held_out():
            memories = None
            if self._remembers:
                memories = [make_memories(model, origins)]
            shown: list[Fragment] = []
            for fragment in fragments:
                fragment = moved(fragment, device)
                finest = model([fragment["inputs"]], memories)[-1]
                shown = [*shown, fragment] if self._remembers else [fragment]
                wrong = self._errors(model, finest, _seen_so_far(shown))
                shown[-1] = {name: fragment[name] for name in _VIEWS}
                error, count = error + float(wrong.sum()), count + len(wrong)
        return error / count if count else float("nan")

    def _errors(
        self, model: Neucon, finest: LevelResult, fragment: Fragment
    ) -> Float[Tensor, " n"]:
        shape = model.shape(0)
        everywhere = torch.ones(shape, dtype=torch.bool, device=finest.tsdf.device)
        xyz = everywhere.nonzero()
        voxels = fragment["inputs"].origin_voxel.to(xyz.device) + xyz
        points = voxels.float() * self._settings.voxel_size_m
        truth = self._truth_at(points, fragment, 0)
        true = torch.where(truth.occupied, truth.tsdf, 1.0)
        believed = model.above_threshold(finest)
        x, y, z = finest.sites.batch_xyz[believed, 1:].T
        row = (x * shape[1] + y) * shape[2] + z
        guess = torch.ones_like(true)
        guess[row] = finest.tsdf[believed].float().clamp(-1, 1)
        counted = truth.occupied.clone()
        counted[row] = True
        return (guess - true)[counted].abs()


def _seen_so_far(run: Sequence[Fragment]) -> Fragment:
    """Return the last fragment of a run with the views of those before it as well.

    What they saw is remembered, and no less true for being out of sight.
    """
    views = {name: torch.cat([own[name] for own in run]) for name in _VIEWS}
    return run[-1] | views


def _inputs(fragments: Sequence[Fragment]) -> list[FragmentInputs]:
    return [fragment["inputs"] for fragment in fragments]


def _origins(fragments: Sequence[Fragment]) -> Int64[Tensor, "n 3"]:
    return torch.stack([inputs.origin_voxel for inputs in _inputs(fragments)])


def _at_most(
    wanted: Bool[Tensor, " n"],
    result: LevelResult,
    most: int,
    seeds: Sequence[tuple[int, ...]],
) -> Bool[Tensor, " n"]:
    """Leave out some of the wanted voxels of fragments that want too many.

    Chance depends on the sample alone, not on who else is in the batch.
    """
    kept = wanted.clone()
    for fragment, seed in enumerate(seeds):
        rows = (wanted & (result.sites.batch_xyz[:, 0] == fragment)).nonzero()[:, 0]
        if len(rows) > most:
            rng = np.random.default_rng((*seed, result.level))
            dropped = rng.permutation(len(rows))[most:]
            kept[rows[torch.from_numpy(dropped).to(rows.device)]] = False
    return kept


def _level_losses(
    pairs: Sequence[Told], positive_weight: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the mean loss of occupancy, and of distance where occupied."""
    logits = torch.cat([result.occupancy for result, _ in pairs]).float()
    tsdf = torch.cat([result.tsdf for result, _ in pairs]).float()
    occupied = torch.cat([truth.occupied for _, truth in pairs])
    true = torch.cat([truth.tsdf for _, truth in pairs])
    counts = torch.stack([occupied.sum(), (~occupied).sum()]).float()
    positive, negative = mean_over_processes(counts)
    # Few voxels are near a surface: without a weight "none" would be a good answer.
    weight = positive_weight * negative.clamp(min=1) / positive.clamp(min=1)
    occupancy = binary_cross_entropy_with_logits(
        logits, occupied.float(), pos_weight=weight, reduction="sum"
    )
    difference = (_squeeze(tsdf) - _squeeze(true))[occupied].abs()
    return (
        occupancy / (positive + negative).clamp(min=1),
        difference.sum() / positive.clamp(min=1),
    )


def _squeeze(tsdf: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Make errors count for more near the surface."""
    return tsdf.sign() * tsdf.abs().log1p()
