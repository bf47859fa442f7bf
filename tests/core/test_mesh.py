"""Surfaces of volumes whose zero level is known."""

import numpy as np
import pytest
from skimage.measure import marching_cubes

from gnesf_core.geometry import tsdf
from gnesf_core.geometry.camera import look_at
from gnesf_core.geometry.grid import Grid
from gnesf_core.geometry.mesh import extract_surface
from gnesf_core.geometry.tsdf import TsdfVolume
from tests import tiny_room

VOXEL_M = 0.05


def triangles(vertices, faces):
    return vertices.astype(np.float64)[faces]


def normals(vertices, faces):
    a, b, c = np.moveaxis(triangles(vertices, faces), 1, 0)
    return np.cross(b - a, c - a)


def edges(faces):
    return np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)


def sphere(radius=0.7, centre=(1.0, -2.0, 0.5)):
    grid = Grid(np.array(centre) - 1.0, VOXEL_M, (41, 40, 42))
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    points = grid.origin_world + VOXEL_M * indices
    sdf = np.linalg.norm(points - centre, axis=-1) - radius
    return grid, np.clip(sdf / 0.15, -1, 1).astype(np.float32)


def observed(values):
    """Weights as fusion leaves them: nothing is known deep behind the surface."""
    return (values > -1).astype(np.uint16)


def test_a_sphere_has_its_radius_area_and_topology():
    grid, values = sphere()
    vertices, faces = extract_surface(values, observed(values), grid)
    assert vertices.dtype == np.float32 and faces.dtype == np.int32
    radii = np.linalg.norm(vertices - [1.0, -2.0, 0.5], axis=1)
    # Linear interpolation in a cell of size h errs by at most about h^2 / 8r.
    assert np.abs(radii - 0.7).max() < 2 * VOXEL_M**2 / (8 * 0.7)
    area = np.linalg.norm(normals(vertices, faces), axis=1).sum() / 2
    assert area == pytest.approx(4 * np.pi * 0.7**2, rel=0.01)
    unique, counts = np.unique(edges(faces), axis=0, return_counts=True)
    assert (counts == 2).all()  # closed
    assert len(vertices) - len(unique) + len(faces) == 2


def test_triangles_face_free_space():
    grid, values = sphere()
    vertices, faces = extract_surface(values, observed(values), grid)
    outward = triangles(vertices, faces).mean(1) - [1.0, -2.0, 0.5]
    assert ((normals(vertices, faces) * outward).sum(1) > 0).all()


def test_exactly_the_cells_with_eight_observed_corners_are_used():
    rng = np.random.default_rng(0)
    values = rng.uniform(-0.9, 0.9, (7, 8, 9)).astype(np.float32)
    weight = (rng.uniform(size=values.shape) < 0.9).astype(np.uint16)
    grid = Grid(np.zeros(3), 1.0, values.shape)
    vertices, faces = extract_surface(values, weight, grid)
    found = np.floor(triangles(vertices, faces).mean(1)).astype(int)
    used = np.zeros(np.array(values.shape) - 1, bool)
    used[tuple(found.T)] = True
    for i, j, k in np.ndindex(*used.shape):
        corner = (slice(i, i + 2), slice(j, j + 2), slice(k, k + 2))
        crossed = values[corner].min() < 0 <= values[corner].max()
        assert used[i, j, k] == (crossed and weight[corner].all())


def test_a_fully_observed_volume_gives_what_marching_cubes_gives():
    rng = np.random.default_rng(1)
    values = rng.uniform(-0.9, 0.9, (6, 6, 6)).astype(np.float32)
    grid = Grid(np.zeros(3), 1.0, values.shape)
    vertices, faces = extract_surface(values, np.ones_like(values), grid)
    expected, expected_faces, _, _ = marching_cubes(values, 0.0)
    assert len(faces) == len(expected_faces)
    order = np.lexsort(vertices.T), np.lexsort(expected.T)
    np.testing.assert_allclose(vertices[order[0]], expected[order[1]], atol=1e-6)


@pytest.mark.parametrize("value", [1.0, -0.5])
def test_no_surface_is_an_empty_mesh(value):
    grid = Grid(np.zeros(3), 0.1, (4, 5, 6))
    values = np.full(grid.shape, value, np.float32)
    for weight in (np.ones_like(values), np.zeros_like(values)):
        vertices, faces = extract_surface(values, weight, grid)
        assert vertices.shape == (0, 3) and faces.shape == (0, 3)
        assert vertices.dtype == np.float32 and faces.dtype == np.int32


