"""Sparse convolution against Torch's dense one and plain loops; engines against it."""

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import conv3d, conv_transpose3d

from gnesf_core.errors import BadInput
from gnesf_core.sparse import dense, gather, pairs, table, torchsparse_engine
from gnesf_core.sparse.engine import Engine, engine
from gnesf_core.sparse.sites import CENTRE, MOST, MOST_BATCH, Sites

TRUTH = Engine(gather.submanifold_truth, gather.down_truth, gather.up_truth)
OURS = ("auto", "gather", "dense")
ENGINES = {"truth": TRUTH} | {name: engine(name, "cpu") for name in OURS}
EVERY = pytest.mark.parametrize("name", ENGINES)
KINDS = ("submanifold", "down", "up")
OFFSETS = list(itertools.product((-1, 0, 1), repeat=3))
HAS_TRITON = importlib.util.find_spec("triton") is not None


def some_sites(share=0.3, size=(9, 7, 8), batches=2, lower=(-5, -2, 0), seed=0):
    """Return random voxels of a box, in random order; some coordinates are negative."""
    generator = torch.Generator().manual_seed(seed)
    axes = [torch.arange(batches)]
    axes += [torch.arange(n) + low for n, low in zip(size, lower, strict=True)]
    cells = torch.cartesian_prod(*axes)
    order = torch.randperm(len(cells), generator=generator)
    return Sites(cells[order[: round(share * len(cells))]])


