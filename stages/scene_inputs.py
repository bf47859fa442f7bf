"""Open a field and what it is asked about, for the stages that ask one."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gnesf_core.config import NeuconConfig, SourceViewsConfig
from gnesf_core.data import store
from gnesf_core.data.publish import sha256_of
from gnesf_core.errors import BadInput
from gnesf_core.fields.interface import Field, SceneInputs
from gnesf_core.training.weights import load_into
from gnesf_core.views.interface import NEEDS, Method
from gnesf_core.views.rendering import Renderer
from stages.cli import device_named, settings


class OpenField(NamedTuple):
    """A field that can be asked, and what its results say of it."""

    field: Field
    config: Any  # of the module's own kind
    packages: tuple[str, ...]  # that it needs


def open_field(
    module: str,
    recipe: str,
    encoder: NeuconConfig | None,
    weights: Path | None,
    device: torch.device,
) -> OpenField:
    """Open the field in `gnesf_core.fields` with its recipe and weights."""
    kind = importlib.import_module(f"gnesf_core.fields.{module}")
    config = settings(kind.Settings, recipe, "--recipe")
    field = kind.open_field(config, encoder, weights, device)
    return OpenField(field, config, kind.PACKAGES)


@contextmanager
def scene_inputs(
    frames: Path,
    volume: Path,
    prior: Path,
    features: Path | None = None,
    scene: str | None = None,
) -> Iterator[tuple[SceneInputs, dict[str, str]]]:
    """Yield a scene's inputs and their fingerprints by role; they belong together."""
    with ExitStack() as stack:
        kept = stack.enter_context(store.Frames(frames, scene))
        geometry = stack.enter_context(store.VolumeFile(volume, kept))
        maps = stack.enter_context(store.PriorMaps(prior, kept))
        files = {"frames": kept, "volume": geometry, "prior": maps}
        encoded, made_by = None, None
        if features is not None:
            files["features"] = stack.enter_context(store.VolumeFile(features, kept))
            encoded = files["features"].volume()
            made_by = files["features"].provenance["inputs"].get("weights")
        fingerprints = {role: file.fingerprint for role, file in files.items()}
        surface = geometry.volume().surface
        inputs = SceneInputs(kept, maps, surface, encoded, features, made_by)
        yield inputs, fingerprints


def build_method(module: str, recipe: str) -> tuple[Method, tuple[str, ...]]:
    """Return the method of `gnesf_core.views.<module>`, and the libraries it needs."""
    kind = importlib.import_module(f"gnesf_core.views.{module}")
    method = kind.build(settings(kind.Settings, recipe, "--recipe"))
    if unknown := method.needs - NEEDS:
        raise BadInput(
            f"gnesf_core/views/{module}.py",
            "needs",
            expected=f"some of {', '.join(sorted(NEEDS))}",
            found=", ".join(sorted(unknown)),
            remedy="frames hold nothing else; keep it in them first",
        )
    near_m, far_m = method.range_m
    if near_m >= far_m:
        raise BadInput(
            "recipe",
            "near_m",
            expected=f"less than far_m, {far_m}",
            found=near_m,
            remedy="correct the method's settings",
        )
    return method, kind.PACKAGES


class Segmenter(NamedTuple):
    """A prior's network that segments what is rendered, as options of a stage."""

    module: str
    recipe: str
    weights: Path | None


class OpenRenderer(NamedTuple):
    """A method that can be asked about a scene, and what its results say of it."""

    renderer: Renderer
    config: Any  # of the module's own kind
    packages: tuple[str, ...]
    inputs: dict[str, str]  # fingerprints, by role


@contextmanager
def open_renderer(
    module: str,
    recipe: str,
    weights: Path,
    sources: SourceViewsConfig,
    frames: Path,
    prior: Path | None,
    segmenter: Segmenter,
    device: str,
    protocol: str,
) -> Iterator[OpenRenderer]:
    """Yield the method of `gnesf_core.views.<module>`, and the files of a scene."""
    where = device_named(device)
    method, packages = build_method(module, recipe)
    load_into(method, weights)
    if prior is None and "prior" in method.needs:
        raise BadInput(
            "command line",
            "--prior",
            expected="the prior's maps of the scene",
            found="none",
            remedy="name a prior in the method's recipe",
        )
    inputs = {"weights": sha256_of(weights)}
    if "segmenter" in method.needs:
        method.segmenter = _segment_by(segmenter, device)
        inputs["segmenter"] = sha256_of(segmenter.weights)
    with ExitStack() as stack:
        kept, maps = stack.enter_context(store.Frames(frames)), None
        inputs["frames"] = kept.fingerprint
        if prior is not None:
            maps = stack.enter_context(store.PriorMaps(prior, kept))
            inputs["prior"] = maps.fingerprint
        renderer = Renderer(
            method.to(where).eval(), kept, maps, sources, where, protocol
        )
        yield OpenRenderer(renderer, method.settings, packages, inputs)


def _segment_by(segmenter: Segmenter, device: str) -> Callable[[Any], Any]:
    found = "none"
    if segmenter.module and segmenter.weights is not None:
        kind = importlib.import_module(f"gnesf_core.priors.{segmenter.module}")
        config = settings(kind.Settings, segmenter.recipe, "--segmenter-recipe")
        prior = kind.open_prior(config, segmenter.weights, device)
        if hasattr(prior, "segment"):
            return prior.segment
        found = segmenter.module
    raise BadInput(
        "recipe",
        "segmenter",
        expected="a prior with a network that segments any picture",
        found=found,
        remedy="name another prior in the method's recipe",
    )
