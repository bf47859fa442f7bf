"""A training ends with the same weights, whatever happens to it on the way.

Run as a program, this file trains the toy task below.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from gnesf_core.config import TrainingConfig
from gnesf_core.data.publish import verify
from gnesf_core.errors import BadInput, Diverged, Stopped
from gnesf_core.training.loop import STOP_SIGNALS, Task, moved, rate_factor, train
from gnesf_core.training.state import remove_states
from gnesf_core.training.validation import Validation
from gnesf_core.training.weights import (
    load_into,
    read_pickled,
    read_weights,
    write_weights,
)

CPU = torch.device("cpu")
KEY = "0123456789abcdef"
CONFIG = TrainingConfig(
    seed=5,
    steps=20,
    batch=4,
    learning_rate=0.02,
    backbone_rate=1.0,
    weight_decay=0.05,
    schedule="cosine",
    warmup_steps=3,
    clip_norm=1.0,
    precision="float32",
    workers=0,
    report_steps=5,
    state_steps=4,
    validate_steps=0,
)


def settings(**changes):
    return dataclasses.replace(CONFIG, **changes)


def raise_and_wait(number):
    """Let a signal be heard before the next one, with which it would count as one.

    Samples are made beside the main thread, which hears between two operations; on its
    first Ctrl-C a training gives the handler back that was there before.
    """
    handler = signal.getsignal(number)
    signal.raise_signal(number)
    deadline = time.monotonic() + 30
    while number == signal.SIGINT and handler is not signal.default_int_handler:
        if signal.getsignal(number) is not handler or time.monotonic() > deadline:
            return
        time.sleep(0.01)


class Points:
    """Noisy values of a function; something may happen at one of the samples."""

    def __init__(self, at=-1, event="", pause_s=0.0):
        self.at, self.event, self.pause_s = at, event, pause_s

    def __getitem__(self, number):
        rng = np.random.default_rng((7, number))
        time.sleep(self.pause_s)
        x = rng.normal(size=3).astype(np.float32)
        y = np.float32(np.sin(x).sum() + rng.normal() / 10)
        if number == self.at:
            if self.event == "nan":
                y = np.float32("nan")
            elif self.event == "bad input":
                raise BadInput("f", "p", expected="e", found="o", remedy="r")
            elif self.event == "crash":
                raise OSError("the disk is gone")
            for name in self.event.split() if self.event.isupper() else ():
                raise_and_wait(getattr(signal, name))
        return {"name": f"scene{number // 10}/{number % 10}", "x": x, "y": y}


class Regression:
    """Dropout makes the model itself random."""

    def __init__(self, samples=None, dropout=0.3):
        torch.manual_seed(1)
        self.samples = samples or Points()
        self.model = nn.Sequential(
            nn.Linear(3, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1)
        )

    def losses(self, model, batch):
        error = model(batch["x"])[:, 0] - batch["y"]
        return {"square": error.square().mean(), "absolute": 0.1 * error.abs().mean()}

    def parameter_groups(self, config):
        first, last = self.model[0], self.model[3]
        return [
            {"params": list(first.parameters()), "lr": config.learning_rate},
            {"params": list(last.parameters()), "lr": 0.1 * config.learning_rate},
        ]


class Validated(Regression):
    """Draws numbers, changes modes: everything that a training must not notice."""

    def __init__(self, samples=None, dropout=0.3, values=None):
        super().__init__(samples, dropout)
        self.values, self.tried = values, []

    def validate(self, model):
        assert model is self.model and not torch.is_grad_enabled()
        modes = [module.training for module in model.modules()]
        self.tried.append((weights_of(model), modes, torch.rand(1).item()))
        x = torch.randn(50, 3) + float(np.random.rand()) + random.random()  # noqa: NPY002
        model.train()(x)
        if self.values:
            return self.values[len(self.tried) - 1]
        model.eval()
        # Least in the middle of the training: the answers grow.
        return abs(float(model(x).square().mean()) - 0.5)


def trained(folder, config=CONFIG, task=None, key=KEY):
    """Train and return what a training leaves: its weights and its metrics."""
    task = task or Regression()
    end = train(task, config, folder, key, CPU)
    return weights_of(task.model), reports(end.metrics)


def weights_of(model):
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def reports(metrics):
    """Return the lines of metrics without what a clock says."""
    lines = [json.loads(line) for line in metrics.splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "items_per_second")}
        for line in lines
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("undisturbed"))


def steps_on_disk(folder):
    return sorted(int(path.stem.split("-")[-1]) for path in folder.glob("state-*.pt"))


# The schedule and the step


def test_the_warm_up_is_linear_and_ends_at_the_full_rate():
    config = settings(warmup_steps=4, schedule="constant")
    factors = [rate_factor(config, step) for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_schedules_fall_from_one_to_zero_at_the_last_step():
    half = {"constant": 1.0, "poly": 0.5**0.9, "cosine": 0.5}
    quarter = {"constant": 1.0, "poly": 0.75**0.9, "cosine": (2 + math.sqrt(2)) / 4}
    for schedule in half:
        config = settings(steps=110, warmup_steps=10, schedule=schedule)
        assert rate_factor(config, 10) == 1
        assert rate_factor(config, 35) == pytest.approx(quarter[schedule])
        assert rate_factor(config, 60) == pytest.approx(half[schedule])
        if schedule != "constant":
            assert rate_factor(config, 110) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("steps", [50, 100, 300, 29650])
def test_the_rate_is_halved_where_neuralrecon_halves_it(steps):
    config = settings(steps=steps, warmup_steps=4, schedule="halving")
    factors = [rate_factor(config, step) for step in range(steps)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    falls = [n for n in range(4, steps) if factors[n] < factors[n - 1]]
    assert falls == [steps * epoch // 50 for epoch in (12, 24, 48)]
    assert sorted(set(factors[4:])) == [0.125, 0.25, 0.5, 1]


def test_an_unknown_schedule_is_refused(tmp_path):
    schedules = "constant, poly, cosine or halving"
    with pytest.raises(BadInput, match=f"schedule: expected {schedules}"):
        trained(tmp_path, settings(schedule="linear", warmup_steps=0))


class Line:
    """A line through the origin, whose gradient fits on a page."""

    def __init__(self):
        self.samples = Points()
        self.model = nn.Linear(3, 1, bias=False)
        nn.init.constant_(self.model.weight, 0.5)

    def losses(self, model, batch):
        return {"square": (model(batch["x"])[:, 0] - batch["y"]).square().mean()}

    def parameter_groups(self, config):
        return [{"params": [self.model.weight], "lr": config.learning_rate}]


def adamw_by_hand(config):
    """Follow Loshchilov and Hutter's algorithm 2 in double precision."""
    weights, m, v = np.full(3, 0.5), np.zeros(3), np.zeros(3)
    norms = []
    for step in range(config.steps):
        numbers = range(step * config.batch, (step + 1) * config.batch)
        samples = [Points()[number] for number in numbers]
        x = np.stack([sample["x"] for sample in samples]).astype(float)
        y = np.array([sample["y"] for sample in samples], float)
        gradient = 2 * x.T @ (x @ weights - y) / config.batch
        norms.append(np.linalg.norm(gradient))
        gradient = gradient * min(1, config.clip_norm / norms[-1])
        rate = config.learning_rate * (step + 1) / config.warmup_steps
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        mean, square = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        weights = weights - rate * config.weight_decay * weights
        weights = weights - rate * mean / (np.sqrt(square) + 1e-8)
    return weights, norms


