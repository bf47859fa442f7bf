"""What is asked of a method that says what a camera sees which was never there.

A method's module in this folder has `Settings` (a dataclass), `build` as below, and
`PACKAGES`, the libraries whose versions its results should name. A recipe names its
module; nothing imports them all.

    def build(settings) -> Method

Training draws some rays of a picture, rendering takes all of them, in parts. Both call

    context = method.encode(sources, camera)    # once per picture
    passes = method.render(context, rays)       # coarse to fine
    maps = method.finish(context, maps)         # once per whole picture

and training then `losses(context, passes, truth)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gnesf_core.config import TrainingConfig
from gnesf_core.labels import IGNORE
from gnesf_core.rendering.frame_samples import Truth
from gnesf_core.rendering.rays import Rays
from gnesf_core.rendering.sources import Sources
from gnesf_core.shapes import Bool, Float, Float64, Int64
from gnesf_core.training.groups import parameter_groups

# What a method may need: the sources' class maps; their depth; their true classes, in
# training alone; the scene's surface; a segmenter for pictures that are rendered.
NEEDS = frozenset({"prior", "depth", "labels", "surface", "segmenter"})
LEAST = 1e-4  # probability: nothing is learned from how wrong one was beyond


class Camera(NamedTuple):
    """Who looks."""

    intrinsics: Float64[Tensor, "3 3"]  # of the picture that is rendered
    world_from_camera: Float64[Tensor, "4 4"]
    size: tuple[int, int]  # width and height of that picture


class Rendered(NamedTuple):
    """What one pass of a method says about rays, or a whole picture, row by row."""

    color: Float[Tensor, "rays 3"]  # 0..1
    depth_m: Float[Tensor, " rays"]
    # Probabilities, or what the method's `says` names; no columns if it says nothing.
    semantic: Float[Tensor, "rays classes"]
    weights: Float[Tensor, "rays samples"]  # of what was added up
    # Rays of which enough is known: in training to learn from, else to say anything.
    usable: Bool[Tensor, " rays"]


class Method(nn.Module, ABC):
    """The parts that a method has, and those that it may leave as they are."""

    settings: Any  # of the module's own kind
    # Of `NEEDS`, what it has to be given.
    needs: frozenset[str] = frozenset()
    # What `Rendered.semantic` holds: probabilities, logits or nothing.
    says: str = "nothing"
    # Whether it learns one scene by heart, and looks at no source views.
    of_one_scene: bool = False
    # What of the prior it is shown: probabilities or logits.
    payload: str = "probabilities"
    # Depths between which it looks.
    range_m: tuple[float, float] = (0.1, 10.0)

    @abstractmethod
    def encode(self, sources: Sources, camera: Camera) -> Any:
        """Return all that rays of one camera are rendered from."""

    @abstractmethod
    def render(self, context: Any, rays: Rays) -> list[Rendered]:
        """Return what is seen along rays by depth, the last pass being the answer."""

    def finish(self, context: Any, whole: Rendered) -> Rendered:
        """Return what is seen in a whole picture, of which `render` said its part."""
        del context
        return whole

    def losses(
        self, context: Any, passes: Sequence[Rendered], truth: Truth
    ) -> dict[str, Float[Tensor, " errors"]]:
        """Return errors by name; the mean of each, over all rays, is a loss.

        Every pass, of which there are one or two, is held against the picture's
        colours, and its classes if any are said, by the weights that the settings have
        for them.
        """
        del context
        s, told = self.settings, {}
        names = ("coarse", "fine")[-len(passes) :]
        for name, rendered in zip(names, passes, strict=True):
            told[f"{name}_color"] = s.color_weight * color_errors(rendered, truth)
            if self.says != "nothing":
                wrong = self.class_errors(rendered, truth)
                told[f"{name}_semantic"] = s.semantic_weight * wrong
        return told

    def class_errors(
        self, rendered: Rendered, truth: Truth
    ) -> Float[Tensor, " labelled"]:
        """Return how wrong the classes of rays are, for training."""
        return cross_entropies(rendered, truth, self.says)

    def judge(self, answer: Rendered, truth: Truth) -> Float[Tensor, " errors"]:
        """Return the errors by which the best weights are chosen, on held-out scenes.

        They are of classes, or of colours where nothing is said of classes.
        """
        if self.says == "nothing":
            return color_errors(answer, truth)
        return cross_entropies(answer, truth, self.says)

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, Any]]:
        """Let everything that is not frozen learn alike."""
        return parameter_groups(self, (), config)


def color_errors(rendered: Rendered, truth: Truth) -> Float[Tensor, " usable"]:
    """Return the mean square by which the colours of usable rays are wrong."""
    difference = (rendered.color - truth.color)[rendered.usable].float()
    return difference.square().mean(1)


def cross_entropies(
    rendered: Rendered, truth: Truth, says: str
) -> Float[Tensor, " labelled"]:
    """Return the cross-entropies of usable rays that have a label, Eq. 6."""
    said, label = said_of_labelled(rendered, truth)
    if says == "logits":
        return -said.log_softmax(1).gather(1, label)[:, 0]
    assert says == "probabilities"
    return -said.gather(1, label)[:, 0].clamp(min=LEAST).log()


def said_of_labelled(
    rendered: Rendered, truth: Truth
) -> tuple[Float[Tensor, "labelled classes"], Int64[Tensor, "labelled 1"]]:
    """Return what is said of usable rays that have a label, and those labels."""
    labelled = rendered.usable & (truth.labels != IGNORE)
    return rendered.semantic[labelled].float(), truth.labels[labelled].long()[:, None]


def probabilities(rendered: Rendered, says: str) -> Float[Tensor, "rays classes"]:
    """Return the probabilities of classes, whatever space a method works in."""
    if says == "logits":
        return rendered.semantic.softmax(1)
    return rendered.semantic


def joined(parts: Sequence[Rendered]) -> Rendered:
    """Put the parts of a picture together; the weights of samples are not kept."""
    whole = Rendered(*(torch.cat(own) for own in zip(*parts, strict=True)))
    return whole._replace(weights=whole.weights.sum(1, keepdim=True))