@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 1, 1), (1, 1, 1)])
def test_a_volume_without_a_single_cell_is_an_empty_mesh(shape):
    values = np.linspace(-0.5, 0.5, np.prod(shape)).reshape(shape).astype(np.float32)
    grid = Grid(np.zeros(3), 0.1, shape)
    assert len(extract_surface(values, np.ones_like(values), grid)[1]) == 0


@pytest.mark.parametrize("seed", range(5))
def test_no_triangle_is_degenerate_even_where_values_are_exactly_zero(seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.uniform(-0.9, 0.9, (10, 11, 12)), 1).astype(np.float32)
    values += 0.0  # no negative zeros
    assert (values == 0).sum() > 20
    grid = Grid(np.zeros(3), 1.0, values.shape)
    vertices, faces = extract_surface(values, np.ones_like(values), grid)
    lengths = np.linalg.norm(np.diff(vertices[edges(faces)], axis=1), axis=-1)
    assert lengths.min() > 0
    assert len(np.unique(faces)) == len(vertices)


def distance_to_room(points):
    to_walls = np.minimum(points - tiny_room.LOW, tiny_room.HIGH - points)
    beyond = np.linalg.norm(np.maximum(-to_walls, 0), axis=1)
    walls = np.where(beyond > 0, beyond, np.abs(to_walls.min(1)))
    low, high = tiny_room.BLOCK_LOW, tiny_room.BLOCK_HIGH
    gap = np.maximum(low - points, points - high)
    outside = np.linalg.norm(np.maximum(gap, 0), axis=1)
    block = np.where(outside > 0, outside, np.abs(gap.max(1)))
    return np.minimum(walls, block)


def fused_room(poses, size=(320, 240)):
    depth = np.stack([tiny_room.cast(pose, size)[0] for pose in poses])
    low, high = tiny_room.LOW - 0.3, tiny_room.HIGH + 0.3
    shape = tuple(int(n) for n in np.ceil((high - low) / VOXEL_M))
    volume = TsdfVolume.empty(Grid(low, VOXEL_M, shape), 3 * VOXEL_M)
    intrinsics = tiny_room.intrinsics(size)
    tsdf.fuse([volume], depth.astype(np.float32), intrinsics, poses, 6.0)
    return volume


def surface_of(volume):
    return extract_surface(volume.arrays()[0], volume.arrays()[1], volume.grid)


# One view of the block leaves a shadow on every side; all around there are none.
VIEWS = {
    "level": look_at((0.8, 1.0, 0.6), (3.5, 3.0, 0.6))[None],
    "down": look_at((2.9, 2.9, 2.3), (2.3, 2.2, 0))[None],
    "around": tiny_room.camera_path(24),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_fused_room_is_one_layer_near_the_true_surface(name):
    vertices, faces = surface_of(fused_room(VIEWS[name]))
    assert len(vertices) > 1000
    distance = distance_to_room(vertices.astype(np.float64))
    assert np.mean(distance > VOXEL_M) < 0.002
    assert distance.max() < 3 * VOXEL_M
    # Of a single layer no edge has more than two triangles.
    _, counts = np.unique(edges(faces), axis=0, return_counts=True)
    assert counts.max() <= 2


def test_a_fused_room_has_no_second_layer_behind_its_walls():
    vertices, faces = surface_of(fused_room(VIEWS["around"]))
    centres = triangles(vertices, faces).mean(1)
    areas = np.linalg.norm(normals(vertices, faces), axis=1) / 2
    # The wall at the highest x, away from its edges, seen through a hole of 1 m2.
    low, high = [3.9, 1.5, 0.7], [4.4, 2.5, 1.7]
    window = ((centres > low) & (centres < high)).all(1)
    assert areas[window].sum() == pytest.approx(1.0, rel=0.03)
    inward = normals(vertices, faces)[window][:, 0]
    assert (inward < 0).all()


@pytest.mark.parametrize("beside", [False, True])
def test_a_plane_exactly_on_a_layer_of_voxels_is_found(beside):
    # A level camera, depth in whole millimetres, 4 cm voxels: values are exactly 0.
    grid = Grid(np.array([-0.4, 0.0, -0.4]), 0.04, (21, 70, 21))
    volume = TsdfVolume.empty(grid, 0.12)
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    intrinsics = np.array([[60.0, 0, 31.5], [0, 60.0, 31.5], [0, 0, 1]])
    depth = np.full((1, 64, 64), 2.0, np.float32)
    if beside:
        depth[..., 32:] = 1.83
    tsdf.fuse([volume], depth, intrinsics, pose[None], 3.0)
    assert (volume.tsdf == 0).any()
    vertices, faces = surface_of(volume)
    far = vertices[:, 1] > 1.92
    np.testing.assert_allclose(vertices[far, 1], 2.0, atol=1e-3)
    assert far.sum() > (100 if beside else 300) and len(faces) > 0
