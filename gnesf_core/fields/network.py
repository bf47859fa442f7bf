"""The semantic field of a scene nobody has labelled: source views vote on any point.

Everything that others have learned stays as it is: the picture encoder, the signed
distances, the encoding volume M and the prior. What learns here are a convolution per
level of the pyramid, which makes the features F, and the votes.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from gnesf_core.config import GnesfConfig, NeuconConfig
from gnesf_core.errors import BadInput
from gnesf_core.fields.encoding import Encoding, sample_encoding
from gnesf_core.fields.occlusion import hidden
from gnesf_core.fields.rays import RaySamples, Sampling, sample_rays
from gnesf_core.fields.voting import (
    DirectSemantics,
    PaperVote,
    ReleasedVote,
    Sights,
    added_up,
    ballots_of,
    in_parts,
    vote_weights,
)
from gnesf_core.geometry.distance_field import (
    DistanceField,
    nearby_voxels,
    voxel_centres,
)
from gnesf_core.geometry.visibility import Occluders
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.nets.mnasnet import STRIDES, Pyramid
from gnesf_core.rendering.compositing import composite
from gnesf_core.rendering.rays import Rays
from gnesf_core.rendering.sources import (
    Pairs,
    Sources,
    nearest_pairs,
    pairs_in_view,
    said_by_prior,
    said_in_color,
    sample_maps,
)
from gnesf_core.shapes import Bool, Float, Float64, UInt8

UNLEARNED = ("mean", "nearest")  # votes that have no weights

_PICTURES = 16  # that are looked at at once

Maps = Sequence[Tensor]  # F of views, by level


class Scene(NamedTuple):
    """The geometry of a scene."""

    field: DistanceField
    encoding: Encoding
    occluders: Occluders | None = None  # of the field, on the device that it was on

    def to_be_asked_often(self, settings: GnesfConfig) -> "Scene":
        """Return the scene with its occluders, if they matter and take time to make."""
        if settings.visibility != "sdf":
            return self
        return self._replace(occluders=Occluders(self.field, settings.unobserved))


class Evidence(NamedTuple):
    """All that points of a scene are judged by."""

    scene: Scene
    sources: Sources
    maps: Maps  # F of the sources; none for votes that do not look


class Labels(NamedTuple):
    """What the field says about points."""

    semantic: Float[Tensor, "n classes"]  # probabilities; zeros where no view sees
    color: Float[Tensor, "n 3"]  # 0..1
    seen: Bool[Tensor, " n"]  # points that some view votes on


class Votes(NamedTuple):
    """What views say of points, and how much that counts."""

    pairs: Pairs
    said: Float[Tensor, "pairs classes"]  # probabilities, or logits
    color: Float[Tensor, "pairs 3"]  # 0..1
    weights: Float[Tensor, " pairs"]  # of what is said; sum to 1 over a point's pairs
    color_weights: Float[Tensor, " pairs"]
    predicted: Float[Tensor, "n classes"] | None  # in place of what is voted


class Rendered(NamedTuple):
    """What the field says about rays."""

    semantic: Float[Tensor, "rays classes"]
    color: Float[Tensor, "rays 3"]
    distance_m: Float64[Tensor, " rays"]
    usable: Bool[Tensor, " rays"]  # rays that hit a surface which some view sees


class GnesfNetwork(nn.Module):
    """F, votes, and what follows from them."""

    def __init__(self, settings: GnesfConfig, encoder: NeuconConfig) -> None:
        super().__init__()
        self.settings = settings
        self.picture_size = encoder.image_width, encoder.image_height
        self.given_channels = encoder.channels  # of the encoding M
        self.learned_with: str | None = None  # digest of the weights that made M
        self.sampling = Sampling(
            settings.near_m,
            settings.far_m,
            settings.coarse_samples,
            settings.fine_samples,
            settings.render_truncation_m,
            settings.render_reach_m,
            settings.sampler,
        )
        if settings.near_m >= settings.far_m:
            raise BadInput(
                "recipe",
                "near_m",
                expected=f"less than far_m, {settings.far_m}",
                found=settings.near_m,
                remedy="correct the field's settings",
            )
        if settings.vote in UNLEARNED:
            return
        self.encoder = Pyramid(encoder.encoder_width).requires_grad_(
            requires_grad=False
        )
        self.features = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, padding=1)
            for inner, outer in zip(
                self.encoder.channels, settings.feature_channels, strict=True
            )
        )
        own, given = sum(settings.feature_channels), encoder.channels
        first, second = settings.widths
        classes = len(CLASS_NAMES)
        if settings.network == "released":
            self.vote: nn.Module = ReleasedVote(own, given)
        elif settings.vote == "direct":
            self.vote = DirectSemantics(own, given, classes, (first, second))
        else:
            vector = settings.displacement == "vector"
            shape = (own, given, classes, (first, second))
            self.vote = PaperVote(*shape, vector, settings.informed)

    def train(self, mode: bool = True) -> "GnesfNetwork":
        """Learn or not; what others have learned stays in use, statistics and all."""
        super().train(mode)
        if self.settings.vote not in UNLEARNED:
            self.encoder.eval()
        return self

    def look(self, scene: Scene, sources: Sources) -> Evidence:
        """Return what source views of a scene show, features F and all."""
        if self.settings.vote in UNLEARNED:
            return Evidence(scene, sources, [])
        # Of a whole scene's key frames, the first layers would fill a GPU.
        parts = [self._features(some) for some in sources.pictures.split(_PICTURES)]
        maps = [torch.cat(level) for level in zip(*parts, strict=True)]
        return Evidence(scene, sources, maps)

    def _features(self, pictures: UInt8[Tensor, "views 3 h w"]) -> Maps:
        with torch.no_grad():
            maps = self.encoder(pictures)
        return [layer(own) for layer, own in zip(self.features, maps, strict=True)]

    def visible_pairs(
        self, evidence: Evidence, points_world: Float64[Tensor, "n 3"]
    ) -> Pairs:
        """Return which views have which points in sight, whatever they say of them."""
        s, (scene, sources, _) = self.settings, evidence
        pairs = pairs_in_view(sources, points_world, s.far_m)
        origins, targets = sources.centres_world[pairs.view], points_world[pairs.point]
        occluders = scene.occluders
        if occluders is not None and occluders.device != points_world.device:
            occluders = None  # the field was moved away from them
        rules = s.visibility, s.unobserved, occluders
        return pairs.only(~hidden(scene.field, origins, targets, *rules))

    def label(
        self,
        evidence: Evidence,
        points_world: Float64[Tensor, "n 3"],
        most_views: int | None = None,
    ) -> Labels:
        """Return what the views say of points: all, or the so many nearest of each."""
        if self.settings.vote_at == "voxels":
            return self._label_between_voxels(evidence, points_world, most_views)
        return self._label_at(evidence, points_world, most_views)

    def _label_at(
        self,
        evidence: Evidence,
        points_world: Float64[Tensor, "n 3"],
        most_views: int | None = None,
    ) -> Labels:
        votes = self.ask(evidence, points_world, most_views)
        point, count = votes.pairs.point, len(points_world)
        color = added_up(votes.color_weights, votes.color, point, count)
        semantic = added_up(votes.weights, votes.said, point, count)
        seen = torch.zeros(count, dtype=torch.bool, device=point.device)
        seen = seen.index_fill(0, point, value=True)
        if votes.predicted is not None:
            semantic = votes.predicted * seen[:, None]
        elif self.settings.payload == "logits":
            semantic = semantic.softmax(1) * seen[:, None]
        return Labels(semantic, color, seen)

    def ask(
        self,
        evidence: Evidence,
        points_world: Float64[Tensor, "n 3"],
        most_views: int | None = None,
    ) -> Votes:
        """Return what each view says of points, and how much that counts."""
        scene, sources, maps = evidence
        pairs = self.visible_pairs(evidence, points_world)
        said, known = said_by_prior(sources, pairs)
        pairs, said = pairs.only(known), said[known]
        displacement = _displacement(sources, pairs, points_world)
        s = self.settings
        most_views = 1 if s.vote == "nearest" else most_views
        if most_views is not None:
            pairs = nearest_pairs(pairs, displacement.norm(dim=1), most_views)
            displacement = _displacement(sources, pairs, points_world)
            said, _ = said_by_prior(sources, pairs)
        color = said_in_color(sources, pairs)
        group = None if sources.group is None else sources.group[pairs.view]
        ballots = ballots_of(pairs.point, len(points_world), group)

        def weights(scores: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
            own, _ = vote_weights(scores, ballots.pair, len(ballots.point))
            return own * ballots.share[ballots.pair]

        if s.vote in UNLEARNED:
            equal = weights(color.new_zeros(len(color)))
            return Votes(pairs, said, color, equal, equal, None)
        is_direct = s.vote == "direct"
        voter = self.vote.vote if is_direct else self.vote
        fused = is_fused(voter, maps)
        sights = Sights(
            ballots.pair,
            # Autocast would round means and sums over views.
            color[:, :0] if fused and not is_direct else _features(maps, pairs).float(),
            color,
            said.softmax(1) if s.payload == "logits" else said,
            displacement.float(),
            pairs.depth_m,
            sample_encoding(scene.encoding, points_world)[ballots.point],
            _most_in_a_ballot(sources, most_views),
        )
        if fused:
            from gnesf_core.fields.voting_numba import paper_scores

            own, encoding = voter.own(sights), sights.encoding
            own_pairs = pairs._replace(point=ballots.pair)
            both = paper_scores(voter, maps, own_pairs, own, encoding)
        else:
            both = in_parts(voter, sights)
        semantic, of_color = (weights(values.float()) for values in both)
        predicted = None
        if is_direct:
            told = self.vote(sights).float()
            predicted = added_up(ballots.share, told, ballots.point, len(points_world))
        return Votes(pairs, said, color, semantic, of_color, predicted)

    def render(self, evidence: Evidence, rays: Rays) -> Rendered:
        """Return what is seen along rays, Eq. 5.

        Views are asked only about the samples that count.
        """
        with torch.no_grad():
            samples = sample_rays(
                evidence.scene.field, rays, self.sampling, jittered=self.training
            )
        counted = samples.weights > 0
        points = rays.at(samples.distance_m)[counted]
        labels = self.label(evidence, points)
        return _rendered(samples, counted, labels)

    def _label_between_voxels(
        self,
        evidence: Evidence,
        points_world: Float64[Tensor, "n 3"],
        most_views: int | None = None,
    ) -> Labels:
        """Let views vote on voxels, and interpolate between those that any sees."""
        field = evidence.scene.field
        near, weights = nearby_voxels(field, points_world)
        voxels, row = near.unique(return_inverse=True)
        centres_world = voxel_centres(field, voxels)
        labels = self._label_at(evidence, centres_world, most_views)
        weights = weights * labels.seen[row]
        total = weights.sum(1, keepdim=True)
        weights = weights / torch.where(total > 0, total, 1.0)
        semantic, color = (
            embedding_bag(row, values, per_sample_weights=weights, mode="sum")
            for values in (labels.semantic, labels.color)
        )
        return Labels(semantic, color, total[:, 0] > 0)


def is_fused(voter: nn.Module, maps: Maps) -> bool:
    """Tell whether a compiled twin votes, which reads the maps by itself."""
    plain = all(own.device.type == "cpu" and own.dtype == torch.float32 for own in maps)
    return plain and isinstance(voter, PaperVote) and find_spec("numba") is not None


def _displacement(
    sources: Sources, pairs: Pairs, points_world: Float64[Tensor, "n 3"]
) -> Float64[Tensor, "pairs 3"]:
    return points_world[pairs.point] - sources.centres_world[pairs.view]


def _most_in_a_ballot(sources: Sources, most_views: int | None) -> int:
    """Return how many views may vote on a point together at most."""
    if sources.group is None:
        everyone = len(sources.pictures)
    else:
        everyone = int(sources.group.bincount().max())
    return min(everyone, most_views or everyone)


def _features(maps: Maps, pairs: Pairs) -> Float[Tensor, "pairs c"]:
    """Return F where pairs are; pixel (u, v) is at (u, v) / stride of a level's map."""
    levels = [
        sample_maps(own, pairs, pairs.uv / stride)
        for own, stride in zip(maps, STRIDES, strict=True)
    ]
    return torch.cat(levels, 1)


def _rendered(
    samples: RaySamples, counted: Bool[Tensor, "rays samples"], labels: Labels
) -> Rendered:
    """Add up along rays what is said of the samples that count.

    Samples that no view sees say nothing: the others of their ray share its weight.
    """
    told = torch.zeros_like(counted)
    told[counted] = labels.seen
    weights = torch.where(told, samples.weights, 0.0)
    total = weights.sum(1, keepdim=True)
    weights = weights / torch.where(total > 0, total, 1.0)

    def along(values: Float[Tensor, "n k"]) -> Float[Tensor, "rays samples k"]:
        dense = values.new_zeros(*counted.shape, values.shape[1])
        return dense.index_put(counted.nonzero(as_tuple=True), values)

    return Rendered(
        composite(weights, along(labels.semantic)),
        composite(weights, along(labels.color)),
        (samples.weights * samples.distance_m).sum(1),
        samples.hit & (total[:, 0] > 0),
    )
