"""What a training says of itself: log lines, metrics.jsonl, TensorBoard."""

import fcntl
import json
import logging
import math
import time
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from gnesf_core.config import TrainingConfig
from gnesf_core.errors import BadInput, Diverged
from gnesf_core.progress import duration
from gnesf_core.shapes import Float
from gnesf_core.training.distributed import Team

log = logging.getLogger(__name__)


class Report:
    """Averages losses from report to report, over steps and processes.

    A row holds one step: the loss, its parts, the norm of the gradient. Rows stay on
    their device until `collect`, so that no step waits for a GPU.
    """

    def __init__(self, workspace: Path, config: TrainingConfig, team: Team) -> None:
        self.metrics = ""  # what metrics.jsonl says; part of the state
        self._config, self._team = config, team
        self._names: list[str] = []
        self._rows: list[list[float]] = []
        self._pending: list[tuple[list[str], Tensor]] = []
        self._seconds_before = 0.0
        self._folder = workspace
        self._file = _sole_writer(workspace / "metrics.jsonl") if team.leads else None
        self._events: Any = None

    def start(self, step: int, saved: dict[str, Any] | None) -> None:
        """Go on after `step` steps, with what a state has `saved`."""
        if saved is not None:
            self.metrics, self._seconds_before = saved["metrics"], saved["seconds"]
            self._names, self._rows = saved["names"], saved["rows"]
        self._started = self._told = time.monotonic()
        self._told_step = step
        if self._file is not None:
            self._file.truncate(0)
            self._file.write(self.metrics)
            self._file.flush()
            self._events = _tensorboard(self._folder / "tensorboard", step + 1)
            log.info("training from step %d to %d", step, self._config.steps)

    def saved(self) -> dict[str, Any]:
        """Return what `start` needs to go on from here."""
        return {
            "metrics": self.metrics,
            "seconds": self._seconds(),
            "names": self._names,
            "rows": self._rows,
        }

    def add(
        self, samples: list[str], parts: dict[str, Tensor], norm: Float[Tensor, ""]
    ) -> None:
        """Note the losses of a step, the norm of its gradient, and its samples."""
        self._names = ["loss", *parts, "gradient_norm"]
        losses = torch.stack(list(parts.values())).detach()
        row = torch.cat([losses.sum()[None], losses, norm[None]])
        self._pending.append((samples, row))

    def collect(self, step: int) -> None:
        """Fetch the rows up to `step`; raise `Diverged` at the first that is bad."""
        if not self._pending:
            return
        rows = self._team.mean(torch.stack([row for _, row in self._pending])).tolist()
        first = step - len(rows) + 1
        for number, (row, (samples, _)) in enumerate(
            zip(rows, self._pending, strict=True), start=first
        ):
            pairs = zip(self._names, row, strict=True)
            bad = [
                f"{name} is {value}"
                for name, value in pairs
                if not math.isfinite(value)
            ]
            if bad:
                raise Diverged(
                    f"step {number}: {', '.join(bad)}; samples of this step: "
                    f"{', '.join(samples)}; remedy: lower learning_rate, or look at "
                    "those samples"
                )
        self._rows += rows
        self._pending.clear()

    def tell(
        self, step: int, learning_rate: float, validation: float | None = None
    ) -> None:
        """Report the mean of the rows since the last report, and a validation."""
        columns = zip(*self._rows, strict=True)
        means = [math.fsum(column) / len(self._rows) for column in columns]
        self._rows = []
        now = time.monotonic()
        rate = (step - self._told_step) / max(now - self._told, 1e-9)
        self._told, self._told_step = now, step
        if self._file is None:
            return
        values = {
            "step": step,
            "seconds": self._seconds(),
            "learning_rate": learning_rate,
            "items_per_second": rate * self._config.batch,
        } | dict(zip(self._names, means, strict=True))
        if validation is not None and not math.isnan(validation):
            values["validation"] = validation
        line = json.dumps(values) + "\n"
        self.metrics += line
        self._file.write(line)
        self._file.flush()
        steps = self._config.steps
        log.info("%s", progress_line(values, self._names[1:-1], rate, steps))
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def close(self) -> None:
        """Close the files and let another training have them."""
        for file in (self._file, self._events):
            if file is not None:
                file.close()


def progress_line(
    values: dict[str, Any], parts: list[str], steps_per_second: float, steps: int
) -> str:
    """Say in a line how far a training is, how it does and how long it will take."""
    losses = " ".join(f"{name} {values[name]:.3g}" for name in parts)
    left_s = (steps - values["step"]) / steps_per_second
    tried = f"validation {values['validation']:.4g}  " if "validation" in values else ""
    return (
        f"step {values['step']}/{steps}  loss {values['loss']:.4g} ({losses})  {tried}"
        f"{steps_per_second:.2f} steps/s  {values['items_per_second']:.1f} items/s  "
        f"{duration(left_s)} left  lr {values['learning_rate']:.2g}"
    )


def _sole_writer(path: Path) -> IO[str]:
    """Open and lock a file: the orphan of a killed run may still train here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BadInput(
            path,
            "lock",
            expected="one training in this folder",
            found="another process that trains here",
            remedy="wait until it ends, or end it, then run again",
        ) from None
    return file


def _tensorboard(folder: Path, first_step: int) -> Any:
    """Open TensorBoard's log, where it is installed; hide steps that come again."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step)
