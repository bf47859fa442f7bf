"""Attention among rows that may not all be asked, and numbers that tell them apart."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from gnesf_core.shapes import Bool, Float

_BASE = 10_000.0  # ratio of the longest wave to the shortest, nearly


class SelfAttention(nn.Module):
    """Multi-head attention with what it started from added, and a layer norm.

    What `usable` leaves out is, by `mask`, `keys`: nobody learns anything from it; or
    `queries`, as in IBRNet's code and whatever was built on it: it is asked like all
    others, and itself asks everybody alike. Names of weights are IBRNet's.
    """

    def __init__(self, width: int, heads: int, head_width: int, mask: str) -> None:
        super().__init__()
        if mask not in ("keys", "queries"):
            raise ValueError(f"mask {mask} is neither keys nor queries")
        inner = heads * head_width
        self._heads, self.mask = heads, mask
        self.w_qs = nn.Linear(width, inner, bias=False)
        self.w_ks = nn.Linear(width, inner, bias=False)
        self.w_vs = nn.Linear(width, inner, bias=False)
        self.fc = nn.Linear(inner, width, bias=False)
        self.layer_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(
        self, rows: Float[Tensor, "n rows c"], usable: Bool[Tensor, "n rows"]
    ) -> Float[Tensor, "n rows c"]:
        """Let the rows of each of n groups look at each other."""
        query, key, value = (
            layer(rows).unflatten(2, (self._heads, -1)).transpose(1, 2)
            for layer in (self.w_qs, self.w_ks, self.w_vs)
        )
        if self.mask == "queries":
            query = query * usable[:, None, :, None]
            heard = scaled_dot_product_attention(query, key, value)
        else:
            # Not -inf, of which a softmax over nothing would be NaN.
            lowest = torch.finfo(query.dtype).min / 2
            hidden = query.new_zeros(usable.shape).masked_fill(~usable, lowest)
            heard = scaled_dot_product_attention(
                query, key, value, attn_mask=hidden[:, None, None]
            )
            heard = heard * usable.any(1)[:, None, None, None]
        return self.layer_norm(rows + self.fc(heard.transpose(1, 2).flatten(2)))


def softmax_over(
    scores: Float[Tensor, "*n k"], counted: Bool[Tensor, "*n k"]
) -> Float[Tensor, "*n k"]:
    """Return the softmax of the scores that count, and 0 for all others."""
    lowest = torch.finfo(scores.dtype).min / 2
    return scores.masked_fill(~counted, lowest).softmax(-1) * counted


def sinusoids(count: int, width: int, device: torch.device) -> Float[Tensor, "count w"]:
    """Return sines and cosines in turns that tell `count` positions apart."""
    positions = torch.arange(count, dtype=torch.float64, device=device)[:, None]
    pairs = torch.arange(0, width, 2, dtype=torch.float64, device=device)
    angles = positions / _BASE ** (pairs / width)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).float()
