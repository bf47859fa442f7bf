"""The training loop of everything that is learned.

A step is a function of the weights, the optimizer's state and the step's number alone:
samples are numbered, the model's own randomness is seeded before every step, and the
learning rate follows from the number. So a training that was killed needs no record
of the data's order or of any generator.
"""

import logging
import math
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from gnesf_core.config import TrainingConfig
from gnesf_core.errors import BadInput, Stopped
from gnesf_core.shapes import Float
from gnesf_core.training.distributed import Team, joined
from gnesf_core.training.report import Report
from gnesf_core.training.state import States

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

Batch = dict[str, Any]


@runtime_checkable
class Samples(Protocol):
    """An endless, numbered supply. May have `collate`; else torch's own is used."""

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return sample `number`, the same every time; its "name" says what it is.

        Worker processes get a pickled copy, so files are opened here, on first use.
        """
        ...


@runtime_checkable
class Task(Protocol):
    """What is trained, on what, and how its success is measured."""

    model: nn.Module
    samples: Samples

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return weighted losses, to be added; means over the samples of the batch."""
        ...

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, Any]]:
        """Return groups for AdamW, each with its `lr` before the schedule."""
        ...


def train(
    task: Task, config: TrainingConfig, workspace: Path, key: str, device: torch.device
) -> bytes | None:
    """Train the task's model, or finish what an earlier run with this `key` began.

    The model must have the same weights whenever it comes in. Returns the metrics, as
    lines of JSON, or None in the processes of a team that shall not write anything.
    """
    with joined(device) as team, _deterministic(team.device):
        if config.batch % team.size:
            several = f"a multiple of the number of processes, {team.size}"
            _refuse("batch", several, config.batch)
        with closing(Report(workspace, config, team)) as report:
            _run(task, config, workspace, key, team, report)
            return report.metrics.encode() if team.leads else None


def _run(
    task: Task,
    config: TrainingConfig,
    workspace: Path,
    key: str,
    team: Team,
    report: Report,
) -> None:
    model = task.model.to(team.device).train()
    groups = [group | {"rate": group["lr"]} for group in task.parameter_groups(config)]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    states = States(workspace, key, model, optimizer)
    start = _resume(states, team, report)
    network = team.parallel(_Losses(task, team.device))
    autocast = _autocast(config.precision, team.device)
    batches = _batches(task.samples, config, team, start)
    with _stop_requests() as stop, closing(batches):
        for step in range(start, config.steps):
            batch = next(batches)
            _seed(config.seed, step, team.rank)
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * rate_factor(config, step)
            parts, norm = _step(network, optimizer, batch, config.clip_norm, autocast)
            report.add(list(batch["name"]), parts, norm)
            done = step + 1
            stopping = bool(team.largest(stop()))
            telling = done % config.report_steps == 0 or done == config.steps
            saving = stopping or done % config.state_steps == 0 or done == config.steps
            if telling or saving or team.device.type == "cpu":
                report.collect(done)
            if telling:
                report.tell(done, config.learning_rate * rate_factor(config, step))
            if saving and team.leads:
                states.write(done, {"report": report.saved()})
            if stopping and done < config.steps:
                # torchrun kills the rest when one ends: let the state be whole first.
                team.largest(0)
                raise Stopped(f"stopped after step {done} of {config.steps}")


def _resume(states: States, team: Team, report: Report) -> int:
    """Restore the newest state in every process; return how many steps it has seen."""
    state = states.restore_newest() if team.leads else None
    step = team.largest(0 if state is None else state["step"])
    if step and state is None:
        state = states.restore(step)
    report.start(step, state and state["report"])
    return step


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    clip_norm: float,
    autocast: AbstractContextManager,
) -> tuple[dict[str, Tensor], Float[Tensor, ""]]:
    """Make one step; return the losses and the norm of the gradient before clipping."""
    network.zero_grad()
    with autocast:
        parts = network(batch)
    parts = {name: value.float() for name, value in parts.items()}
    torch.stack(list(parts.values())).sum().backward()
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(learned, clip_norm or math.inf)
    optimizer.step()
    return parts, norm


def rate_factor(config: TrainingConfig, step: int) -> float:
    """Return the share of the learning rate that step 0, 1, ... is made with."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    match config.schedule:
        case "constant":
            return 1.0
        case "poly":
            return (1 - done) ** 0.9
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
    _refuse("schedule", "constant, poly or cosine", config.schedule)


class _Losses(nn.Module):
    """The task's losses as a module, which is what runs on several processes."""

    def __init__(self, task: Task, device: torch.device) -> None:
        super().__init__()
        self.model = task.model
        self._task, self._device = task, device

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        moved = {
            name: value.to(self._device, non_blocking=True)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }
        return self._task.losses(self.model, batch | moved)


class _Refusal(NamedTuple):
    """A `BadInput` on its way out of a worker process."""

    file: str
    place: str
    message: str


class _Batches:
    """Makes batches of samples, in whichever process."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._collate = getattr(samples, "collate", default_collate)

    def __getitem__(self, numbers: list[int]) -> Batch | _Refusal:
        try:
            return self._collate([self._samples[number] for number in numbers])
        except BadInput as error:
            return _Refusal(error.file, error.place, str(error))


def _batches(
    samples: Samples, config: TrainingConfig, team: Team, start: int
) -> Iterator[Batch]:
    """Yield this process's share of every batch from step `start` on."""
    share = config.batch // team.size
    steps = range(start, config.steps)
    firsts = (step * config.batch + team.rank * share for step in steps)
    loader = DataLoader(
        _Batches(samples),
        batch_size=None,  # `_Batches` makes them
        sampler=(list(range(first, first + share)) for first in firsts),
        num_workers=config.workers,
        # Not forked: HDF5 files and OpenMP threads do not survive that.
        multiprocessing_context="spawn" if config.workers else None,
        worker_init_fn=_ignore_stop_signals,
        pin_memory=team.device.type == "cuda",
    )
    for batch in loader:
        if isinstance(batch, _Refusal):
            error = BadInput(*batch[:2], expected="", found="", remedy="")
            error.args = (batch.message,)
            raise error
        yield batch


def _ignore_stop_signals(_worker: int) -> None:
    """Leave it to the training process: Ctrl-C in a terminal reaches workers too."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Note signals to stop instead of dying of them, but for a second Ctrl-C.

    Schedulers and launchers may each send theirs: those must not kill.
    """
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    for number in STOP_SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Let a CPU add gradients in a fixed order, which indexing does not do by itself.

    Only the way of computing is asked for: operations without such a way just warn,
    and memory need not be filled.
    """
    before = torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filling


def _autocast(precision: str, device: torch.device) -> AbstractContextManager:
    bf16 = precision == "bf16" and device.type == "cuda"
    if bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        log.warning("this GPU has no bf16: training in float32")
        bf16 = False
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def _seed(*numbers: int) -> None:
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (a library may draw from it)
    random.seed(seed)


def _refuse(place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(
        "training settings",
        place,
        expected=expected,
        found=found,
        remedy="correct the configuration",
    )
