"""The paper's field: source views vote on points, near surfaces that are given."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch

from gnesf_core.config import GnesfConfig, NeuconConfig
from gnesf_core.data.publish import sha256_of
from gnesf_core.data.store import Frames
from gnesf_core.errors import BadInput
from gnesf_core.fields.encoding import check_channels, encoding_of, no_encoding
from gnesf_core.fields.interface import UNSEEN_COLOR, Field, PointLabels, SceneInputs
from gnesf_core.fields.network import UNLEARNED, Evidence, GnesfNetwork, Labels, Scene
from gnesf_core.geometry.distance_field import distance_field
from gnesf_core.labels import IGNORE
from gnesf_core.rendering.choice import frames_of_kind, voting_groups
from gnesf_core.rendering.sources import read_sources
from gnesf_core.shapes import Float, Float32, Int64
from gnesf_core.training.loop import moved
from gnesf_core.training.weights import load_into, read_weights

Settings = GnesfConfig
PACKAGES = ("safetensors",)

_CHUNK = 1 << 16  # points that are voted on at once


def build(settings: GnesfConfig, encoder: NeuconConfig, start: Path) -> GnesfNetwork:
    """Return the network with the picture encoder of a trained geometry."""
    if settings.vote in UNLEARNED:
        raise ValueError(f"there is nothing to learn in vote {settings.vote}")
    network = GnesfNetwork(settings, encoder)
    tensors, _ = read_weights(start)
    prefix = "encoder."
    own = {
        name.removeprefix(prefix): values
        for name, values in tensors.items()
        if name.startswith(prefix)
    }
    try:
        network.encoder.load_state_dict(own)
    except RuntimeError as error:
        raise BadInput(
            start,
            "encoder",
            expected="the picture encoder of the recipe that `features` names",
            found=str(error).splitlines()[-1].strip(),
            remedy="train that geometry, or name its weights",
        ) from None
    return network


def open_field(
    settings: GnesfConfig,
    encoder: NeuconConfig | None,
    weights: Path | None,
    device: torch.device,
) -> Field:
    """Return the field with its weights, if it has any."""
    if encoder is None:
        _refuse("features", "the recipe of the pictures' features")
    network = GnesfNetwork(settings, encoder)
    inputs = {}
    if settings.vote not in UNLEARNED:
        if weights is None:
            _refuse("weights", "the weights of the field")
        network.learned_with = _start_of(load_into(network, weights))
        inputs["weights"] = sha256_of(weights)
    return GnesfField(network.to(device).eval(), inputs, device)


def _start_of(metadata: Mapping[str, str]) -> str | None:
    """Return the digest of the geometry's weights that a field has learned with."""
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        return json.loads(metadata["provenance"])["inputs"].get("start")
    return None  # weights from elsewhere need not say it


def _refuse(place: str, expected: str) -> NoReturn:
    raise BadInput(
        "recipe",
        place,
        expected=expected,
        found="none",
        remedy="train it, or name a file in the recipe",
    )


class ViewVote(NamedTuple):
    """How one view votes on one point."""

    position: int  # of the view among the kept frames
    uv: tuple[float, float]  # where it sees the point, in pixels of its colour image
    weight: float  # share of all votes
    probabilities: Float32[np.ndarray, " classes"]  # what it says


