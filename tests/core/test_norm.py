"""Batch norm is torch's own, and that of the whole batch when processes share it.

Run as a program, this file is one of two processes that share the batches below.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gnesf_core.nets.norm import BatchNorm

# How many rows each process has; what a row is.
SHARES = {
    "voxels": ([5, 11], (4,)),
    "pictures": ([2, 2], (4, 3, 5)),
    "all in one": ([0, 9], (4,)),
    "pictures in one": ([3, 0], (4, 2, 2)),
    "two rows": ([1, 1], (4,)),
    "one row": ([1, 0], (4,)),
    "nothing": ([0, 0], (4,)),
    "far from zero": ([40, 60], (4,)),
}
NORMAL = [name for name, (rows, _) in SHARES.items() if sum(rows) > 1]


def whole_batch(name):
    """Return the values of all processes, and what their loss weighs them with."""
    torch.manual_seed(list(SHARES).index(name))
    rows, shape = SHARES[name]
    values = 3 * torch.randn(sum(rows), *shape) + 1
    return values + 1e4 * (name == "far from zero"), torch.randn_like(values)


def share(tensor, rows, rank):
    return torch.split(tensor, rows)[rank]


def norm_like(kind, momentum=0.3):
    norm = kind(4, momentum=momentum)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, -3.0, 0.0]))
        norm.running_mean.copy_(torch.tensor([0.0, 5.0, -1.0, 2.0]))
        norm.running_var.copy_(torch.tensor([1.0, 4.0, 0.5, 9.0]))
    return norm


def results(norm, values, weights):
    """Return output, gradients and running statistics of one training step."""
    values = values.clone().requires_grad_()
    out = norm(values)
    (out.float() * weights).sum().backward()
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {
        "out": out.detach(),
        "values": values.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
    } | {name: getattr(norm, name).clone() for name in names}


def torchs(values):
    return nn.BatchNorm1d if values.ndim == 2 else nn.BatchNorm2d


def assert_equal_results(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n
        )


@pytest.fixture
def alone_in_a_team():
    """One process that takes itself for several: the shared way, without a wait."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", NORMAL)
def test_alone_it_is_torchs_batch_norm(name):
    values, weights = whole_batch(name)
    found = results(norm_like(BatchNorm), values, weights)
    assert_equal_results(found, results(norm_like(torchs(values)), values, weights), 0)


@pytest.mark.parametrize("name", NORMAL)
def test_the_shared_way_agrees_with_torchs(name, alone_in_a_team):
    values, weights = whole_batch(name)
    expected = results(norm_like(torchs(values)), values, weights)
    # Far from zero the inputs themselves have but 3 decimals.
    tolerance = 1e-3 if name == "far from zero" else 1e-5
    assert_equal_results(
        results(norm_like(BatchNorm), values, weights), expected, tolerance
    )


