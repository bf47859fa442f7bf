"""Resumable state of a training, beside its output; the last two are kept.

A state belongs to the `key` it was written for; those of other keys are left alone
until a training in this folder has ended well.
"""

import io
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gnesf_core.data.publish import checksum_path, verify, write_bytes
from gnesf_core.errors import BadInput
from gnesf_core.training.weights import misfit, read_pickled

log = logging.getLogger(__name__)

_KEPT = 2


class States:
    """Writes and restores the state of a model and its optimizer."""

    def __init__(
        self,
        workspace: Path,
        key: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._stem = workspace / f"state-{key[:12]}"
        self._model, self._optimizer = model, optimizer

    def write(self, step: int, more: dict[str, Any]) -> None:
        """Publish what is needed to go on after `step` steps."""
        content = more | {
            "step": step,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        buffer = io.BytesIO()  # given a file, torch.save hides that the disk is full
        torch.save(content, buffer)
        write_bytes(self._path(step), buffer.getvalue())
        for path in self._paths()[:-_KEPT]:
            path.unlink()
            checksum_path(path).unlink(missing_ok=True)

    def restore_newest(self) -> dict[str, Any] | None:
        """Restore the newest state that can be used, if there is one; return it."""
        for path in reversed(self._paths()):
            try:
                return self._restore(path)
            except (KeyError, TypeError, ValueError) as error:  # BadInput among them
                log.warning("%s is not used: %s", path, error)
        return None

    def restore(self, step: int) -> dict[str, Any]:
        """Restore the state after `step` steps and return it."""
        return self._restore(self._path(step))

    def _restore(self, path: Path) -> dict[str, Any]:
        complaint = verify(path)
        if complaint is None:
            content = read_pickled(path)
            unfit = misfit(self._model, content["model"])
            complaint = unfit and ("model", unfit)
        if complaint is not None:
            raise BadInput(
                path,
                complaint[0],
                expected="an intact state of this model",
                found=complaint[1],
                remedy="delete it",
            )
        self._optimizer.load_state_dict(content["optimizer"])
        self._model.load_state_dict(content["model"])
        return content

    def _path(self, step: int) -> Path:
        return self._stem.with_name(f"{self._stem.name}-{step:09d}.pt")

    def _paths(self) -> list[Path]:
        return sorted(self._stem.parent.glob(f"{self._stem.name}-*.pt"))


def remove_states(workspace: Path) -> None:
    """Delete the states of all keys; for when the weights are published."""
    for path in workspace.glob("*state-*"):  # checksums and half-written ones as well
        path.unlink()
