"""The paper's field: source views vote on points, near surfaces that are given."""

from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from gnesf_core.config import GnesfConfig, NeuconConfig
from gnesf_core.data.publish import sha256_of
from gnesf_core.errors import BadInput
from gnesf_core.fields.choice import frames_of_kind
from gnesf_core.fields.encoding import encoding_of, no_encoding
from gnesf_core.fields.interface import Field, PointLabels, SceneInputs
from gnesf_core.fields.network import UNLEARNED, GnesfNetwork, Labels, Scene
from gnesf_core.fields.sources import read_sources
from gnesf_core.geometry.distance_field import distance_field
from gnesf_core.labels import IGNORE
from gnesf_core.shapes import Float
from gnesf_core.training.loop import moved
from gnesf_core.training.weights import load_into, read_weights

Settings = GnesfConfig
PACKAGES = ("safetensors",)

_CHUNK = 1 << 16  # points that are voted on at once
_NO_COLOR = 127  # of points that no view sees


def build(settings: GnesfConfig, encoder: NeuconConfig, start: Path) -> GnesfNetwork:
    """Return the network with the picture encoder of a trained geometry."""
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
        load_into(network, weights)
        inputs["weights"] = sha256_of(weights)
    return GnesfField(network.to(device).eval(), inputs, device)


def _refuse(place: str, expected: str) -> NoReturn:
    raise BadInput(
        "recipe",
        place,
        expected=expected,
        found="none",
        remedy="train it, or name a file in the recipe",
    )


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
        """Let the nearest views that see a point vote on it."""
        settings = self.network.settings
        positions = frames_of_kind(scene.frames, settings.source_frames)
        size, payload = self.network.picture_size, settings.payload
        sources = read_sources(scene.frames, scene.prior, positions, size, payload)
        sources = moved(sources, self._device)
        geometry = moved(scene_of(scene), self._device)
        maps = self.network.look(sources)
        points = torch.from_numpy(points_world).double().to(self._device)
        parts = [
            self.network.label(geometry, sources, maps, chunk, settings.views)
            for chunk in points.split(_CHUNK)
        ]
        return _point_labels(parts)


def scene_of(inputs: SceneInputs) -> Scene:
    """Return the geometry that a field is asked about, on the CPU."""
    features = inputs.features
    encoding = no_encoding() if features is None else encoding_of(features)
    return Scene(distance_field(inputs.surface), encoding)


def _point_labels(parts: list[Labels]) -> PointLabels:
    if not parts:
        empty = np.zeros(0, np.uint8), np.zeros(0, np.float32)
        return PointLabels(*empty, np.zeros((0, 3), np.uint8))
    semantic, color, seen = (torch.cat(own) for own in zip(*parts, strict=True))
    confidence, class_id = semantic.float().max(1)
    class_id = torch.where(seen, class_id, IGNORE).to(torch.uint8)
    color = (color * 255).round().clamp(0, 255).to(torch.uint8)
    color = torch.where(seen[:, None], color, _NO_COLOR)
    return PointLabels(
        class_id.cpu().numpy(),
        torch.where(seen, confidence, 0.0).cpu().numpy(),
        color.cpu().numpy(),
    )
