"""Back-projection against closed forms and brute force; its twins against the truth."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from gnesf_core.geometry.camera import invert_rigid, look_at
from gnesf_core.ops import back_projection, back_projection_numba
from gnesf_core.ops.back_projection import (
    back_project,
    back_project_truth,
    mean_depth,
)

BOTH = pytest.mark.parametrize(
    "project", [back_project_truth, back_projection_numba.back_project]
)
NEEDS_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton"
)


def scene(views=4, channels=5, size=(9, 12), points=200, seed=0, dtype=torch.float64):
    """Maps, points and cameras: some points are seen by all, some by none."""
    rng = np.random.default_rng(seed)
    height, width = size
    intrinsics = np.array(
        [[0.8 * width, 0, (width - 1) / 2], [0, 0.8 * width, (height - 1) / 2]]
    )
    intrinsics = np.concatenate([intrinsics, [[0, 0, 1]]])
    matrices = []
    for _ in range(views):
        eye = rng.normal(size=3)
        eye *= 2 / np.linalg.norm(eye)
        pose = look_at(eye, rng.uniform(-0.3, 0.3, 3))
        matrices.append(intrinsics @ invert_rigid(pose)[:3])
    features = rng.normal(size=(views, channels, height, width))
    arrays = features, rng.uniform(-2, 2, (points, 3)), np.stack(matrices)
    return tuple(torch.tensor(array, dtype=dtype) for array in arrays)


def pixels(points, matrix):
    """Return u, v and depth of each point in float64."""
    projected = points.double().numpy() @ matrix[:, :3].double().numpy().T
    projected += matrix[:, 3].double().numpy()
    return *(projected[:, :2] / projected[:, 2:]).T, projected[:, 2]


def is_clear(points, matrices, size, margin=1e-3):
    """Tell which points are not close to the edge of any view."""
    clear = np.ones(len(points), bool)
    for matrix in matrices:
        u, v, depth = pixels(points, matrix)
        for value in (u, v, u - size[1] + 1, v - size[0] + 1, depth):
            clear &= abs(value) > margin
    return torch.from_numpy(clear)


def gradient_of(project, features, points, matrices, seed=0):
    """Return the gradient of a random mixture of means and variances."""
    features = features.detach().clone().requires_grad_()
    result = project(features, points, matrices)
    mix = torch.Generator().manual_seed(seed)
    weights = [
        torch.randn(result.mean.shape, generator=mix, dtype=torch.float64)
        .to(result.mean)
        for _ in range(2)
    ]  # fmt: skip
    loss = (weights[0] * result.mean).sum() + (weights[1] * result.variance).sum()
    (gradient,) = torch.autograd.grad(loss, features)
    return gradient


@BOTH
def test_means_of_affine_maps_are_the_maps_where_the_points_are(project):
    features, points, matrices = scene(views=3, channels=2)
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    for view in range(3):
        features[view, 0] = 3 * columns - 2 * rows + view
        features[view, 1] = 0.5 * columns + 7
    expected = [[] for _ in points]
    for view, matrix in enumerate(matrices):
        for n, (u, v, depth) in enumerate(zip(*pixels(points, matrix), strict=True)):
            if depth > 0 and 0 <= u <= 11 and 0 <= v <= 8:
                expected[n].append([3 * u - 2 * v + view, 0.5 * u + 7])
    result = project(features, points, matrices)
    assert result.count.tolist() == [len(values) for values in expected]
    assert set(result.count.tolist()) == {0, 1, 2, 3}
    for n, values in enumerate(expected):
        mean = np.mean(values, 0) if values else np.zeros(2)
        variance = np.var(values, 0) if values else np.zeros(2)
        np.testing.assert_allclose(result.mean[n], mean, atol=1e-10)
        np.testing.assert_allclose(result.variance[n], variance, atol=1e-10)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_plain_loops_over_points_views_and_pixels_agree(project, seed):
    features, points, matrices = scene(views=3, size=(4, 5), points=60, seed=seed)
    result = project(features, points, matrices)
    for n, point in enumerate(points.tolist()):
        seen = []
        for image, matrix in zip(features.tolist(), matrices.tolist(), strict=True):
            uz, vz, z = (
                sum(m * p for m, p in zip(row, [*point, 1.0], strict=True))
                for row in matrix
            )
            if z <= 0 or not (0 <= uz / z <= 4 and 0 <= vz / z <= 3):
                continue
            # Every pixel weighs in with what a tent of radius 1 gives it.
            seen.append(
                [
                    sum(
                        channel[row][column]
                        * max(0.0, 1 - abs(uz / z - column))
                        * max(0.0, 1 - abs(vz / z - row))
                        for row in range(4)
                        for column in range(5)
                    )
                    for channel in image
                ]
            )
        assert result.count[n] == len(seen)
        for k in range(5):
            values = [sample[k] for sample in seen] or [0.0]
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
            assert result.mean[n, k].item() == pytest.approx(mean, abs=1e-12)
            assert result.variance[n, k].item() == pytest.approx(variance, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_depth_is_the_mean_of_those_who_see_a_point(seed):
    features, points, matrices = scene(views=3, size=(4, 5), points=60, seed=seed)
    found = mean_depth((4, 5), points, matrices)
    counts = back_project_truth(features, points, matrices).count
    assert set(counts.tolist()) >= {0, 1, 2}
    for n, point in enumerate(points.numpy()):
        projected = matrices.numpy() @ np.append(point, 1)
        u, v = (projected[:, :2] / projected[:, 2:]).T
        seen = (projected[:, 2] > 0) & (u >= 0) & (u <= 4) & (v >= 0) & (v <= 3)
        assert seen.sum() == counts[n]
        expected = projected[seen, 2].mean() if seen.any() else 0
        assert float(found[n]) == pytest.approx(expected, abs=1e-12)


@BOTH
def test_grid_sample_over_the_views_that_see_a_point_agrees(project):
    # The way of NeuralRecon: normalised coordinates, corners aligned, zeros outside.
    features, points, matrices = scene(views=6, points=2000)
    grid, seen = [], []
    for matrix in matrices:
        u, v, depth = pixels(points, matrix)
        grid.append(np.stack([2 * u / 11 - 1, 2 * v / 8 - 1], -1))
        seen.append((abs(grid[-1]) <= 1).all(1) & (depth > 0))
    grid, seen = torch.tensor(np.stack(grid)), torch.tensor(np.stack(seen))
    samples = grid_sample(features, grid[:, None], align_corners=True)[:, :, 0]
    samples = samples.masked_fill(~seen[:, None], 0)
    count = seen.sum(0)
    mean = samples.sum(0) / count.clamp(min=1)
    clear = is_clear(points, matrices, (9, 12), 1e-4)
    result = project(features, points, matrices)
    assert clear.sum() > 1500
    assert torch.equal(result.count[clear], count[clear])
    torch.testing.assert_close(result.mean[clear], mean.T[clear])


@BOTH
def test_one_view_varies_not_at_all(project):
    result = project(*scene(views=1, points=500, dtype=torch.float32))
    assert (result.count == 1).sum() > 20
    assert (result.variance == 0).all()


@BOTH
def test_the_order_of_the_views_does_not_matter(project):
    features, points, matrices = scene()
    result = project(features, points, matrices)
    other = project(features.flip(0), points, matrices.flip(0))
    for one, two in zip(result, other, strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=0)


@BOTH
@pytest.mark.parametrize(
    "point",
    [(1, 1, 0), (0, 0, 0), (-1, -1, -1), (0.5, 0.5, np.nan), (np.inf, 0, 1)],
    ids=["beside", "camera centre", "behind", "nowhere", "far away"],
)
def test_a_point_that_no_view_sees_has_zeros(project, point):
    features = torch.ones(2, 3, 4, 5)
    matrices = torch.eye(3, 4).expand(2, 3, 4)
    points = torch.tensor([point, (1, 1, 1)], dtype=torch.float32)
    result = project(features, points, matrices)
    assert result.count.tolist() == [0, 2]
    assert result.mean.tolist() == [[0] * 3, [1] * 3]
    assert (result.variance == 0).all()


@BOTH
@pytest.mark.parametrize("size", [(4, 5), (1, 1)], ids=str)
def test_views_end_at_the_centres_of_their_outermost_pixels(project, size):
    height, width = size
    features = torch.arange(height * width, dtype=torch.float32) + 1
    features = features.reshape(1, 1, height, width)
    # The camera looks along z with pixels of 1 m at 1 m: u = x / z, v = y / z.
    corners = [(u, v) for v in (0, height - 1) for u in (0, width - 1)]
    beyond = [
        (np.nextafter(np.float32(0), np.float32(-1)), 0),
        (0, np.nextafter(np.float32(0), np.float32(-1))),
        (np.nextafter(np.float32(width - 1), np.float32(99)), 0),
        (0, np.nextafter(np.float32(height - 1), np.float32(99))),
    ]
    points = torch.tensor([(*uv, 1.0) for uv in corners + beyond])
    result = project(features, points, torch.eye(3, 4)[None])
    assert result.count.tolist() == [1] * 4 + [0] * 4
    expected = [features[0, 0, v, u].item() for u, v in corners] + [0] * 4
    assert result.mean[:, 0].tolist() == expected


@BOTH
def test_small_variances_of_large_values_survive(project):
    rng = np.random.default_rng(0)
    # In float32 the mean of squares minus the square of the mean is lost here.
    features = torch.tensor(rng.normal(1e3, 1e-3, (9, 8, 6, 7)), dtype=torch.float32)
    columns, rows = torch.meshgrid(torch.arange(7.0), torch.arange(6.0), indexing="ij")
    points = torch.stack([columns, rows, torch.ones_like(rows)], -1).reshape(-1, 3)
    result = project(features, points, torch.eye(3, 4).expand(9, 3, 4))
    exact = features.double().permute(0, 3, 2, 1).reshape(9, 42, 8)
    torch.testing.assert_close(
        result.variance.double(), exact.var(0, correction=0), rtol=0.05, atol=1e-8
    )
    torch.testing.assert_close(result.mean.double(), exact.mean(0), rtol=3e-7, atol=0)


@BOTH
def test_gradients_are_those_of_finite_differences(project):
    features, points, matrices = scene(views=3, channels=2, size=(3, 4), points=40)
    features.requires_grad_()
    assert project(features, points, matrices).count.max() == 3
    assert torch.autograd.gradcheck(
        lambda maps: project(maps, points, matrices)[:2], features
    )


@BOTH
def test_points_and_cameras_get_no_gradient(project):
    inputs = [tensor.requires_grad_() for tensor in scene()]
    gradients = torch.autograd.grad(
        project(*inputs).mean.sum(), inputs, allow_unused=True
    )
    assert gradients[0] is not None
    assert gradients[1] is None and gradients[2] is None


@BOTH
def test_a_volume_without_points_is_empty(project):
    features, points, matrices = scene()
    gradient = gradient_of(project, features, points[:0], matrices)
    assert project(features, points[:0], matrices).mean.shape == (0, 5)
    assert (gradient == 0).all()


@pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-10), ("float32", 2e-4)])
@pytest.mark.parametrize(
    ("channels", "points"), [(1, 63), (8, 64), (24, 1000), (35, 200)]
)
def test_the_twin_on_the_cpu_agrees_with_the_truth(dtype, error, channels, points):
    inputs = scene(7, channels, (13, 17), points, seed=channels)
    inputs = [tensor.to(getattr(torch, dtype)) for tensor in inputs]
    ours = back_projection_numba.back_project(*inputs)
    truth = back_project_truth(*inputs)
    assert len(truth.count.unique()) > 3
    # Not a matter of tolerance: both round alike.
    assert torch.equal(ours.count, truth.count)
    for one, two in zip(ours, truth, strict=True):
        torch.testing.assert_close(one, two, atol=error, rtol=0)
    torch.testing.assert_close(
        gradient_of(back_projection_numba.back_project, *inputs),
        gradient_of(back_project_truth, *inputs),
        atol=error,
        rtol=0,
    )


def test_the_number_of_threads_does_not_change_a_bit():
    features, points, matrices = scene(5, 24, (30, 40), 3000, dtype=torch.float32)

    def results(threads):
        def project(*inputs):
            return back_projection_numba.back_project(*inputs, threads=threads)

        gradient = gradient_of(project, features, points, matrices)
        return *project(features, points, matrices), gradient

    for other in (2, 3):
        for one, two in zip(results(1), results(other), strict=True):
            assert torch.equal(one, two)


@BOTH
def test_autocast_does_not_reach_the_arithmetic(project):
    inputs = scene(dtype=torch.float32)
    expected, gradient = project(*inputs), gradient_of(project, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        result, other = project(*inputs), gradient_of(project, *inputs)
    assert torch.equal(result.mean, expected.mean)
    assert torch.equal(result.variance, expected.variance)
    assert torch.equal(other, gradient)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_only_how_maps_and_results_are_kept(project, dtype):
    features, points, matrices = scene(dtype=torch.float32)
    features = features.to(dtype)
    result = project(features, points, matrices)
    exact = project(features.float(), points, matrices)
    assert result.mean.dtype == result.variance.dtype == dtype
    assert torch.equal(result.mean, exact.mean.to(dtype))
    assert torch.equal(result.variance, exact.variance.to(dtype))
    assert gradient_of(project, features, points, matrices).dtype == dtype


@BOTH
def test_the_layout_in_memory_does_not_matter(project):
    features, points, matrices = scene()
    expected = project(features, points, matrices)
    result = project(
        features.to(memory_format=torch.channels_last),
        points.T.contiguous().T,
        matrices.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    )
    for one, two in zip(result, expected, strict=True):
        assert torch.equal(one, two)


def test_the_twin_is_taken_where_numba_is_and_else_the_truth(monkeypatch):
    inputs = scene()
    taken = []

    def twin(*arguments):
        taken.append("twin")
        return back_project_truth(*arguments)

    def truth(*arguments):
        taken.append("truth")
        return back_project_truth(*arguments)

    monkeypatch.setattr(back_projection_numba, "back_project", twin)
    monkeypatch.setattr(back_projection, "back_project_truth", truth)
    back_project(*inputs)
    monkeypatch.setitem(sys.modules, "numba", None)
    back_project(*inputs)
    assert taken == ["twin", "truth"]


INTERPRETED = """
import sys
import numpy as np
import torch
from gnesf_core.ops import back_projection_triton

