"""Losses of views by hand, on a method whose best weights have a closed form."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from gnesf_core.labels import IGNORE
from gnesf_core.rendering.frame_samples import Truth
from gnesf_core.rendering.rays import Rays
from gnesf_core.views.interface import (
    LEAST,
    Method,
    Rendered,
    cross_entropies,
    joined,
    probabilities,
)
from gnesf_core.views.samples import ViewSamples
from gnesf_core.views.training import ViewTask

CLASSES = 5


class Uniform(Method):
    """Sees one colour and one distribution of classes everywhere, in two passes.

    Only the second pass is any good. Rays that start below the floor are unusable.
    """

    def __init__(self, says="logits"):
        super().__init__()
        self.says = says
        self.settings = SimpleNamespace(color_weight=2, semantic_weight=3)
        self.color = nn.Parameter(torch.tensor([0.2, 0.4, 0.6]))
        self.semantic = nn.Parameter(torch.linspace(-1, 1, CLASSES))

    def encode(self, sources, camera):
        del sources, camera

    def render(self, context, rays):
        count = len(rays.origins_world)
        color, semantic = (own.expand(count, -1) for own in (self.color, self.semantic))
        blank = torch.ones(count, 1)
        usable = rays.origins_world[:, 2] >= 0
        whole = Rendered(color, blank[:, 0], semantic, blank, usable)
        return [whole._replace(color=0 * color + 9, semantic=-semantic), whole]


class Sample(NamedTuple):
    sources: None
    camera: None
    rays: Rays
    truth: Truth


class Held(ViewSamples):
    """Samples that only judge, and are of no file."""

    def __init__(self, *samples):
        self._samples = samples

    def held_out(self):
        yield from self._samples


def sample_of(count, seed, void=0.3, unusable=0.2):
    rng = np.random.default_rng(seed)
    origins = np.where(rng.random((count, 1)) < unusable, -1.0, 1.0) * np.ones(3)
    labels = rng.choice(CLASSES, count, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    labels[rng.random(count) < void] = IGNORE
    color = torch.from_numpy(rng.random((count, 3)).astype(np.float32))
    rays = Rays(torch.from_numpy(origins), torch.ones(count, 3).double())
    return Sample(None, None, rays, Truth(torch.from_numpy(labels.astype("u1")), color))


def rays_of(*samples):
    """Yield colour and label of usable rays, one by one."""
    for own in samples:
        starts = own.rays.origins_world[:, 2].tolist()
        for z, label, color in zip(
            starts, own.truth.labels.tolist(), own.truth.color.tolist(), strict=True
        ):
            if z >= 0:
                yield color, label


def task_of(*samples, **how):
    return ViewTask(Uniform(**how), Held(*samples))


def losses_of(task, *samples):
    return task.losses(task.model, {"sample": list(samples)})


@torch.no_grad()
def value_of(task):
    return task.validate(task.model)


def entropy_of(logits, label):
    return math.log(sum(map(math.exp, logits))) - logits[label]


def test_losses_are_means_over_all_usable_rays_of_the_batch():
    """Samples that have more rays of use count for more; both passes are judged."""
    samples = sample_of(70, 0), sample_of(9, 1, void=0.8), sample_of(30, 2, unusable=1)
    losses = losses_of(task_of(), *samples)
    logits = np.linspace(-1, 1, CLASSES)
    answers = {"coarse": ([9.0] * 3, -logits), "fine": ([0.2, 0.4, 0.6], logits)}
    rays = list(rays_of(*samples))
    labels = [label for _, label in rays if label != IGNORE]
    assert len(rays) > len(labels) > 20
    assert set(losses) == {
        f"{one}_{of}" for one in answers for of in ("color", "semantic")
    }
    for name, (color, said) in answers.items():
        squares = [np.mean((np.array(own) - color) ** 2) for own, _ in rays]
        crossed = [entropy_of(said, label) for label in labels]
        found = [float(losses[f"{name}_{of}"].detach()) for of in ("color", "semantic")]
        assert found == pytest.approx([2 * np.mean(squares), 3 * np.mean(crossed)])


def test_what_says_nothing_of_classes_learns_colours_alone():
    losses = losses_of(task_of(says="nothing"), sample_of(20, 6))
    assert set(losses) == {"coarse_color", "fine_color"}


def test_the_best_colour_is_the_mean_and_the_best_classes_are_the_shares():
    samples = sample_of(200, 3), sample_of(40, 4)
    rays = list(rays_of(*samples))
    labels = [label for _, label in rays if label != IGNORE]
    shares = np.bincount(labels, minlength=CLASSES) / len(labels)
    task = task_of()
    with torch.no_grad():
        task.model.color.copy_(torch.tensor(np.mean([own for own, _ in rays], axis=0)))
        task.model.semantic.copy_(torch.from_numpy(np.log(shares)) + 7)
    losses = losses_of(task, *samples)
    (losses["fine_color"] + losses["fine_semantic"]).backward()
    entropy = -(shares * np.log(shares)).sum()
    assert float(losses["fine_semantic"].detach()) == pytest.approx(3 * entropy)
    for own in (task.model.color, task.model.semantic):
        torch.testing.assert_close(own.grad, torch.zeros_like(own), atol=1e-6, rtol=0)


def test_a_batch_of_which_no_ray_is_usable_teaches_nothing():
    task = task_of()
    losses = losses_of(task, sample_of(20, 5, unusable=1))
    assert all(float(value.detach()) == 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert not task.model.color.grad.any() and not task.model.semantic.grad.any()


def test_void_rays_teach_colours_alone():
    losses = losses_of(task_of(), sample_of(20, 6, void=1, unusable=0))
    told = {name: float(value.detach()) for name, value in losses.items()}
    assert told["coarse_semantic"] == told["fine_semantic"] == 0
    assert min(told["coarse_color"], told["fine_color"]) > 0


def test_validation_judges_the_answer_by_its_classes():
    samples = sample_of(50, 7), sample_of(11, 8)
    task = task_of(*samples)
    crossed = [
        entropy_of(np.linspace(-1, 1, CLASSES), label)
        for _, label in rays_of(*samples)
        if label != IGNORE
    ]
    assert value_of(task) == pytest.approx(np.mean(crossed))


def test_a_method_that_says_nothing_of_classes_is_judged_by_its_colours():
    samples = sample_of(50, 7), sample_of(11, 8)
    task = task_of(*samples, says="nothing")
    squares = [
        np.mean((np.array(color) - [0.2, 0.4, 0.6]) ** 2)
        for color, _ in rays_of(*samples)
    ]
    assert value_of(task) == pytest.approx(np.mean(squares))


def test_validation_without_held_out_rays_is_not_a_number():
    for task in (task_of(), task_of(sample_of(9, 9, void=1))):
        assert math.isnan(value_of(task))


def rendered(semantic, usable=None):
    semantic = torch.as_tensor(semantic)
    count = len(semantic)
    usable = torch.ones(count, dtype=torch.bool) if usable is None else usable
    blank = torch.zeros(count, 3)
    return Rendered(blank, blank[:, 0], semantic, blank, usable)


def labelled(labels):
    return Truth(torch.tensor(labels, dtype=torch.uint8), torch.zeros(len(labels), 3))


def test_logits_are_judged_as_the_probabilities_that_they_stand_for():
    logits = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(0))
    truth = labelled([0, 1, 2, 3, 4, 4, IGNORE, 0])
    one = cross_entropies(rendered(logits), truth, "logits")
    shares = probabilities(rendered(logits), "logits")
    torch.testing.assert_close(shares.sum(1), torch.ones(8))
    other = cross_entropies(rendered(shares), truth, "probabilities")
    torch.testing.assert_close(one, other)
    assert torch.equal(probabilities(rendered(shares), "probabilities"), shares)
    assert len(one) == 7


def test_an_impossible_class_costs_no_more_than_it_can_teach():
    shares = torch.tensor([[0.0], [LEAST / 10], [0.5]], requires_grad=True)
    errors = cross_entropies(rendered(shares), labelled([0, 0, 0]), "probabilities")
    assert errors[0] == errors[1] and float(errors[0].detach()) == pytest.approx(
        4 * math.log(10)
    )
    errors.sum().backward()
    torch.testing.assert_close(shares.grad, torch.tensor([[0.0], [0.0], [-2.0]]))


def test_parts_of_a_picture_are_joined_in_their_order():
    first, second = rendered(torch.eye(3)), rendered(2 * torch.eye(3)[:2])
    whole = joined([first, second])
    assert torch.equal(whole.semantic, torch.cat([first.semantic, second.semantic]))
    assert len(whole.usable) == 5 and whole.weights.shape == (5, 1)