def test_steps_are_those_of_adamw_with_clipped_gradients(tmp_path):
    config = settings(steps=4, warmup_steps=8, clip_norm=1.5, report_steps=1)
    task = Line()
    metrics = reports(train(task, config, tmp_path, KEY, CPU).metrics)
    weights, norms = adamw_by_hand(config)
    assert min(norms) < config.clip_norm < max(norms)  # both sides are exercised
    found = task.model.weight.detach().numpy()[0]
    np.testing.assert_allclose(found, weights, rtol=1e-5)
    reported = [line["gradient_norm"] for line in metrics]
    np.testing.assert_allclose(reported, norms, rtol=1e-5)


def test_gradients_are_left_alone_without_a_clip_norm(tmp_path):
    task, config = Line(), settings(steps=4, warmup_steps=8, clip_norm=0.0)
    train(task, config, tmp_path, KEY, CPU)
    weights, _ = adamw_by_hand(dataclasses.replace(config, clip_norm=1e9))
    found = task.model.weight.detach().numpy()[0]
    np.testing.assert_allclose(found, weights, rtol=1e-5)


class Gather(Line):
    """Gradients of a gather, which threads add up in any order if they may."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(8, 50, bias=False)
        self.chosen = torch.randint(0, 50, (100_000,))
        self.factors = torch.randn(100_000, 1)

    def losses(self, model, batch):
        return {"sum": (model.weight[self.chosen] * self.factors).sum()}


def test_threads_do_not_make_a_difference_from_run_to_run(tmp_path):
    torch.manual_seed(0)
    task, threads = Gather(), torch.get_num_threads()
    start = {name: value.clone() for name, value in task.model.state_dict().items()}
    torch.set_num_threads(2)
    ends = set()
    try:
        for run in range(4):
            task.model.load_state_dict(start)
            train(task, settings(steps=3), tmp_path / str(run), KEY, CPU)
            ends.add(task.model.weight.detach().numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(ends) == 1
    assert not torch.are_deterministic_algorithms_enabled()


# Being stopped and going on


@pytest.mark.parametrize(
    ("signals", "sample"),
    [
        ("SIGTERM", 1),
        ("SIGTERM SIGTERM", 30),
        ("SIGUSR1 SIGTERM", 47),
        ("SIGUSR1", 70),
        ("SIGINT", 9),
    ],
)
def test_a_stopped_training_ends_as_if_nothing_had_been(
    tmp_path, undisturbed, signals, sample
):
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
    step = sample // CONFIG.batch + 1
    with pytest.raises(Stopped, match=f"after step {step} of 20"):
        trained(tmp_path, task=Regression(Points(sample, signals)))
    assert steps_on_disk(tmp_path)[-1] == step
    assert handlers == [signal.getsignal(number) for number in STOP_SIGNALS]
    assert trained(tmp_path) == undisturbed


@pytest.mark.parametrize("sample", [3, 33, 79])
def test_a_crashed_training_ends_as_if_nothing_had_been(tmp_path, undisturbed, sample):
    with pytest.raises(OSError, match="disk is gone"):
        trained(tmp_path, task=Regression(Points(sample, "crash")))
    assert trained(tmp_path) == undisturbed


@pytest.fixture
def listens_to_ctrl_c():
    """What is started in the background is deaf to it, and so are its tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listens_to_ctrl_c")