given = np.load(sys.argv[1])
found = {}
for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
    features = torch.from_numpy(given["features"]).to(dtype).requires_grad_()
    points, matrices = (torch.from_numpy(given[n]) for n in ("points", "matrices"))
    result = back_projection_triton.back_project(features, points, matrices)
    weights = [torch.from_numpy(given[n]).to(dtype) for n in ("of_mean", "of_variance")]
    torch.autograd.backward(result[:2], weights)
    for field, value in zip(("mean", "variance", "count"), result):
        found[f"{name}_{field}"] = value.detach().float().numpy()
    found[f"{name}_gradient"] = features.grad.float().numpy()
np.savez(sys.argv[2], **found)
"""


@NEEDS_TRITON
@pytest.mark.slow
def test_the_twin_on_the_gpu_agrees_with_the_truth_when_interpreted(tmp_path):
    # 1024 numbers a program: 5 channels in lanes of 8 make it 128 points.
    inputs = scene(4, 5, points=200, dtype=torch.float32)
    weights = torch.randn(2, 200, 5, generator=torch.Generator().manual_seed(0))
    names = ("features", "points", "matrices", "of_mean", "of_variance")
    arrays = [tensor.numpy() for tensor in (*inputs, *weights)]
    np.savez(tmp_path / "in.npz", **dict(zip(names, arrays, strict=True)))
    # A process of its own: the variable is read when triton is first imported.
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, "in.npz", "out.npz"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz")
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        features = inputs[0].to(dtype, copy=True).requires_grad_()
        truth = back_project_truth(features, *inputs[1:])
        assert len(truth.count.unique()) > 3
        torch.autograd.backward(truth[:2], list(weights.to(dtype)))
        name = str(dtype).removeprefix("torch.")
        np.testing.assert_array_equal(found[f"{name}_count"], truth.count)
        for field, value in (
            ("mean", truth.mean),
            ("variance", truth.variance),
            ("gradient", features.grad),
        ):
            np.testing.assert_allclose(
                found[f"{name}_{field}"],
                value.detach().float().numpy(),
                atol=error * value.abs().max().item(),
                rtol=0,
            )


@NEEDS_TRITON
@pytest.mark.slow
@pytest.mark.parametrize("channels", [24, 80])
def test_the_kernels_compile_for_a_gpu_that_is_not_here(
    channels, tmp_path, monkeypatch
):
    # The interpreter takes much that the compiler refuses.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gnesf_core.ops import back_projection_triton as ours

    lanes = triton.next_power_of_2(channels)
    constants = {"CHANNELS": channels, "LANES": lanes, "BLOCK": 1024 // lanes}
    types = dict.fromkeys(("points", "matrices", "exact_mean", "gradient"), "*fp32")
    types |= dict.fromkeys(("size", "views", "height", "width"), "i32")
    types |= dict.fromkeys(constants, "constexpr") | {"count": "*i64"}
    for kernel in (ours._forward, ours._backward):
        signature = {name: types.get(name, "*bf16") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert compiled.asm["cubin"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("channels", [5, 24, 40, 80])
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_the_twin_on_the_gpu_agrees_with_the_truth(channels, dtype, error):
    features, *others = scene(9, channels, (30, 40), 5000, dtype=torch.float32)
    inputs = [tensor.cuda() for tensor in (features.to(dtype), *others)]
    result, truth = back_project(*inputs), back_project_truth(*inputs)
    assert torch.equal(result.count, truth.count)
    torch.testing.assert_close(result.mean, truth.mean, atol=error, rtol=error)
    torch.testing.assert_close(result.variance, truth.variance, atol=error, rtol=error)
    ours, theirs = (gradient_of(p, *inputs) for p in (back_project, back_project_truth))
    scale = theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, atol=error * scale, rtol=error)
