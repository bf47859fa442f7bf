"""What a field learns from rays: losses by hand, what stays frozen, whom it trusts."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from gnesf_core.fields import gnesf
from gnesf_core.fields.network import GnesfNetwork, Rendered
from gnesf_core.fields.samples import FieldSamples
from gnesf_core.fields.training import FieldTask, color_errors, semantic_errors
from gnesf_core.labels import IGNORE
from gnesf_core.rendering.frame_samples import Truth
from tests import field_scenes
from tests.field_scenes import DATA, ENCODER, SETTINGS, TRAINING


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rooms")


@pytest.fixture(scope="module")
def start(folder):
    return field_scenes.write_start(folder / "start.safetensors")


@pytest.fixture(scope="module")
def scenes(folder):
    """Two rooms of many frames, with logits beside probabilities."""
    return [field_scenes.write_scene(folder, name, 24, logits=True) for name in "ab"]


@pytest.fixture(scope="module")
def make(scenes, start):
    """Return a function that makes tasks with weights as chance makes them."""

    def build(seed=0, held_out=0, data=DATA, **changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        torch.manual_seed(seed)
        network = gnesf.build(settings, ENCODER, start)
        data = dataclasses.replace(data, held_out_scenes=held_out)
        samples = FieldSamples(scenes, ENCODER, settings, data, TRAINING)
        return FieldTask(network, samples, data)

    return build


def batch(*samples):
    return {"sample": list(samples), "name": [str(n) for n in range(len(samples))]}


def rendered(semantic, usable, color=None):
    semantic = torch.tensor(semantic)
    color = torch.zeros(len(semantic), 3) if color is None else torch.tensor(color)
    distance_m = torch.ones(len(semantic)).double()
    return Rendered(semantic, color, distance_m, torch.tensor(usable))


def truth(labels, color=None):
    color = [[0.0] * 3] * len(labels) if color is None else color
    return Truth(torch.tensor(labels, dtype=torch.uint8), torch.tensor(color))


# Losses of single rays.


def test_errors_of_classes_are_those_of_the_labels_probability():
    said = rendered([[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]], [True] * 3)
    labels = truth([0, 1, 1])
    told = semantic_errors(said, labels, "cross-entropy")
    torch.testing.assert_close(told, torch.tensor([math.log(4), math.log(2), 0.0]))
    told = semantic_errors(said, labels, "one-minus-probability")
    torch.testing.assert_close(told, torch.tensor([0.75, 0.5, 0.0]))


def test_void_rays_and_those_without_a_vote_have_no_error():
    said = rendered([[0.25, 0.75]] * 4, [True, False, True, False])
    labels = truth([IGNORE, 1, 1, IGNORE])
    for loss in ("cross-entropy", "one-minus-probability"):
        assert len(semantic_errors(said, labels, loss)) == 1
    # Void says nothing of colours.
    assert len(color_errors(said, labels, "squared")) == 2


def test_an_impossible_class_costs_no_more_than_it_can_teach():
    probability = torch.tensor([[0.0], [1e-7], [0.5]], requires_grad=True)
    said = rendered([[0.0]] * 3, [True] * 3)._replace(semantic=probability)
    told = semantic_errors(said, truth([0, 0, 0]), "cross-entropy")
    assert told.isfinite().all() and told[0] == told[1] > 9
    told.sum().backward()
    torch.testing.assert_close(probability.grad, torch.tensor([[0.0], [0.0], [-2.0]]))


def test_errors_of_colours_are_squares_added_or_differences_averaged():
    said = rendered([[1.0]] * 3, [True, False, True],
                    [[0.5, 0.0, 0.2], [1.0] * 3, [0.1, 0.1, 0.1]])  # fmt: skip
    shown = truth([0] * 3, [[0.1, 0.3, 0.2], [0.0] * 3, [0.1, 0.1, 0.1]])
    squared = color_errors(said, shown, "squared")
    torch.testing.assert_close(squared, torch.tensor([0.16 + 0.09, 0.0]))
    absolute = color_errors(said, shown, "absolute")
    torch.testing.assert_close(absolute, torch.tensor([0.7 / 3, 0.0]))


# Losses of batches.


def parts_of(task, sample):
    """Return a sample's errors, ray by ray, by the definitions of the settings."""
    network, data = task.model, task._data
    evidence = network.look(sample.scene, sample.sources)
    found = network.render(evidence, sample.rays)
    return (
        semantic_errors(found, sample.truth, data.semantic_loss),
        color_errors(found, sample.truth, data.color_loss),
    )


