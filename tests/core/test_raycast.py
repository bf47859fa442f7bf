"""Rays against closed forms, brute force, and the other engine."""

import numpy as np
import pytest
import torch

from gnesf_core.geometry import raycast_torch
from gnesf_core.geometry.raycast import make_caster

ENGINES = ["open3d", "torch"]


def _box(low, high):
    corners = np.array(
        [[(low, high)[i >> k & 1][k] for k in range(3)] for i in range(8)], float
    )
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1)]
    quads += [(2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return corners, np.array(triangles)


def _sphere(radius, rows, columns):
    theta = np.linspace(0, np.pi, rows + 1)
    phi = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    grid = np.stack(
        np.broadcast_arrays(
            np.sin(theta)[:, None] * np.cos(phi),
            np.sin(theta)[:, None] * np.sin(phi),
            np.cos(theta)[:, None],
        ),
        -1,
    )
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = a + columns, b + columns
    faces = np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)])
    return radius * grid.reshape(-1, 3), faces.reshape(-1, 3)


def _soup(rng, count):
    centre = rng.uniform(-2, 2, (count, 1, 3))
    vertices = (centre + rng.normal(0, 0.3, (count, 3, 3))).reshape(-1, 3)
    return vertices, np.arange(3 * count).reshape(-1, 3)


def _camera_rays(rng, height, width):
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    focal = 0.9 * width
    rays = np.stack(
        [(u - width / 2) / focal, (v - height / 2) / focal, np.ones(u.shape)], -1
    )
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return rays @ (rotation * np.linalg.det(rotation)).T


