"""Batch norm over all processes of a training, on CPUs too.

torch's own `SyncBatchNorm` works on GPUs alone.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from gnesf_core.shapes import Float


class BatchNorm(nn.Module):
    """Batch norm of [n, c] or [n, c, h, w], with the tensors of torch's own.

    While several processes train, its statistics are those of the whole batch. So all
    of them must run the same layers in the same order, forwards and backwards: one
    that has nothing runs 0 rows, and lets its loss depend on what comes out.

    Fewer than two values per channel have no statistics. They are normalised by the
    running ones, which then stay as they are.
    """

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, 1e-5
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, values: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
        """Normalise each channel."""
        together = distributed.is_available() and distributed.is_initialized()
        if self.training and together:
            return self._over_processes(values)
        learning = self.training and values.numel() >= 2 * len(self.weight)
        if learning:
            self.num_batches_tracked += 1
        mean, variance = self.running_mean, self.running_var
        if self.training and not learning:
            # The next fragment changes them before this gradient is computed.
            mean, variance = mean.clone(), variance.clone()
        return functional.batch_norm(
            values,
            mean,
            variance,
            self.weight,
            self.bias,
            learning,
            self.momentum,
            self.eps,
        )

    def _over_processes(
        self, values: Float[Tensor, "n c ..."]
    ) -> Float[Tensor, "n c ..."]:
        count, mean, squares = _statistics(_precise(values.detach()))
        enough = count > 1  # a tensor throughout: nobody waits for a GPU
        share = torch.where(enough, 1 / count, 0)
        mean = torch.where(enough, mean, self.running_mean)
        variance = torch.where(enough, squares * share, self.running_var)
        unbiased = torch.where(enough, squares / (count - 1), self.running_var)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked += enough[0]
        scale = (variance + self.eps).rsqrt()
        return _Normalise.apply(values, self.weight, self.bias, mean, scale, share)


def _statistics(
    values: Float[Tensor, "n c ..."],
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Return count, mean and sum of squared deviations, over all processes."""
    axes = _all_but_channels(values)
    count = values.numel() // values.shape[1]
    mean = values.sum(axes) / max(count, 1)
    squares = (values - _beside(mean, values)).square().sum(axes)
    own = torch.stack([torch.full_like(mean, count), mean, squares])
    gathered = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, own)
    counts, means, every = torch.stack(gathered, dim=1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count.clamp(min=1)
    return count, mean, (every + counts * (means - mean).square()).sum(0)


class _Normalise(torch.autograd.Function):
    """Normalise by statistics that depend on the values of all processes.

    `share` is what one value counts in them: 0 if they come from elsewhere.
    """

    @staticmethod
    def forward(
        context: Any,
        values: Float[Tensor, "n c ..."],
        weight: Float[Tensor, " c"],
        bias: Float[Tensor, " c"],
        mean: Float[Tensor, " c"],
        scale: Float[Tensor, " c"],
        share: Float[Tensor, " c"],
    ) -> Float[Tensor, "n c ..."]:
        context.save_for_backward(values, weight, mean, scale, share)
        centred = _precise(values) - _beside(mean, values)
        out = centred * _beside(scale * weight, values) + _beside(bias, values)
        return out.to(values.dtype)

    @staticmethod
    def backward(context: Any, gradient: Float[Tensor, "n c ..."]) -> tuple:
        values, weight, mean, scale, share = context.saved_tensors
        axes = _all_but_channels(values)
        gradient = _precise(gradient)
        normal = (_precise(values) - _beside(mean, values)) * _beside(scale, values)
        own = torch.stack([gradient.sum(axes), (gradient * normal).sum(axes)])
        every = own.clone()
        distributed.all_reduce(every)
        along_mean, along_scale = (_beside(sums * share, values) for sums in every)
        out = _beside(scale * weight, values) * (
            gradient - along_mean - normal * along_scale
        )
        return out.to(values.dtype), own[1], own[0], None, None, None


def _precise(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return values in float32 at least, whatever autocast says."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _all_but_channels(values: Float[Tensor, "n c ..."]) -> list[int]:
    return [0, *range(2, values.ndim)]


def _beside(
    channels: Float[Tensor, " c"], values: Float[Tensor, "n c ..."]
) -> Float[Tensor, "c ..."]:
    """Shape one number per channel so that it broadcasts against the values."""
    return channels.reshape(-1, *[1] * (values.ndim - 2))