def test_losses_are_weighted_means_over_all_rays_of_the_batch(make):
    data = dataclasses.replace(DATA, semantic_weight=3.0, color_weight=0.25)
    task = make(data=data)
    task.model.eval()
    one, two = (task.samples[number]["sample"] for number in (1, 6))
    few = two._replace(
        rays=two.rays._replace(
            origins_world=two.rays.origins_world[:20],
            directions_world=two.rays.directions_world[:20],
        ),
        truth=Truth(*(own[:20] for own in two.truth)),
    )
    parts = [parts_of(task, own) for own in (one, few)]
    assert len(parts[0][0]) != len(parts[1][0]) > 0
    losses = task.losses(task.model, batch(one, few))
    for index, (name, weight) in enumerate((("semantic", 3.0), ("color", 0.25))):
        every = torch.cat([own[index] for own in parts]).tolist()
        expected = weight * sum(every) / len(every)
        assert float(losses[name].detach()) == pytest.approx(expected, rel=1e-5)


def test_one_minus_probability_is_what_is_missing_to_certainty(make):
    names = {"semantic_loss": "one-minus-probability", "color_loss": "absolute"}
    task = make(data=dataclasses.replace(DATA, **names), visibility="sdf")
    task.model.eval()
    sample = task.samples[3]["sample"]
    evidence = task.model.look(sample.scene, sample.sources)
    with torch.no_grad():
        said = task.model.render(evidence, sample.rays)
        losses = task.losses(task.model, batch(sample))
    right, apart = [], []
    for n, label in enumerate(sample.truth.labels.tolist()):
        if said.usable[n]:
            right += [float(said.semantic[n, label])] if label != IGNORE else []
            apart += [float((said.color[n] - sample.truth.color[n]).abs().mean())]
    assert len(right) > 10
    assert float(losses["semantic"]) == pytest.approx(1 - np.mean(right), rel=1e-4)
    assert float(losses["color"]) == pytest.approx(0.5 * np.mean(apart), rel=1e-4)


def outwards(rays):
    """Return rays that start far above the room and go further up."""
    origins = rays.origins_world + torch.tensor([0.0, 0.0, 50.0]).double()
    up = torch.tensor([0.0, 0.0, 1.0]).double().expand_as(origins).contiguous()
    return rays._replace(origins_world=origins, directions_world=up)


def test_rays_that_hit_nothing_teach_nothing(make):
    task = make(source_frames="kept")
    task.model.eval()
    sample = with_a_liar(task.samples[0]["sample"], 0)
    missing = outwards(sample.rays)
    both = sample._replace(
        rays=type(missing)(*map(torch.cat, zip(sample.rays, missing, strict=True))),
        truth=Truth(*(torch.cat([own, own]) for own in sample.truth)),
    )
    alone, together = (task.losses(task.model, batch(s)) for s in (sample, both))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value)
        assert float(value.detach()) > 0
    nothing = task.losses(task.model, batch(sample._replace(rays=missing)))
    assert all(float(value.detach()) == 0 for value in nothing.values())
    torch.stack(list(nothing.values())).sum().backward()
    gradients = [p.grad for p in task.model.parameters() if p.grad is not None]
    assert not any(own.any() for own in gradients)


def test_void_rays_teach_colours_alone(make):
    task = make()
    task.model.eval()
    sample = task.samples[0]["sample"]
    void = sample.truth._replace(labels=torch.full_like(sample.truth.labels, IGNORE))
    losses = task.losses(task.model, batch(sample._replace(truth=void)))
    assert losses["semantic"] == 0 and losses["color"] > 0


def test_a_batch_of_which_no_ray_is_usable_can_be_learned_from(make):
    """A step without any evidence changes nothing, and is not NaN."""
    task = make()
    task.model.train()
    sample = task.samples[0]["sample"]
    empty = batch(sample._replace(rays=outwards(sample.rays)))
    optimizer = torch.optim.AdamW(task.parameter_groups(TRAINING), weight_decay=0.0)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    torch.stack(list(task.losses(task.model, empty).values())).sum().backward()
    optimizer.step()
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, before[name]), name


# What learns.


def learn(task, steps, rate=2e-2, spoil=lambda sample, number: sample):
    config = dataclasses.replace(TRAINING, learning_rate=rate)
    optimizer = torch.optim.AdamW(task.parameter_groups(config))
    task.model.train()
    for step in range(steps):
        torch.manual_seed(step)
        numbers = 2 * step, 2 * step + 1
        shown = [spoil(task.samples[n]["sample"], n) for n in numbers]
        losses = task.losses(task.model, batch(*shown))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()