def _brute_force(vertices, triangles, origin, rays):
    """Moeller and Trumbore in double precision, every ray against every triangle."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    e1, e2, s = b - a, c - a, origin - a
    p = np.cross(rays[:, None], e2)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / (p * e1).sum(-1)
        u = (p * s).sum(-1) * inverse
        q = np.cross(s, e1)
        v = (rays @ q.T) * inverse
        t = (q * e2).sum(-1) * inverse
    margin = np.minimum(np.minimum(u, v), 1 - u - v)
    t = np.where((margin >= 0) & (t > 0), t, np.inf)
    best = t.argmin(1)
    return np.where(np.isfinite(t.min(1)), best, -1), t.min(1), np.abs(margin).min(1)


@pytest.mark.parametrize("engine", ENGINES)
def test_depth_of_a_wall_is_its_distance_along_the_axis(engine):
    vertices = np.array([[-9, -9, 3], [9, -9, 3], [9, 9, 3], [-9, 9, 3]], float)
    caster = make_caster(vertices, np.array([[0, 1, 2], [0, 2, 3]]), engine)
    rays = _camera_rays(np.random.default_rng(0), 7, 9)
    rays = np.concatenate([rays[..., :2] * 0.1, np.ones((7, 9, 1))], -1)
    triangle, t = caster.cast(np.array([0.5, -0.25, 1.0]), rays)
    assert triangle.shape == t.shape == (7, 9)
    assert triangle.dtype == np.int64 and t.dtype == np.float64
    np.testing.assert_allclose(t, 2.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_rays_inside_a_box_meet_the_side_that_the_slab_formula_names(engine):
    low, high = np.array([-1.0, -2.0, -3.0]), np.array([4.0, 3.0, 1.5])
    caster = make_caster(*_box(low, high), engine)
    rng = np.random.default_rng(1)
    rays = rng.normal(size=(3000, 3))
    origin = np.array([0.3, 0.4, 0.2])
    _, t = caster.cast(origin, rays)
    slabs = np.maximum((low - origin) / rays, (high - origin) / rays)
    np.testing.assert_allclose(t, slabs.min(1), rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_ray_slips_out_of_a_closed_mesh(engine):
    caster = make_caster(*_sphere(1.0, 40, 80), engine)
    rays = _camera_rays(np.random.default_rng(2), 200, 260)
    triangle, t = caster.cast(
        np.zeros(3), rays / np.linalg.norm(rays, axis=-1)[..., None]
    )
    assert (triangle >= 0).all()
    assert (t <= 1 + 1e-9).all() and (t > 0.996).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sphere_is_hit_where_the_quadratic_formula_says(engine):
    caster = make_caster(*_sphere(1.0, 100, 200), engine)
    origin = np.array([3.0, 0.2, -0.1])
    rng = np.random.default_rng(3)
    rays = np.array([-1.0, 0, 0]) + rng.uniform(-0.5, 0.5, (2000, 3))
    triangle, t = caster.cast(origin, rays)
    a, b, c = (rays**2).sum(1), rays @ origin, origin @ origin - 1
    root = b * b - a * c
    clear = np.abs(root) > 0.05
    assert ((triangle >= 0) == (root > 0))[clear].all()
    hit = clear & (root > 0)
    expected = (-b[hit] - np.sqrt(root[hit])) / a[hit]
    np.testing.assert_allclose(t[hit], expected, atol=2e-3)
    assert np.isinf(t[triangle < 0]).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_triangle_soup_agrees_with_brute_force(engine):
    rng = np.random.default_rng(4)
    vertices, triangles = _soup(rng, 400)
    caster = make_caster(vertices, triangles, engine)
    for image in (True, False):
        rays = _camera_rays(rng, 37, 53) if image else rng.normal(size=(1000, 3))
        origin = rng.uniform(-0.5, 0.5, 3)
        triangle, t = caster.cast(origin, rays)
        flat = rays.reshape(-1, 3)
        want, want_t, margin = _brute_force(vertices, triangles, origin, flat)
        clear = margin > 1e-5
        assert clear.mean() > 0.97 and (want >= 0).mean() > 0.5
        np.testing.assert_array_equal(triangle.ravel()[clear], want[clear])
        np.testing.assert_allclose(t.ravel()[clear], want_t[clear], rtol=1e-9)


def test_engines_agree_far_from_the_origin():
    rng = np.random.default_rng(5)
    vertices, triangles = _soup(rng, 3000)
    rays = _camera_rays(rng, 120, 160)
    offset = np.array([500.0, -300.0, 20.0])
    answers = [
        make_caster(vertices + offset, triangles, engine).cast(offset, rays)
        for engine in ENGINES
    ]
    same = answers[0][0] == answers[1][0]
    assert (~same).mean() < 1e-3
    np.testing.assert_array_equal(answers[0][1][same], answers[1][1][same])


def test_engines_agree_on_a_large_mesh_whose_triangles_share_edges():
    vertices, triangles = _sphere(2.0, 300, 500)
    rays = _camera_rays(np.random.default_rng(6), 60, 80)
    origin = np.array([0.3, 0.2, 0.1])
    (id_a, t_a), (id_b, t_b) = (
        make_caster(vertices, triangles, engine).cast(origin, rays)
        for engine in ENGINES
    )
    assert len(triangles) == 300_000
    assert (id_a != id_b).mean() < 1e-3
    np.testing.assert_allclose(t_a, t_b, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_both_sides_are_hit_and_nothing_behind_the_origin(engine):
    vertices, triangles = _box(np.zeros(3), np.ones(3))
    flipped = triangles[:, ::-1]
    origin = np.array([-2, 0.3, 0.3])
    rays = np.array([[1.0, 0.1, 0.05], [-1.0, 0.1, 0.05]])
    for faces in (triangles, flipped):
        triangle, t = make_caster(vertices, faces, engine).cast(origin, rays)
        assert t[0] == pytest.approx(2.0) and triangle[0] >= 0
        assert np.isinf(t[1]) and triangle[1] == -1


@pytest.mark.parametrize("engine", ENGINES)
def test_empty_meshes_and_empty_bundles_are_answered(engine):
    nothing = make_caster(np.zeros((0, 3)), np.zeros((0, 3), int), engine)
    triangle, t = nothing.cast(np.zeros(3), np.ones((2, 3, 3)))
    assert (triangle == -1).all() and np.isinf(t).all() and t.shape == (2, 3)
    triangle, t = make_caster(*_box((0, 0, 0), (1, 1, 1)), engine).cast(
        np.zeros(3), np.zeros((0, 3))
    )
    assert triangle.shape == t.shape == (0,)


def test_a_mesh_larger_than_the_budget_is_taken_in_parts(monkeypatch):
    rng = np.random.default_rng(7)
    vertices, triangles = _soup(rng, 500)
    rays = rng.normal(size=(300, 3))
    caster = make_caster(vertices, triangles, "torch")
    whole = caster.cast(np.zeros(3), rays)
    monkeypatch.setattr(raycast_torch, "BUDGET_BYTES", 2**20)
    parts = caster.cast(np.zeros(3), rays)
    np.testing.assert_array_equal(whole[0], parts[0])


def test_tensors_are_answered_with_tensors():
    caster = make_caster(*_box((-1, -1, -1), (1, 1, 1)))
    triangle, t = caster.cast(np.zeros(3), torch.eye(3, dtype=torch.float64))
    assert isinstance(triangle, torch.Tensor) and isinstance(t, torch.Tensor)
    torch.testing.assert_close(t, torch.ones(3, dtype=torch.float64))


def test_unknown_engines_are_refused():
    with pytest.raises(ValueError, match="embree"):
        make_caster(np.zeros((0, 3)), np.zeros((0, 3), int), "embree")


def test_a_shelf_seen_from_its_edge_does_not_hide_the_wall_behind():
    rng = np.random.default_rng(0)
    quad = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    shelf = np.column_stack([quad * 0.5 - [0.25, -1], np.zeros(4)])
    wall = np.column_stack([quad[:, 0] * 8 - 4, np.full(4, 3.0), quad[:, 1] * 8 - 4])
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    v, u = np.mgrid[-8:9, -8:9] / 20
    rays = np.stack([u, np.ones_like(u), v], -1)  # row 8 lies in the shelf's plane
    for _ in range(20):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        vertices = np.concatenate([shelf, wall]) @ turn.T
        caster = make_caster(vertices, triangles, "torch")
        hit, _ = caster.cast(np.zeros(3), rays @ turn.T)
        assert (hit >= 0).all()
