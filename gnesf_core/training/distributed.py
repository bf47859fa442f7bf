"""One process, or the several that `torchrun` starts: each takes a share of a batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gnesf_core.shapes import Float

_PATIENCE = timedelta(minutes=15)  # for a process that writes state, or that is gone


def mean_over_processes(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the mean over the processes of a training; one alone keeps its own.

    Gradients are averaged over processes. So a loss that is a mean over what a batch
    happens to contain (masks, known pixels) is each process's sum divided by the mean
    of their counts: then a batch gives one gradient, however it is shared out.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


@dataclass(frozen=True)
class Team:
    """The processes of a training, as seen by one of them."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Tell whether this is the process that reads, writes and logs."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """Return the largest value of all processes, once each has given its own."""
        if self.size == 1:
            return value
        values = torch.tensor(value)  # on the CPU: nobody waits for a GPU
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
        return int(values)

    def mean(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the mean over processes."""
        return mean_over_processes(values)

    def parallel(self, module: nn.Module) -> nn.Module:
        """Let gradients become their mean over processes."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        # A part may have no gradient in one process only: nothing to see in its views.
        return DistributedDataParallel(module, devices, find_unused_parameters=True)


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """Join the other processes, if `torchrun` started any."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(0, 1, device)
        return
    backend = "gloo"
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    team = Team(distributed.get_rank(), size, device)
    yield team
    team.largest(0)  # the first process may still be writing
    # After an error nobody waits: the process ends, and torchrun ends the others.
    distributed.destroy_process_group()