KINDS = {
    "paper": {}, "released": {"network": "released"}, "informed": {"informed": True},
    "depth": {"displacement": "depth"}, "logits": {"payload": "logits"},
    "direct": {"vote": "direct"}, "voxels": {"vote_at": "voxels"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_stays_as_it_was_and_everything_else_learns(make, kind):
    task = make(**KINDS[kind])
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    learn(task, 2)
    after = task.model.state_dict()
    moved = {
        name for name, value in after.items() if not torch.equal(value, before[name])
    }
    frozen = {name for name in after if name.startswith("encoder.")}
    assert any(name.endswith("running_mean") for name in frozen)
    assert not moved & frozen
    assert all(value.isfinite().all() for value in after.values())
    # What is predicted directly is not voted on.
    idle = "vote.vote.semantic." if kind == "direct" else "encoder."
    assert all(name.startswith(idle) for name in after.keys() - frozen - moved)


def test_learning_switches_everything_but_the_encoder_to_training(make):
    network = make().model
    network.train()
    assert network.training and network.vote.training
    assert not any(own.training for own in network.encoder.modules())
    network.eval()
    assert not any(own.training for own in network.modules())


def test_the_encoder_is_that_of_the_geometry(make, start):
    from gnesf_core.training.weights import read_weights

    stored, _ = read_weights(start)
    own = make().model.encoder.state_dict()
    for name, value in own.items():
        torch.testing.assert_close(value, stored[f"encoder.{name}"], rtol=0, atol=0)
    assert len(own) > 100


def test_validation_is_the_mean_cross_entropy_of_held_out_rays(make):
    names = {"semantic_loss": "one-minus-probability"}
    task = make(held_out=1, data=dataclasses.replace(DATA, **names))
    task.model.eval()
    with torch.no_grad():
        value = task.validate(task.model)
        assert task.validate(task.model) == value
        errors = []
        for sample in task.samples.held_out():
            evidence = task.model.look(sample.scene, sample.sources)
            said = task.model.render(evidence, sample.rays)
            for n, label in enumerate(sample.truth.labels.tolist()):
                if said.usable[n] and label != IGNORE:
                    errors.append(-math.log(max(float(said.semantic[n, label]), 1e-4)))
    assert len(errors) > 50
    assert value == pytest.approx(np.mean(errors), rel=1e-4)


def test_validation_without_held_out_scenes_is_not_a_number(make):
    task = make()
    assert math.isnan(task.validate(task.model))


# Whom to trust.


def with_a_liar(sample, number):
    """Return a sample of which one view, whichever, lies and is tinted red."""
    sources = sample.sources
    liar = np.random.default_rng(number).integers(len(sources.pictures))
    pictures, maps = sources.pictures.clone(), sources.maps.clone()
    red = torch.tensor([127, 0, 0], dtype=torch.uint8)[:, None, None]
    pictures[liar] = pictures[liar] // 4 + red
    maps[liar] = maps[liar].roll(7, 0)  # a floor is a window there
    return sample._replace(sources=sources._replace(pictures=pictures, maps=maps))


def probability_of_truth(network, samples, spoil):
    network.eval()
    found = []
    with torch.no_grad():
        for number in range(1000, 1005):
            sample = spoil(samples[number]["sample"], number)
            evidence = network.look(sample.scene, sample.sources)
            said = network.render(evidence, sample.rays)
            errors = semantic_errors(said, sample.truth, "one-minus-probability")
            found.append(1 - errors)
    return float(torch.cat(found).mean())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["paper", "logits"])
def test_a_vote_learns_to_distrust_a_view_that_always_lies(make, kind):
    """Of six views another one lies each time: only its looks give it away."""
    changes = {"source_frames": "kept", "views": 6, "view_overlap": 0.3} | KINDS[kind]
    task = make(**changes)
    mean = GnesfNetwork(dataclasses.replace(task.model.settings, vote="mean"), ENCODER)
    deceived = probability_of_truth(mean, task.samples, with_a_liar)
    honest = probability_of_truth(mean, task.samples, lambda sample, _: sample)
    assert honest > 0.9 and honest - deceived > 0.07
    learn(task, 32, spoil=with_a_liar)
    learned = probability_of_truth(task.model, task.samples, with_a_liar)
    assert learned > deceived + 0.6 * (honest - deceived)