def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, task=Regression(Points(30, "SIGINT SIGINT")))
    assert steps_on_disk(tmp_path) == [4]


def test_a_signal_in_the_last_step_changes_nothing(tmp_path, undisturbed):
    task = Regression(Points(CONFIG.steps * CONFIG.batch - 1, "SIGTERM"))
    assert trained(tmp_path, task=task) == undisturbed


def start_program(folder, *, config=CONFIG, pause_s=0.0, environment=None):
    """Train the toy in a process of its own; it says each step on stderr."""
    root = Path(__file__).parents[2]
    command = [sys.executable, __file__, str(folder)]
    command += [json.dumps(dataclasses.asdict(config)), str(pause_s)]
    variables = os.environ | {"PYTHONPATH": str(root)} | (environment or {})
    return subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)


def wait_for(process, pattern):
    for line in process.stderr:
        if re.search(pattern, line):
            return
    raise AssertionError(f"no {pattern!r}")


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    config = settings(steps=40, report_steps=1, state_steps=3, validate_steps=4)
    program = start_program(tmp_path / "undisturbed", config=config)
    assert program.wait(300) == 0
    rng = random.Random(3)
    for step in (2, 9, 22, 35):
        program = start_program(tmp_path / "killed", config=config, pause_s=0.004)
        wait_for(program, rf"step {step}/")
        time.sleep(rng.random() * 0.03)  # also while state is being written
        program.kill()
        assert program.wait() == -signal.SIGKILL
    assert start_program(tmp_path / "killed", config=config).wait(300) == 0
    for name in ("weights.safetensors", "best.safetensors", "metrics"):
        killed, undisturbed = (
            (tmp_path / folder / name).read_bytes()
            for folder in ("killed", "undisturbed")
        )
        if name == "metrics":
            assert [line["step"] for line in reports(killed)] == list(range(1, 41))
            assert reports(killed) == reports(undisturbed)
        else:
            assert killed == undisturbed


def test_a_complete_training_asks_for_no_samples(tmp_path, undisturbed):
    trained(tmp_path)
    assert trained(tmp_path, task=Regression(samples=Refuses())) == undisturbed


class Refuses:
    def __getitem__(self, number):
        raise AssertionError(f"sample {number} is not needed")


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_state_is_named_and_an_older_one_taken(tmp_path, undisturbed, caplog):
    with pytest.raises(OSError, match="disk"):
        trained(tmp_path, task=Regression(Points(70, "crash")))
    assert steps_on_disk(tmp_path) == [12, 16]
    newest = tmp_path / "state-0123456789ab-000000016.pt"
    damage(newest)
    with caplog.at_level(logging.INFO):
        assert trained(tmp_path) == undisturbed
    assert f"{newest} is not used" in caplog.text and "SHA-256" in caplog.text
    assert "from step 12" in caplog.text