def inputs(kind, sites, cin=3, cout=4, dtype=torch.float64, seed=0):
    """Return features and weights of a size that keeps results around 1."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(sites.coarser) if kind == "up" else len(sites)
    offsets = 27 if kind == "submanifold" else 8
    features = torch.randn(rows, cin, generator=generator, dtype=torch.float64)
    weight = torch.randn(offsets, cin, cout, generator=generator, dtype=torch.float64)
    weight /= (offsets * cin) ** 0.5
    return features.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def gradients(function, features, weight, sites):
    """Return the result, and the gradients of a random mixture of its numbers."""
    out = function(features, weight, sites)
    mix = torch.Generator().manual_seed(1)
    mix = torch.randn(out.shape, generator=mix, dtype=torch.float64).to(out.dtype)
    return out, *torch.autograd.grad(out, (features, weight), mix)


def dense_grid(sites, features, lower, size):
    """Return features in a dense array (batch, channel, x, y, z) that begins there."""
    b, x, y, z = (sites.batch_xyz - torch.tensor([0, *lower])).unbind(1)
    grid = features.new_zeros(int(b.max()) + 1, features.shape[1], *size)
    grid[b, :, x, y, z] = features
    return grid, (b, slice(None), x, y, z)


def assert_close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@EVERY
@pytest.mark.parametrize("share", [0.1, 0.8, 1.0])
def test_submanifold_is_dense_convolution_of_zeros_read_at_the_sites(name, share):
    sites = some_sites(share)
    features, weight = inputs("submanifold", sites)
    grid, at = dense_grid(sites, features, (-5, -2, 0), (9, 7, 8))
    kernel = weight.reshape(3, 3, 3, 3, 4).permute(4, 3, 0, 1, 2)
    expected = conv3d(grid, kernel, padding=1)[at]
    assert_close(ENGINES[name].submanifold(features, weight, sites), expected)


@EVERY
def test_down_is_dense_convolution_with_stride_two(name):
    sites = some_sites()
    features, weight = inputs("down", sites)
    grid, _ = dense_grid(sites, features, (-6, -2, 0), (10, 8, 8))
    kernel = weight.reshape(2, 2, 2, 3, 4).permute(4, 3, 0, 1, 2)
    expected = conv3d(grid, kernel, stride=2)
    result = ENGINES[name].down(features, weight, sites)
    found, _ = dense_grid(sites.coarser, result, (-3, -1, 0), (5, 4, 4))
    assert_close(found, expected)  # nothing is missing either: zero where no site is


@EVERY
def test_up_is_dense_transposed_convolution_with_stride_two(name):
    sites = some_sites()
    features, weight = inputs("up", sites)
    grid, _ = dense_grid(sites.coarser, features, (-3, -1, 0), (5, 4, 4))
    kernel = weight.reshape(2, 2, 2, 3, 4).permute(3, 4, 0, 1, 2)
    expected = conv_transpose3d(grid, kernel, stride=2)
    _, at = dense_grid(sites, features.new_zeros(len(sites), 1), (-6, -2, 0), (10,) * 3)
    assert_close(ENGINES[name].up(features, weight, sites), expected[at])


@EVERY
def test_plain_loops_over_voxels_agree(name):
    sites = some_sites(0.4, size=(3, 4, 3))
    row_of = {tuple(voxel): row for row, voxel in enumerate(sites.batch_xyz.tolist())}
    coarse_row_of = {
        tuple(voxel): row for row, voxel in enumerate(sites.coarser.batch_xyz.tolist())
    }
    for kind in KINDS:
        features, weight = inputs(kind, sites, cin=2, cout=2)
        values, matrices = features.detach().numpy(), weight.detach().numpy()
        expected = np.zeros((len(coarse_row_of if kind == "down" else row_of), 2))
        for (b, x, y, z), row in row_of.items():
            parent = coarse_row_of[b, x // 2, y // 2, z // 2]
            child = (x % 2) * 4 + (y % 2) * 2 + z % 2
            if kind == "down":
                expected[parent] += values[row] @ matrices[child]
            elif kind == "up":
                expected[row] += values[parent] @ matrices[child]
            else:
                for k, (dx, dy, dz) in enumerate(OFFSETS):
                    other = row_of.get((b, x + dx, y + dy, z + dz))
                    if other is not None:
                        expected[row] += values[other] @ matrices[k]
        result = getattr(ENGINES[name], kind)(features, weight, sites)
        assert_close(result.detach(), torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("name", "table_fill"), [("gather", 0), ("gather", 1), ("dense", 1)]
)
def test_gradients_are_those_of_small_differences(name, table_fill, monkeypatch):
    monkeypatch.setattr(gather, "_TABLE_FILL", table_fill)
    sites = some_sites(0.6, size=(2, 2, 3))
    for kind in KINDS:
        features, weight = inputs(kind, sites, cin=2, cout=1)
        function = getattr(ENGINES[name], kind)
        assert torch.autograd.gradcheck(
            lambda f, w, function=function: function(f, w, sites), (features, weight)
        )


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("share", [0.1, 0.8, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_engines_agree_with_the_truth_in_float32(name, share, kind):
    sites = some_sites(share, size=(12, 11, 10))
    case = *inputs(kind, sites, 12, 20, torch.float32), sites
    found = gradients(getattr(ENGINES[name], kind), *case)
    expected = gradients(getattr(TRUTH, kind), *case)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, 1e-5 * max(1, theirs.abs().max().item()))


@pytest.mark.parametrize("share", [0.1, 0.8])
def test_only_the_gradients_that_are_needed_are_made(share):
    sites = some_sites(share)
    for kind in KINDS:
        features, weight = inputs(kind, sites)
        both = gradients(getattr(gather, kind), features, weight, sites)[1:]
        for needed, alone in enumerate(((features, weight.detach()),
                                        (features.detach(), weight))):  # fmt: skip
            out = getattr(gather, kind)(*alone, sites)
            mix = torch.Generator().manual_seed(1)
            out.backward(torch.randn(out.shape, generator=mix, dtype=out.dtype))
            assert_close(alone[needed].grad, both[needed], 0)
            alone[needed].grad = None


def test_gathering_in_many_parts_changes_nothing(monkeypatch):
    for share in (0.1, 0.8):
        sites = some_sites(share)
        for kind in KINDS:
            case = *inputs(kind, sites), sites
            whole = gradients(getattr(gather, kind), *case)
            with monkeypatch.context() as patch:
                patch.setattr(table, "_CPU_NUMBERS", 7 * 27 * 3)
                patch.setattr(pairs, "_SLAB_ROWS", 50)
                parts = gradients(getattr(gather, kind), *case)
            for one, other in zip(whole, parts, strict=True):
                assert_close(one, other)


@EVERY
def test_batches_do_not_mix(name):
    sites = some_sites(0.5)
    for kind in KINDS:
        features, weight = inputs(kind, sites)
        function = getattr(ENGINES[name], kind)
        finer, coarser = sites.batch_xyz[:, 0], sites.coarser.batch_xyz[:, 0]
        going_in = coarser if kind == "up" else finer
        coming_out = coarser if kind == "down" else finer
        changed = torch.where(going_in[:, None] == 1, features + 1, features)
        same = function(features, weight, sites) == function(changed, weight, sites)
        assert same[coming_out == 0].all()
        assert not same[coming_out == 1].any()


@EVERY
@pytest.mark.parametrize("share", [0.1, 0.8])
def test_other_orders_of_the_sites_only_reorder_results(name, share):
    sites = some_sites(share)
    order = torch.randperm(len(sites), generator=torch.Generator().manual_seed(5))
    shuffled = Sites(sites.batch_xyz[order])
    features, weight = inputs("submanifold", sites)
    convolve = ENGINES[name].submanifold
    expected = convolve(features, weight, sites)[order]
    assert_close(convolve(features[order], weight, shuffled), expected)
    features, weight = inputs("down", sites)
    torch.testing.assert_close(shuffled.coarser.batch_xyz, sites.coarser.batch_xyz)
    expected = ENGINES[name].down(features, weight, sites)
    assert_close(ENGINES[name].down(features[order], weight, shuffled), expected)


@EVERY
def test_moving_all_sites_by_an_even_step_changes_nothing(name):
    sites = some_sites(0.4)
    moved = Sites(sites.batch_xyz + torch.tensor([3, -8, 120, 26]))
    for kind in KINDS:
        features, weight = inputs(kind, sites)
        function = getattr(ENGINES[name], kind)
        expected = function(features, weight, sites)
        assert_close(function(features, weight, moved), expected)


@EVERY
def test_a_lonely_voxel_meets_the_central_weight_and_that_of_its_corner(name):
    sites = Sites(torch.tensor([[4, -3, 6, 5]]))  # the second of its parent in x and z
    features, weight = inputs("submanifold", sites)
    result = ENGINES[name].submanifold(features, weight, sites)
    assert_close(result, features @ weight[13])
    features, weight = inputs("down", sites)
    assert_close(ENGINES[name].down(features, weight, sites), features @ weight[5])
    assert_close(ENGINES[name].up(features, weight, sites), features @ weight[5])
    assert sites.coarser.batch_xyz.tolist() == [[4, -2, 3, 2]]


@EVERY
def test_no_voxel_at_all_gives_no_rows_and_gradients_of_zero(name):
    sites = Sites(torch.zeros(0, 4, dtype=torch.int32))
    for kind in KINDS:
        features, weight = inputs(kind, sites)
        out = getattr(ENGINES[name], kind)(features, weight, sites)
        assert out.shape == (0, 4)
        out.sum().backward()
        assert features.grad.shape == (0, 3)
        assert_close(weight.grad, torch.zeros_like(weight), 0)
    assert len(sites.coarser) == 0
    assert sites.neighbours.shape == (0, 27)
    rows, weights = sites.interpolation(sites.coarser, 2)
    assert rows.shape == weights.shape == (0, 8)


@pytest.mark.parametrize("share", [0.1, 0.8, 1.0])
def test_results_are_the_same_bits_again_where_algorithms_must_be_deterministic(share):
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            sites = some_sites(share, size=(16, 15, 14))
            for kind in KINDS:
                case = *inputs(kind, sites, 16, 24, torch.float32), sites
                runs.append(gradients(getattr(ENGINES["auto"], kind), *case))
    finally:
        torch.use_deterministic_algorithms(False)
    for first, second in zip(runs[:3], runs[3:], strict=True):
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["gather", "dense"])
@pytest.mark.parametrize("share", [0.1, 0.8])
def test_autocast_computes_in_its_type_and_gradients_keep_theirs(name, share):
    sites = some_sites(share)
    for kind in KINDS:
        features, weight = inputs(kind, sites, dtype=torch.float32)
        function = getattr(ENGINES[name], kind)
        expected = gradients(function, features, weight, sites)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = gradients(function, features, weight, sites)
        assert found[0].dtype == torch.bfloat16
        assert found[1].dtype == found[2].dtype == torch.float32
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours.float(), theirs, 0.03 * theirs.abs().max().item())


def test_neighbours_pairs_and_fill_are_what_lookups_say():
    sites = some_sites(0.5)
    steps = torch.tensor([[0, *offset] for offset in OFFSETS])
    around = sites.batch_xyz[:, None] + steps
    expected = sites.lookup(around.reshape(-1, 4)).reshape(-1, 27)
    assert torch.equal(sites.neighbours.long(), expected)
    for number, (rows_in, rows_out) in enumerate(sites.pairs):
        has = expected[:, number] >= 0
        assert set(rows_out.tolist()) == set(has.nonzero().squeeze(1).tolist())
        assert torch.equal(expected[rows_out, number], rows_in)
        assert len(rows_out) == has.sum()
    assert sites.pairs[CENTRE][0].tolist() == list(range(len(sites)))
    assert sites.fill == pytest.approx((expected >= 0).double().mean().item())


def test_lookups_find_rows_and_nothing_else():
    sites = some_sites(0.3)
    row_of = {tuple(voxel): row for row, voxel in enumerate(sites.batch_xyz.tolist())}
    axes = (range(-1, 4), range(-7, 6), range(-4, 7), range(-2, 10))
    queries = list(itertools.product(*axes))
    queries += [(0, 2**16 - 5, 0, 0), (0, 0, 2**40, 0), (2**20, 0, 0, 0)]
    found = sites.lookup(torch.tensor(queries))
    assert found.tolist() == [row_of.get(query, -1) for query in queries]


def test_coordinates_at_their_limits_have_no_neighbours_around_the_corner():
    corners = itertools.product((0, MOST_BATCH), *[(-MOST, MOST)] * 3)
    sites = Sites(torch.tensor(list(corners)))
    alone = torch.arange(27) == CENTRE
    assert torch.equal(sites.neighbours >= 0, alone.expand(16, -1))
    assert torch.equal(sites.lookup(sites.batch_xyz), torch.arange(16))
    beyond = sites.batch_xyz + torch.tensor([0, 0, 0, 3])
    assert (sites.lookup(beyond) == -1).all()


@pytest.mark.parametrize(
    "voxels",
    [
        [[0, 1, 2, 3], [1, 1, 2, 3], [0, 1, 2, 3]],
        [[0, MOST + 1, 0, 0]],
        [[0, 0, 0, -MOST - 1]],
        [[-1, 0, 0, 0]],
        [[MOST_BATCH + 1, 0, 0, 0]],
    ],
)
def test_voxels_that_repeat_or_are_out_of_range_are_refused(voxels):
    with pytest.raises(ValueError, match=r"unique voxels"):
        Sites(torch.tensor(voxels))


def test_every_voxel_is_the_child_of_its_parent():
    sites = some_sites(0.3)
    coarser, parent, child = sites.coarser, sites.parent, sites.child
    twice = coarser.batch_xyz[parent] * torch.tensor([1, 2, 2, 2])
    digits = torch.stack([child * 0, child // 4, child // 2 % 2, child % 2], 1)
    assert torch.equal(twice + digits, sites.batch_xyz)
    assert torch.equal(parent.unique(), torch.arange(len(coarser)))


@pytest.mark.parametrize("factor", [2, 4])
def test_interpolation_reproduces_affine_functions_between_coarse_centres(factor):
    coarse = some_sites(1.0, size=(5, 4, 6), lower=(-3, -1, 0))
    fine = some_sites(0.7, size=(8, 5, 8), lower=(-7, -3, 1))
    slope = torch.tensor([0.0, 2.0, -3.0, 0.5])
    values = coarse.batch_xyz.double() * torch.tensor([1, factor, factor, factor])
    values = values @ slope.double() + 7 * coarse.batch_xyz[:, 0]
    rows, weights = fine.interpolation(coarse, factor)
    # Coarse voxel I lies where fine voxel I * factor lies.
    expected = fine.batch_xyz.double() @ slope.double() + 7 * fine.batch_xyz[:, 0]
    lower = torch.tensor([-3, -1, 0]) * factor
    inside = (fine.batch_xyz[:, 1:] >= lower).all(1)
    assert inside.sum() > 100
    found = (values[rows] * weights.double()).sum(1)
    assert_close(found[inside], expected[inside])
    assert_close(weights.sum(1), torch.ones(len(fine)), 1e-6)


def test_missing_corners_give_their_weight_to_the_others():
    # Three quarters of the way from coarse voxel 0 to 1 along x, at a quarter in y.
    fine = Sites(torch.tensor([[0, 3, 1, 0], [0, 40, 0, 0], [1, 3, 1, 0]]))
    coarse = Sites(torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]]))
    rows, weights = fine.interpolation(coarse, 4)
    total = torch.zeros(3, 3).scatter_add(1, rows, weights)
    expected = torch.tensor([[3 / 16, 9 / 16, 3 / 16], [0, 0, 0], [0, 0, 0]]) / (
        15 / 16
    )
    assert_close(total, expected, 1e-7)


def test_maps_are_made_once():
    sites = some_sites()
    assert sites.coarser is sites.coarser
    assert sites.neighbours is sites.neighbours
    assert sites.pairs is sites.pairs
    first, second = (sites.interpolation(sites.coarser, 2) for _ in range(2))
    assert first[0] is second[0]


def test_a_box_that_no_memory_holds_is_refused_by_the_dense_engine():
    sites = Sites(torch.tensor([[0, 0, 0, 0], [0, 9000, 9000, 9000]]))
    features, weight = inputs("submanifold", sites)
    with pytest.raises(ValueError, match=r"remedy: the gather engine"):
        dense.submanifold(features, weight, sites)
    # Batches that lie far apart share no box.
    apart = Sites(torch.tensor([[0, 0, 0, 0], [1, 9000, 9000, 9000]]))
    result = dense.submanifold(features, weight, apart)
    assert_close(result, features @ weight[13])


def test_engines_that_cannot_run_are_refused_with_a_remedy(monkeypatch):
    with pytest.raises(BadInput, match=r"expected one of auto.*found sparse_conv"):
        engine("sparse_conv", "cpu")
    with pytest.raises(BadInput, match=r"CUDA device.*found device cpu.*remedy"):
        engine("implicit", "cpu")
    monkeypatch.setitem(sys.modules, "torchsparse", None)
    with pytest.raises(BadInput, match=r"torchsparse 2.1.*remedy: sparse_engine: auto"):
        engine("torchsparse", "cpu")


def test_the_default_gathers_except_from_full_boxes(monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(gather, "submanifold", refuse)
    for share, is_full in ((1.0, True), (0.95, True), (0.5, False)):
        sites = some_sites(share)
        features, weight = inputs("submanifold", sites)
        if is_full:
            engine("auto", "cpu").submanifold(features, weight, sites)
        else:
            with pytest.raises(AssertionError):
                engine("auto", "cpu").submanifold(features, weight, sites)


INTERPRETED = """
import sys
import torch
from gnesf_core.sparse import implicit
from gnesf_core.sparse.engine import engine
from gnesf_core.sparse.sites import Sites