class GnesfField:
    """The network, as a field."""

    def __init__(
        self, network: GnesfNetwork, inputs: dict[str, str], device: torch.device
    ) -> None:
        self.network = network
        self._inputs, self._device = inputs, device

    def inputs(self) -> dict[str, str]:
        """Return the digest of the weights, if there are any."""
        return self._inputs

    @torch.inference_mode()
    def label_points(
        self, points_world: Float[np.ndarray, "n 3"], scene: SceneInputs
    ) -> PointLabels:
        """Let the views that may, and see a point, vote on it."""
        points = torch.from_numpy(points_world).double().to(self._device)
        evidence, most = self._evidence(scene), self._most_views()
        parts = [
            self.network.label(evidence, chunk, most) for chunk in points.split(_CHUNK)
        ]
        return _point_labels(parts)

    def explain(
        self, point_world: Float[np.ndarray, " 3"], scene: SceneInputs
    ) -> list[ViewVote]:
        """Return how views vote on one point, the weightiest first.

        A field that predicts classes directly has no votes but those on colours.
        """
        return self.explain_each(point_world[None], scene)[0]

    @torch.inference_mode()
    def explain_each(
        self, points_world: Float[np.ndarray, "n 3"], scene: SceneInputs
    ) -> list[list[ViewVote]]:
        """Return how views vote on each of a few points; see `explain`."""
        points = torch.from_numpy(points_world).double().to(self._device)
        votes = self.network.ask(self._evidence(scene), points, self._most_views())
        is_voted = votes.predicted is None
        weights = votes.weights if is_voted else votes.color_weights
        said = votes.said
        if self.network.settings.payload == "logits":
            said = said.softmax(1)
        positions, _ = self._voters(scene.frames)
        scale = np.divide(scene.frames.color_size, self.network.picture_size)
        uv = (votes.pairs.uv.cpu().numpy() + 0.5) * scale - 0.5
        told: list[list[ViewVote]] = [[] for _ in points]
        for point, view, at, weight, own in zip(
            votes.pairs.point.tolist(),
            votes.pairs.view.tolist(),
            uv.tolist(),
            weights.tolist(),
            said.float().cpu().numpy(),
            strict=True,
        ):
            told[point].append(ViewVote(positions[view], tuple(at), weight, own))
        return [sorted(own, key=lambda vote: -vote.weight) for own in told]

    def _voters(
        self, frames: Frames
    ) -> tuple[list[int], Int64[torch.Tensor, " views"] | None]:
        """Return the positions of all frames that vote, and who votes with whom."""
        settings = self.network.settings
        if settings.voters == "nearest":
            return frames_of_kind(frames, settings.source_frames).tolist(), None
        groups = voting_groups(frames)
        sizes = torch.tensor([len(own) for own in groups], dtype=torch.int64)
        number = torch.arange(len(groups)).repeat_interleave(sizes)
        return [view for own in groups for view in own], number

    def _most_views(self) -> int | None:
        """Return how many of the nearest views vote on a point; None: a fragment's."""
        settings = self.network.settings
        return settings.views if settings.voters == "nearest" else None

    def _evidence(self, scene: SceneInputs) -> Evidence:
        """Return all that points are judged by, on the device."""
        settings = self.network.settings
        positions, group = self._voters(scene.frames)
        if not positions:
            kinds = settings.source_frames, settings.voters
            raise BadInput(
                scene.frames.path,
                "frames",
                expected="source views (`source_frames: {}`, `voters: {}`)".format(
                    *kinds
                ),
                found="none",
                remedy="choose other source frames in the field's recipe",
            )
        size, payload = self.network.picture_size, settings.payload
        sources = read_sources(scene.frames, scene.prior, positions, size, payload)
        sources = moved(sources._replace(group=group), self._device)
        geometry = scene_for(self.network, scene, self._device)
        return self.network.look(geometry, sources)


def scene_for(
    network: GnesfNetwork, inputs: SceneInputs, device: torch.device
) -> Scene:
    """Return the geometry that a network is asked about, on its device."""
    encoding = no_encoding()
    if network.settings.vote not in UNLEARNED:
        if inputs.features is None:
            _refuse("features", "the volume that gives points their encoding")
        encoding = encoding_of(inputs.features)
        where = inputs.features_path or inputs.frames.scene
        check_channels(encoding, network.given_channels, where)
        known = network.learned_with, inputs.features_weights
        if None not in known and known[0] != known[1]:
            raise BadInput(
                where,
                "weights that made the encoding",
                expected=f"{known[0][:12]}, with which the field has learned",
                found=known[1][:12],
                remedy="let `features` name the geometry of the field's training",
            )
    scene = moved(Scene(distance_field(inputs.surface), encoding), device)
    return scene.to_be_asked_often(network.settings)


def _point_labels(parts: list[Labels]) -> PointLabels:
    if not parts:
        empty = np.zeros(0, np.uint8), np.zeros(0, np.float32)
        return PointLabels(*empty, np.zeros((0, 3), np.uint8))
    semantic, color, seen = (torch.cat(own) for own in zip(*parts, strict=True))
    confidence, class_id = semantic.float().max(1)
    class_id = torch.where(seen, class_id, IGNORE).to(torch.uint8)
    color = (color * 255).round().clamp(0, 255).to(torch.uint8)
    color = torch.where(seen[:, None], color, UNSEEN_COLOR)
    return PointLabels(
        class_id.cpu().numpy(),
        torch.where(seen, confidence, 0.0).cpu().numpy(),
        color.cpu().numpy(),
    )