def test_without_intact_state_a_training_starts_over(tmp_path, undisturbed, caplog):
    with pytest.raises(OSError, match="disk"):
        trained(tmp_path, task=Regression(Points(70, "crash")))
    first, second = tmp_path.glob("state-*.pt")
    damage(first)
    second.write_bytes(second.read_bytes()[:1000])
    with caplog.at_level(logging.INFO):
        assert trained(tmp_path) == undisturbed
    assert "from step 0" in caplog.text


def test_state_of_another_model_is_not_used(tmp_path, caplog):
    trained(tmp_path)
    task = Regression()
    task.model[3] = nn.Linear(16, 2)
    weights = weights_of(task.model)
    task.samples = Points(0, "crash")
    with pytest.raises(OSError, match="disk"):
        trained(tmp_path, task=task)
    assert "misshapen 3.weight [1, 16] for [2, 16]" in caplog.text
    assert weights_of(task.model) == weights


def test_state_of_another_recipe_is_neither_used_nor_harmed(tmp_path, undisturbed):
    trained(tmp_path, settings(seed=6), key="another recipe")
    assert trained(tmp_path) == undisturbed
    assert len(list(tmp_path.glob("state-another reci-*.pt"))) == 2


def test_removing_states_leaves_only_what_people_look_at(tmp_path):
    trained(tmp_path, settings(seed=6), key="another recipe")
    trained(tmp_path)
    remove_states(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"metrics.jsonl", "tensorboard"}


def test_two_trainings_do_not_share_a_folder(tmp_path):
    class Nested(Points):
        def __getitem__(self, number):
            with pytest.raises(BadInput, match=r"metrics.jsonl.*one training"):
                trained(tmp_path)
            return super().__getitem__(number)

    trained(tmp_path, settings(steps=1), Regression(Nested()))


# Weights that did best


VALIDATED = settings(validate_steps=3)  # after 3, 6, ..., 18 and 20


def ended(folder, task, config=VALIDATED):
    """Train and return everything that a validated training leaves."""
    end = train(task, config, folder, KEY, CPU)
    best = end.best and {n: v.numpy().tobytes() for n, v in end.best.items()}
    return weights_of(task.model), reports(end.metrics), best, end.best_step


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    return ended(tmp_path_factory.mktemp("validated"), Validated())


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([5, 4, 2, 3, 2, 9, 9], 9),  # of equal ones the first
        ([5, 4, 3, 2, 1, 0, -1], 20),
        ([1, 2, 3, 4, 5, 6, 7], 3),
        ([math.nan, 4, math.nan, 3, 5, math.nan, math.nan], 12),
        ([math.inf] * 7, 3),
    ],
)
def test_the_best_weights_are_those_of_the_best_step(tmp_path, values, best):
    task = Validated(values=values)
    _, metrics, weights, step = ended(tmp_path, task)
    tried = {
        line["step"]: line["validation"] for line in metrics if "validation" in line
    }
    steps = [3, 6, 9, 12, 15, 18, 20]
    said = dict(zip(steps, values, strict=True))  # NaN is not JSON, and says nothing
    assert tried == {step: v for step, v in said.items() if not math.isnan(v)}
    assert step == best
    assert weights == task.tried[steps.index(best)][0]
    shorter = Validated(values=[0] * 7)
    ended(tmp_path / "shorter", shorter, settings(validate_steps=best, warmup_steps=3))
    assert weights == shorter.tried[0][0]


def test_a_training_whose_every_validation_is_nan_has_no_best_weights(tmp_path):
    weights, metrics, best, step = ended(tmp_path, Validated(values=[math.nan] * 7))
    assert best is step is None
    assert [line["step"] for line in metrics][-1] == 20


def test_validation_does_not_change_the_training(tmp_path, undisturbed):
    task = Validated()
    weights, metrics, _, best = ended(tmp_path, task, settings(validate_steps=5))
    assert weights == undisturbed[0]
    for line in metrics:
        del line["validation"]
    assert metrics == undisturbed[1]
    assert all(module.training for module in task.model.modules())
    modes = [modes for _, modes, _ in task.tried]
    assert not any(map(any, modes))
    numbers = {number for *_, number in task.tried}
    assert len(numbers) == 1  # tried on the same every time


def test_validation_leaves_generators_and_modes_as_they_were():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[1].eval()
    task = Validated(values=[1.0])
    task.model = model

    def drawn(between):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
        between()
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    validation = Validation(task.validate, model, 0, CPU)
    assert drawn(lambda: validation.value(1)) == drawn(lambda: None)
    assert [module.training for module in model.modules()] == [True, True, False, False]
    assert torch.is_grad_enabled()


