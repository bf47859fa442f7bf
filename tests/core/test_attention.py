"""Attention against torch's own, and against what a mask must mean."""

import math

import pytest
import torch
from torch import nn

from gnesf_core.nets.attention import SelfAttention, sinusoids, softmax_over

CPU = torch.device("cpu")
GROUPS, ROWS, WIDTH, HEADS, HEAD = 5, 7, 6, 2, 3


def module_of(mask, seed=0):
    torch.manual_seed(seed)
    module = SelfAttention(WIDTH, HEADS, HEAD, mask).double()
    for own in (module.layer_norm.weight, module.layer_norm.bias):
        nn.init.normal_(own)
    return module


def rows_and_mask(seed=1):
    generator = torch.Generator().manual_seed(seed)
    size = GROUPS, ROWS, WIDTH
    rows = torch.randn(size, generator=generator, dtype=torch.float64)
    usable = torch.rand(GROUPS, ROWS, generator=generator) < 0.6
    usable[:, 0], usable[-1] = True, False  # the last group has nobody to look at
    return rows, usable


def torchs(module):
    """Return torch's attention with the same weights, without bias."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, bias=False, batch_first=True).double()
    with torch.no_grad():
        own = [layer.weight for layer in (module.w_qs, module.w_ks, module.w_vs)]
        theirs.in_proj_weight.copy_(torch.cat(own))
        theirs.out_proj.weight.copy_(module.fc.weight)
    return theirs


def test_hidden_keys_are_those_of_torchs_own_attention():
    module, (rows, usable) = module_of("keys"), rows_and_mask()
    heard, _ = torchs(module)(rows, rows, rows, key_padding_mask=~usable)
    expected = module.layer_norm(rows + heard)[:-1]
    torch.testing.assert_close(module(rows, usable)[:-1], expected)


def test_hidden_queries_ask_everybody_alike():
    """IBRNet's rule: scores of a hidden row are all the same number."""
    module, (rows, usable) = module_of("queries"), rows_and_mask()
    plain, _ = torchs(module)(rows, rows, rows)
    mean = module.fc(module.w_vs(rows).mean(1, keepdim=True))
    heard = torch.where(usable[..., None], plain, mean)
    expected = module.layer_norm(rows + heard)
    torch.testing.assert_close(module(rows, usable), expected)


@pytest.mark.parametrize(("mask", "leaks"), [("keys", False), ("queries", True)])
def test_what_is_hidden_is_heard_only_if_queries_are_masked(mask, leaks):
    module, (rows, usable) = module_of(mask), rows_and_mask()
    other = torch.where(usable[..., None], rows, rows.flip(0) + 1)
    change = (module(other, usable) - module(rows, usable))[usable].abs().max()
    assert (change > 1e-3) == leaks


@pytest.mark.parametrize("mask", ["keys", "queries"])
def test_rows_with_nobody_to_look_at_stay_finite_and_learn(mask):
    module, (rows, _) = module_of(mask), rows_and_mask()
    rows.requires_grad_()
    out = module(rows, torch.zeros(GROUPS, ROWS, dtype=torch.bool))
    out.square().sum().backward()
    assert out.isfinite().all()
    assert rows.grad.isfinite().all()
    assert all(own.grad.isfinite().all() for own in module.parameters())
    if mask == "keys":
        torch.testing.assert_close(out, module.layer_norm(rows))


def test_a_mask_has_a_known_name():
    with pytest.raises(ValueError, match="neither"):
        SelfAttention(4, 1, 4, "values")


def test_softmax_is_over_what_counts():
    scores = torch.tensor([[1.0, 900.0, -2.0], [5.0, 5.0, 5.0], [0.0, -1e4, 1.0]])
    counted = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]).bool()
    scores.requires_grad_()
    weights = softmax_over(scores, counted)
    first = math.exp(1) / (math.exp(1) + math.exp(-2))
    expected = torch.tensor([[first, 0, 1 - first], [0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(weights, expected)
    weights[:, 0].sum().backward()
    assert scores.grad.isfinite().all()
    assert (scores.grad[~counted] == 0).all()


@pytest.mark.parametrize("count", [1, 64, 128])
def test_positions_are_the_sines_and_cosines_of_the_transformer(count):
    table = sinusoids(count, 16, CPU)
    assert table.shape == (count, 16)
    for position in range(0, count, 7):
        for place in range(16):
            angle = position / 10_000 ** (2 * (place // 2) / 16)
            wave = math.cos(angle) if place % 2 else math.sin(angle)
            assert table[position, place].item() == pytest.approx(wave, abs=1e-6)
