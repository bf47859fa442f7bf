"""The training loop of everything that is learned.

A step is a function of the weights, the optimizer's state and the step's number alone:
samples are numbered, the model's own randomness is seeded before every step, and the
learning rate follows from the number. So a training that was killed needs no record
of the data's order or of any generator.
"""

import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from gnesf_core.config import TrainingConfig
from gnesf_core.errors import BadInput, Stopped
from gnesf_core.shapes import Float
from gnesf_core.training.chance import seed
from gnesf_core.training.distributed import Team, joined
from gnesf_core.training.report import Report
from gnesf_core.training.state import States
from gnesf_core.training.validation import Best, Validation

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_HALVINGS = (0.24, 0.48, 0.96)  # shares of all steps

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
    """What is trained, on what, and how its success is measured.

    A task may have `validate(model) -> float` as well, which tells how bad the model is
    on what is held out; NaN is worse than anything. Only one process of a team is asked
    and the others wait for it, which they do for a quarter of an hour.
    """

    model: nn.Module
    samples: Samples

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return weighted losses, to be added; means over the samples of the batch."""
        ...

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, Any]]:
        """Return groups for AdamW, each with its `lr` before the schedule."""
        ...


class Trained(NamedTuple):
    """What a training leaves, beside the weights that its model ends with."""

    metrics: bytes  # lines of JSON
    best: dict[str, Tensor] | None  # weights, on the CPU, that validation liked best
    best_step: int | None


def train(
    task: Task, config: TrainingConfig, workspace: Path, key: str, device: torch.device
) -> Trained | None:
    """Train the task's model, or finish what an earlier run with this `key` began.

    The model must have the same weights whenever it comes in. Returns None in the
    processes of a team that shall not write anything.
    """
    if config.validate_steps and not hasattr(task, "validate"):
        without = "0, as nothing is held out in this training"
        _refuse("validate_steps", without, config.validate_steps)
    with joined(device) as team, _deterministic(team.device):
        if config.batch % team.size:
            several = f"a multiple of the number of processes, {team.size}"
            _refuse("batch", several, config.batch)
        with closing(Report(workspace, config, team)) as report:
            best = _run(task, config, workspace, key, team, report)
            if not team.leads:
                return None
            weights, step = (best.weights, best.step) if best else (None, None)
            return Trained(report.metrics.encode(), weights, step)


def _run(
    task: Task,
    config: TrainingConfig,
    workspace: Path,
    key: str,
    team: Team,
    report: Report,
) -> Best | None:
    """Make the steps that are left; return the best weights, if there are any."""
    model = task.model.to(team.device).train()
    groups = [group | {"rate": group["lr"]} for group in task.parameter_groups(config)]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    validate = getattr(task, "validate", None)
    validation = Validation(validate, model, config.seed, team.device)
    states = States(workspace, key, model, optimizer)
    records = _Records(config, team, report, validation, states)
    start = records.resume()
    network = team.parallel(_Losses(task, team.device))
    autocast = _autocast(config.precision, team.device)
    batches = _batches(task.samples, config, team, start)
    with _stop_requests() as stop, closing(batches):
        for step in range(start, config.steps):
            batch = next(batches)
            seed(config.seed, step, team.rank)
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * rate_factor(config, step)
            parts, norm = _step(network, optimizer, batch, config.clip_norm, autocast)
            report.add(list(batch["name"]), parts, norm)
            stopping = bool(team.largest(stop()))
            records.keep(step, stopping)
            if stopping and step + 1 < config.steps:
                # torchrun kills the rest when one ends: let the state be whole first.
                team.largest(0)
                raise Stopped(f"stopped after step {step + 1} of {config.steps}")
    return validation.best


@dataclass(frozen=True)
class _Records:
    """What is found out, told and saved between the steps."""

    config: TrainingConfig
    team: Team
    report: Report
    validation: Validation
    states: States

    def resume(self) -> int:
        """Restore the newest state in every process; return the steps it has seen."""
        state = self.states.restore_newest() if self.team.leads else None
        step = self.team.largest(0 if state is None else state["step"])
        if step and state is None:
            state = self.states.restore(step)
        self.report.start(step, state and state["report"])
        self.validation.start(state and state["best"])
        return step

    def keep(self, step: int, stopping: bool) -> None:
        """Do what is due after step 0, 1, ..."""
        done, team = step + 1, self.team
        validating = self._due(done, self.config.validate_steps)
        telling = validating or self._due(done, self.config.report_steps)
        saving = stopping or self._due(done, self.config.state_steps)
        if telling or saving or team.device.type == "cpu":
            self.report.collect(done)
        value = self.validation.value(done) if validating and team.leads else None
        if telling:
            rate = self.config.learning_rate * rate_factor(self.config, step)
            self.report.tell(done, rate, value)
        if saving and team.leads:
            best = self.validation.saved()
            self.states.write(done, {"report": self.report.saved(), "best": best})

    def _due(self, done: int, every: int) -> bool:
        return every > 0 and (done % every == 0 or done == self.config.steps)


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
        case "halving":  # NeuralRecon's, after 12, 24 and 48 of its 50 epochs
            return 0.5 ** sum(step / config.steps >= share for share in _HALVINGS)
    _refuse("schedule", "constant, poly, cosine or halving", config.schedule)


class _Losses(nn.Module):
    """The task's losses as a module, which is what runs on several processes."""

    def __init__(self, task: Task, device: torch.device) -> None:
        super().__init__()
        self.model = task.model
        self._task, self._device = task, device

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self._task.losses(self.model, moved(batch, self._device))


def moved(values: Any, device: torch.device) -> Any:
    """Return the same structure with its tensors on a device."""
    match values:
        case Tensor():
            return values.to(device, non_blocking=True)
        case dict():
            return {name: moved(value, device) for name, value in values.items()}
        case tuple() if hasattr(values, "_fields"):
            return type(values)(*(moved(value, device) for value in values))
        case list() | tuple():
            return type(values)(moved(value, device) for value in values)
    return values


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


def _refuse(place: str, expected: str, found: object) -> NoReturn:
    raise BadInput(
        "training settings",
        place,
        expected=expected,
        found=found,
        remedy="correct the configuration",
    )