def test_without_validation_nothing_is_tried_or_kept(tmp_path):
    task = Validated()
    _, metrics, best, step = ended(tmp_path, task, CONFIG)
    assert task.tried == [] and best is step is None
    assert not any("validation" in line for line in metrics)


def test_validation_of_a_task_without_any_is_refused(tmp_path):
    assert isinstance(Regression(), Task)
    with pytest.raises(BadInput, match="validate_steps: expected 0.*found 3"):
        ended(tmp_path, Regression())


@pytest.mark.parametrize("sample", [9, 23, 45, 66, 79])
def test_a_crashed_training_ends_with_the_same_best_weights(
    tmp_path, validated, sample
):
    assert validated[3] not in (3, 20)
    with pytest.raises(OSError, match="disk is gone"):
        ended(tmp_path, Validated(Points(sample, "crash")))
    assert ended(tmp_path, Validated()) == validated


@pytest.mark.parametrize("sample", [10, 32, 79])
def test_a_stopped_training_ends_with_the_same_best_weights(
    tmp_path, validated, sample
):
    last = sample // CONFIG.batch == CONFIG.steps - 1
    with contextlib.nullcontext() if last else pytest.raises(Stopped):
        ended(tmp_path, Validated(Points(sample, "SIGTERM")))
    assert ended(tmp_path, Validated(Refuses() if last else None)) == validated


def test_progress_tells_the_validation(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "gnesf_core.training"):
        ended(tmp_path, Validated(values=[0.12345, *[math.nan] * 6]))
    lines = [line for line in caplog.messages if line.startswith("step ")]
    tried = [line.split("/")[0] for line in lines if "validation" in line]
    assert tried == ["step 3"]  # the others had nothing to say
    assert ")  validation 0.1235  " in lines[0]


# What it says


class Pair(NamedTuple):
    first: torch.Tensor
    second: list


def test_tensors_move_wherever_they_are_in_a_batch():
    here, there = torch.zeros(2), torch.device("meta")
    batch = {
        "name": ["a", "b"],
        "views": [{"k": here}, (here, None)],
        "levels": Pair(here, [here, 3]),
        "numbers": np.zeros(2),
    }
    found = moved(batch, there)
    tensors = [
        found["views"][0]["k"],
        found["views"][1][0],
        found["levels"].first,
        found["levels"].second[0],
    ]
    assert all(tensor.device == there for tensor in tensors)
    assert found["name"] == ["a", "b"] and found["numbers"] is batch["numbers"]
    assert found["views"][1][1] is None and found["levels"].second[1] == 3
    assert type(found["views"][1]) is tuple and type(found["levels"]) is Pair
    assert batch["views"][0]["k"] is here


def test_metrics_are_means_over_the_steps_of_a_report(tmp_path):
    _, every = trained(tmp_path / "every", settings(report_steps=1))
    _, some = trained(tmp_path / "some", settings(report_steps=8))
    assert [line["step"] for line in some] == [8, 16, 20]
    for line, (first, end) in zip(some, [(0, 8), (8, 16), (16, 20)], strict=True):
        for name in ("loss", "square", "absolute", "gradient_norm"):
            mean = np.mean([step[name] for step in every[first:end]])
            assert line[name] == pytest.approx(mean, rel=1e-12)
    for line in every:
        assert line["loss"] == pytest.approx(line["square"] + line["absolute"])


def test_the_metrics_file_heals(tmp_path):
    with pytest.raises(Stopped):
        trained(tmp_path, task=Regression(Points(45, "SIGTERM")))
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3}\nrubbi')
    metrics = train(Regression(), CONFIG, tmp_path, KEY, CPU).metrics
    assert path.read_bytes() == metrics
    assert [line["step"] for line in reports(metrics)] == [5, 10, 15, 20]


def test_progress_is_a_plain_line(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "gnesf_core.training"):
        _, metrics = trained(tmp_path)
    number = r"[\d.e+-]+"
    pattern = (
        rf"step 10/20  loss ({number}) \(square {number} absolute {number}\)  "
        rf"{number} steps/s  {number} items/s  \d+ s left  lr ({number})"
    )
    (match,) = [m for m in map(re.compile(pattern).fullmatch, caplog.messages) if m]
    assert float(match[1]) == pytest.approx(metrics[1]["loss"], rel=0.01)
    rate = 0.02 * (1 + math.cos(math.pi * 6 / 17)) / 2
    assert float(match[2]) == pytest.approx(rate, rel=0.05)
    assert metrics[1]["learning_rate"] == pytest.approx(rate)


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(OSError, match="disk"):
        trained(tmp_path, task=Regression(Points(61, "crash")))
    _, metrics = trained(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in shown] == [5, 10, 15, 20]
    assert [value for _, value in shown] == pytest.approx([m["loss"] for m in metrics])