def test_statistics_far_from_zero_are_not_cancelled_away(alone_in_a_team):
    values = 1e4 + whole_batch("voxels")[0]
    norm = BatchNorm(4, momentum=1.0)
    norm(values)
    exact = values.double().var(0)
    torch.testing.assert_close(norm.running_var.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", SHARES)
def test_in_use_nothing_is_learned_and_nobody_is_asked(
    name, alone_in_a_team, monkeypatch
):
    monkeypatch.delattr(distributed, "all_gather")
    monkeypatch.delattr(distributed, "all_reduce")
    values, weights = whole_batch(name)
    found = results(norm_like(BatchNorm).eval(), values, weights)
    expected = results(norm_like(torchs(values)).eval(), values, weights)
    assert_equal_results(found, expected, 0)
    assert found["num_batches_tracked"] == 0
    assert found["running_mean"].tolist() == [0, 5, -1, 2]


@pytest.mark.parametrize("name", ["one row", "nothing"])
@pytest.mark.parametrize("together", [False, True])
def test_too_few_values_are_normalised_by_the_running_statistics(
    name, together, request
):
    if together:
        request.getfixturevalue("alone_in_a_team")
    values, weights = whole_batch(name)
    found = results(norm_like(BatchNorm), values, weights)
    expected = results(norm_like(nn.BatchNorm1d).eval(), values, weights)
    assert_equal_results(found, expected)


@pytest.mark.parametrize("together", [False, True])
def test_low_precision_comes_back_and_statistics_do_not_suffer(together, request):
    if together:
        request.getfixturevalue("alone_in_a_team")
    values = torch.linspace(100, 101, 3000)[:, None].expand(-1, 4).bfloat16()
    norm = BatchNorm(4, momentum=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = results(norm, values, torch.ones(3000, 4))
    assert found["out"].dtype == found["values"].dtype == torch.bfloat16
    assert norm.running_mean.dtype == norm.weight.grad.dtype == torch.float32
    exact = values.double()  # a sum in bfloat16 would end at 256
    torch.testing.assert_close(
        norm.running_mean.double(), exact.mean(0), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        norm.running_var.double(), exact.var(0), rtol=1e-4, atol=0
    )


def test_its_tensors_have_the_names_and_shapes_of_torchs():
    own, others = BatchNorm(4).state_dict(), nn.BatchNorm2d(4).state_dict()
    assert list(own) == list(others)
    assert all(torch.equal(own[name], others[name]) for name in others)
    assert all(own[name].dtype == others[name].dtype for name in others)


# Two processes


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return what two processes found, each for its share of every batch."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    root = str(Path(__file__).parents[2])
    team = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    programs = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder / rank)],
            env=os.environ | team | {"RANK": rank, "PYTHONPATH": root},
        )
        for rank in "01"
    ]
    try:
        assert [program.wait(120) for program in programs] == [0, 0]
    finally:
        for program in programs:
            program.kill()
    return [torch.load(folder / rank, weights_only=True) for rank in "01"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARES)
def test_two_processes_find_what_one_finds_with_the_whole_batch(name, pair):
    values, weights = whole_batch(name)
    enough = len(values) > 1
    expected = results(norm_like(torchs(values)).train(enough), values, weights)
    first, second = (found[name] for found in pair)
    joined = {
        name: torch.cat([first[name], second[name]]) for name in ("out", "values")
    }
    summed = {name: first[name] + second[name] for name in ("weight", "bias")}
    kept = {name: first[name] for name in first if name.startswith(("running", "num"))}
    tolerance = 1e-3 if name == "far from zero" else 1e-5
    assert_equal_results(joined | summed | kept, expected, tolerance)
    assert all(torch.equal(second[name], value) for name, value in kept.items())


def network(kind):
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 4), kind(4), nn.ReLU(), nn.Linear(4, 1), kind(1))


@pytest.mark.slow
def test_a_process_without_rows_learns_with_the_others(pair):
    model, (values, weights) = network(nn.BatchNorm1d), whole_batch("all in one")
    (model(values)[:, 0] * weights[:, 0]).sum().backward()
    for found in pair:
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                found["network"][name], parameter.grad, rtol=1e-4, atol=1e-5
            )


def learn_in_parallel(rank):
    """Return the gradients of a network whose batch is in the other process."""
    values, weights = (
        share(tensor, SHARES["all in one"][0], rank)
        for tensor in whole_batch("all in one")
    )
    model = network(BatchNorm)
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    # Gradients are averaged: twice the sum is the sum of both.
    (2 * (parallel(values)[:, 0] * weights[:, 0]).sum()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def main():
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    found = {}
    for name, (rows, _) in SHARES.items():
        values, weights = (share(tensor, rows, rank) for tensor in whole_batch(name))
        found[name] = results(norm_like(BatchNorm), values, weights)
    found["network"] = learn_in_parallel(rank)
    torch.save(found, sys.argv[1])
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