implicit._PART_ROWS = 64  # so that some gradients are sums of parts
results = []
for voxels, features, weight, mix in torch.load(sys.argv[1], weights_only=True):
    sites = Sites(voxels)
    out = engine("implicit", "cpu").submanifold(features, weight, sites)
    results.append([out, *torch.autograd.grad(out, (features, weight), mix)])
torch.save(results, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
def test_the_implicit_kernels_agree_with_the_truth_where_they_are_interpreted(tmp_path):
    cases, expected = [], []
    # One block of sites, and two with several blocks of channels.
    for share, cin, cout in ((0.3, 5, 18), (0.9, 66, 7)):
        sites = some_sites(share, size=(5, 3, 3))
        features, weight = inputs("submanifold", sites, cin, cout, torch.float32)
        mix = torch.randn(len(sites), cout, generator=torch.Generator().manual_seed(1))
        truth = gather.submanifold_truth(features, weight, sites)
        expected.append([truth, *torch.autograd.grad(truth, (features, weight), mix)])
        cases.append((sites.batch_xyz, features, weight, mix))
    torch.save(cases, tmp_path / "in.pt")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, "in.pt", "out.pt"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    for ours, theirs in zip(sum(found, []), sum(expected, []), strict=True):
        assert_close(ours, theirs, 1e-5 * max(1, theirs.abs().max().item()))


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
@pytest.mark.parametrize("number", ["fp32", "bf16"])
@pytest.mark.parametrize(("cin", "cout"), [(24, 24), (80, 96)])
def test_the_implicit_kernels_compile_for_a_gpu_that_is_not_here(
    number, cin, cout, tmp_path, monkeypatch
):
    # The interpreter takes much that the compiler refuses.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gnesf_core.sparse import implicit

    constants = {
        "CIN": cin,
        "COUT": cout,
        "ROWS": implicit._ROWS,
        "PART_ROWS": implicit._PART_ROWS,
        "BLOCK_IN": implicit._channels(cin),
        "BLOCK_OUT": implicit._channels(cout),
        "PRECISION": "ieee",
    }
    types = {"neighbours": "*i32", "sums": "*fp32", "size": "i32"}
    types |= dict.fromkeys(constants, "constexpr")
    for kernel in (implicit._product_kernel, implicit._weight_kernel):
        names = kernel.arg_names
        signature = {name: types.get(name, f"*{number}") for name in names}
        values = {name: constants[name] for name in names if name in constants}
        source = ASTSource(kernel, signature, values)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert compiled.asm["cubin"]


@pytest.mark.skipif(
    importlib.util.find_spec("torchsparse") is None, reason="needs torchsparse"
)
@pytest.mark.parametrize("share", [0.1, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_torchsparse_agrees_with_the_truth(share, kind, monkeypatch):
    if not torch.cuda.is_available():  # it asks for the GPU when it is imported
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    torchsparse_engine.check_installed()
    sites = some_sites(share, size=(12, 11, 10))
    case = *inputs(kind, sites, 12, 20, torch.float32), sites
    found = gradients(getattr(torchsparse_engine, kind), *case)
    expected = gradients(getattr(TRUTH, kind), *case)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, 1e-5 * max(1, theirs.abs().max().item()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["auto", "gather", "dense", "implicit"])
@pytest.mark.parametrize("share", [0.1, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_engines_on_the_gpu_agree_with_the_truth(name, share, kind, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    sites = some_sites(share, size=(24, 23, 22))
    there = Sites(sites.batch_xyz.cuda())
    features, weight = inputs(kind, sites, 24, 48, torch.float32)
    expected = gradients(getattr(TRUTH, kind), features, weight, sites)
    case = features.detach().cuda().requires_grad_(), weight.detach().cuda(), there
    case[1].requires_grad_()
    mix = torch.Generator().manual_seed(1)
    mix = torch.randn(expected[0].shape, generator=mix, dtype=torch.float64).float()
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        with torch.autocast("cuda", torch.bfloat16, dtype == torch.bfloat16):
            out = getattr(engine(name, "cuda"), kind)(*case)
        assert out.dtype == dtype
        found = out, *torch.autograd.grad(out, case[:2], mix.cuda().to(dtype))
        for ours, theirs in zip(found, expected, strict=True):
            limit = error * max(1, theirs.abs().max().item())
            assert_close(ours.cpu().float(), theirs, limit)