def test_nan_stops_the_training_and_names_the_samples(tmp_path):
    message = (
        r"step 11: loss is nan, square is nan, absolute is nan, gradient_norm is nan; "
        r"samples of this step: scene4/0, scene4/1, scene4/2, scene4/3; remedy: lower"
    )
    with pytest.raises(Diverged, match=message):
        trained(tmp_path, task=Regression(Points(42, "nan")))
    assert steps_on_disk(tmp_path) == [4, 8]
    for path in tmp_path.glob("state-*.pt"):
        model = torch.load(path, weights_only=True)["model"]
        assert all(value.isfinite().all() for value in model.values())


# Worker processes


@pytest.mark.slow
def test_worker_processes_change_nothing(tmp_path, undisturbed):
    with pytest.raises(Stopped):
        stop = StopAt(30, os.getpid())
        trained(tmp_path, settings(workers=2), Regression(stop))
    assert 0 < steps_on_disk(tmp_path)[-1] < CONFIG.steps
    assert trained(tmp_path, settings(workers=2)) == undisturbed


class StopAt(Points):
    """Sends Ctrl-C to the training process from a worker, and to the worker."""

    def __init__(self, at, process):
        super().__init__(pause_s=0.02)
        self.stop_at, self.process = at, process

    def __getitem__(self, number):
        if number == self.stop_at:
            os.kill(self.process, signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(number)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_bad_input_is_one_line_from_whichever_process(tmp_path, workers):
    task = Regression(Points(9, "bad input"))
    with pytest.raises(BadInput) as caught:
        trained(tmp_path, settings(workers=workers), task)
    assert str(caught.value) == "f: p: expected e, found o; remedy: r"
    assert caught.value.file == "f"


@pytest.mark.slow
def test_a_killed_worker_is_an_error_and_not_a_hang(tmp_path):
    task = Regression(Points(21, "SIGKILL"))
    # Its batch may be on its way: then it is the connection that is gone.
    with pytest.raises((RuntimeError, ConnectionError), match="worker|onnection"):
        trained(tmp_path, settings(workers=1), task)


# Several processes


def start_pair(folder, config, **arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [
        start_program(
            folder, config=config, environment=address | {"RANK": rank}, **arguments
        )
        for rank in ("0", "1")
    ]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    config = settings(report_steps=1, validate_steps=3)
    pair = start_pair(tmp_path / "pair", config, pause_s=0.02)
    wait_for(pair[0], "step 7/")
    pair[1].terminate()  # one is told, both stop
    for process in pair:
        assert process.wait(300) == 75, process.stderr.read()
    for process in start_pair(tmp_path / "pair", config):
        assert process.wait(300) == 0, process.stderr.read()
    task = Validated(dropout=0.0)
    end = train(task, config, tmp_path / "alone", KEY, CPU)
    alone = reports(end.metrics)
    expected = {"weights": task.model.state_dict(), "best": end.best}
    for file, tensors in expected.items():
        together, about = read_weights(tmp_path / "pair" / f"{file}.safetensors")
        assert about.get("step", str(end.best_step)) == str(end.best_step)
        for name, value in tensors.items():
            torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6)
    pair = reports((tmp_path / "pair" / "metrics").read_bytes())
    assert len(pair) == len(alone)
    for one, two in zip(alone, pair, strict=True):
        assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    for process in start_pair(tmp_path, settings(batch=3)):
        _, error = process.communicate(timeout=300)
        assert process.returncode == 1
        assert "batch: expected a multiple of the number of processes, 2" in error


@pytest.mark.slow
def test_the_death_of_one_process_does_not_hang_the_other(tmp_path):
    pair = start_pair(tmp_path, settings(report_steps=1), pause_s=0.02)
    wait_for(pair[0], "step 5/")
    pair[1].kill()
    assert pair[0].wait(300) != 0
    pair[1].wait()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_learns_about_the_same_and_still_names_the_samples(tmp_path, undisturbed):
    device = torch.device("cuda")
    task = Regression(dropout=0.0)
    gpu = reports(train(task, CONFIG, tmp_path / "gpu", KEY, device).metrics)
    _, cpu = trained(tmp_path / "cpu", task=Regression(dropout=0.0))
    for one, two in zip(gpu, cpu, strict=True):
        assert one == pytest.approx(two, rel=1e-3)
    train(Regression(), settings(precision="bf16"), tmp_path / "bf16", KEY, device)
    with pytest.raises(Diverged, match=r"step 11: .*scene4/0, scene4/1"):
        bad = Regression(Points(42, "nan"))
        train(bad, settings(state_steps=100), tmp_path / "bad", KEY, device)


# Weights on disk


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_weights_come_back_with_their_metadata(tmp_path):
    path, source, target = tmp_path / "a.safetensors", network(), network()
    nn.init.zeros_(target[0].weight)
    about = {"recipe": '{"steps": 3}', "classes": "wall\nfl\u00f6\u00f6r"}
    write_weights(path, source.state_dict(), about)
    assert load_into(target, path) == about
    assert weights_of(target) == weights_of(source)
    assert verify(path) is None


def test_equal_weights_are_equal_bytes(tmp_path):
    path, tensors = tmp_path / "a.safetensors", network().state_dict()
    about = {letter: letter.upper() for letter in "abcdefgh"}
    write_weights(path, tensors, about)
    first = path.read_bytes()
    for _ in range(3):
        backwards = dict(reversed(tensors.items())), dict(reversed(about.items()))
        write_weights(path, *backwards)
        assert path.read_bytes() == first


def test_tensors_that_share_memory_or_are_views_are_written_whole(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "b": base.T, "c": base[1:], "d": base, "e": base[:, 1]}
    write_weights(tmp_path / "a.safetensors", tensors, {})
    back, about = read_weights(tmp_path / "a.safetensors")
    assert about == {}
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("wrap", [dict, lambda d: {"state_dict": d, "epoch": 3}])
@pytest.mark.parametrize("new_format", [True, False])
def test_checkpoints_of_others_are_read(tmp_path, wrap, new_format):
    path = tmp_path / "model.pth"
    torch.save(
        wrap(network().state_dict()), path, _use_new_zipfile_serialization=new_format
    )
    target = network()
    nn.init.zeros_(target[0].weight)
    assert load_into(target, path) == {}
    assert weights_of(target) == weights_of(network())


@pytest.mark.parametrize("whole", [True, False])
def test_checkpoints_of_mmengine_are_read_without_their_log(tmp_path, whole):
    from mmengine.logging import MessageHub
    from mmengine.runner.checkpoint import save_checkpoint

    hub = MessageHub.get_instance(f"{tmp_path}")
    for step in range(3):
        hub.update_scalar("train/loss", 1 / (step + 1))
        hub.update_info("iter", step)
    hub.update_info("rates", np.arange(3.0))
    hub.update_info("best", np.float64(0.5))
    hub.update_info("last", deque([1.0, 2.0], maxlen=2))
    checkpoint = {
        "meta": {"epoch": 1, "dataset_meta": {"classes": ("wall", "floor")}},
        "state_dict": network().state_dict(),
        "message_hub": hub if whole else hub.state_dict(),  # old releases, and new ones
    }
    path, target = tmp_path / "model.pth", network()
    save_checkpoint(checkpoint, str(path))
    nn.init.zeros_(target[0].weight)
    known = set(torch.serialization.get_safe_globals())

    assert load_into(target, path) == {}

    assert weights_of(target) == weights_of(network())
    assert set(torch.serialization.get_safe_globals()) == known
    for value in logged(read_pickled(path)["message_hub"]):
        assert not vars(value), "something is kept of what the file says"


def logged(hub):
    """Return what is neither a container nor a plain value."""
    if isinstance(hub, dict):
        return [item for value in hub.values() for item in logged(value)]
    return [] if isinstance(hub, bool | int | float | str | list) else [hub]


class Asks:
    """Makes a pickle that asks for something by its name and calls it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self):
        """Let it be asked for in turn: what is called must be callable."""


@pytest.mark.parametrize(
    "content",
    [
        Asks(getattr, torch.Tensor, "tolist"),
        Asks(getattr, torch.nn.Parameter, "__new__"),
        Asks(getattr, "text", "format"),
        Asks(np.load, "file"),
        Asks(np.frombuffer, b"12345678"),
        Asks(eval, "1"),
        Asks(Asks(getattr, np.ndarray, "tofile"), "file"),
    ],
)
def test_no_other_name_than_those_of_a_log_is_known(tmp_path, content):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": network().state_dict(), "more": content}, path)
    with pytest.raises(BadInput, match="model.pth: content"):
        read_weights(path)


def test_an_array_is_not_taken_for_a_tensor(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"a": np.zeros(3)}}, path)
    with pytest.raises(BadInput, match="entry 'a': expected a tensor"):
        read_weights(path)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize(
    "save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))]
)
def test_a_hostile_checkpoint_is_refused_and_not_run(tmp_path, suffix, save):
    marker, path = tmp_path / "marker", tmp_path / f"model{suffix}"
    save({"state_dict": {"a": Hostile(marker)}}, path)
    with warnings.catch_warnings(), pytest.raises(BadInput) as caught:
        warnings.simplefilter("ignore")
        read_weights(path)
    assert str(path) in str(caught.value) and "safetensors" in str(caught.value)
    assert not marker.exists()
    if save is not torch.save:
        pickle.loads(path.read_bytes())
        assert marker.exists()  # it would have


def test_every_truncated_weights_file_is_refused(tmp_path):
    write_weights(tmp_path / "a.safetensors", network().state_dict(), {"a": "b"})
    torch.save(network().state_dict(), tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        whole = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut_{name}"
        for length in [*range(0, len(whole), 37), len(whole) - 1]:
            cut.write_bytes(whole[:length])
            with pytest.raises(BadInput, match=re.escape(str(cut))):
                read_weights(cut)


def test_published_weights_that_changed_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_weights(path, network().state_dict(), {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="SHA-256"):
        load_into(network(), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "expected a dict of tensors, found list"),
        ({"a": torch.zeros(1), "b": 3}, "entry 'b': expected a tensor, found int"),
        ({"model": {7: torch.zeros(1)}}, "entry 7: expected a tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(BadInput, match=message):
        read_weights(path)


def test_missing_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        read_weights(tmp_path / "a.safetensors")
    (tmp_path / "a.zip").touch()
    with pytest.raises(BadInput, match="ends in .safetensors"):
        read_weights(tmp_path / "a.zip")


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = network().state_dict()
    tensors["head.weight"] = tensors.pop("0.weight")
    tensors["0.bias"] = torch.zeros(7)
    write_weights(path, tensors, {})
    model = network()
    before = weights_of(model)
    with pytest.raises(BadInput) as caught:
        load_into(model, path)
    message = str(caught.value)
    assert "missing 0.weight; unexpected head.weight; misshapen 0.bias [7] for [4]" in (
        message
    )
    assert weights_of(model) == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.to_sparse(), "not a dense tensor"),
        (lambda t: t.to("meta"), "not a dense tensor"),
        (lambda t: t.long(), "torch.int64 for torch.float32"),
        (lambda t: t.to(torch.complex64), "torch.complex64 for torch.float32"),
        (lambda t: t.to(torch.float8_e4m3fn), "torch.float8_e4m3fn for torch.float32"),
        (lambda t: t / 0, "not finite"),
        (lambda t: t.double() * 1e200, "not finite"),
    ],
)
def test_tensors_that_are_no_weights_are_refused_by_name(tmp_path, spoil, message):
    path, model = tmp_path / "a.pth", network()
    tensors = model.state_dict()
    before = weights_of(model)
    torch.save(tensors | {"0.bias": spoil(tensors["0.bias"])}, path)
    with pytest.raises(BadInput, match=rf"a\.pth.*unusable 0\.bias \({message}"):
        load_into(model, path)
    assert weights_of(model) == before


def test_counters_are_no_fractions(tmp_path):
    path, tensors = tmp_path / "a.pth", network().state_dict()
    torch.save(tensors | {"1.num_batches_tracked": torch.tensor(0.5)}, path)
    with pytest.raises(BadInput, match=r"1\.num_batches_tracked \(torch\.float32 for"):
        load_into(network(), path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_taken(tmp_path, dtype):
    path, model = tmp_path / "a.pth", network()
    torch.save({n: v.to(dtype) for n, v in model[:1].state_dict().items()}, path)
    target = nn.Sequential(nn.Linear(3, 4))
    load_into(target, path)
    assert torch.equal(target[0].weight, model[0].weight.to(dtype).float())


def main():
    folder, config = Path(sys.argv[1]), TrainingConfig(**json.loads(sys.argv[2]))
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    several = "WORLD_SIZE" in os.environ  # each draws its own dropout: leave it out
    task = Validated(Points(pause_s=float(sys.argv[3])), 0.0 if several else 0.3)
    try:
        end = train(task, config, folder, KEY, CPU)
    except Stopped:
        sys.exit(75)
    if end is not None:
        write_weights(folder / "weights.safetensors", task.model.state_dict(), {})
        (folder / "metrics").write_bytes(end.metrics)
        if end.best is not None:
            about = {"step": str(end.best_step)}
            write_weights(folder / "best.safetensors", end.best, about)


if __name__ == "__main__":
    main()
