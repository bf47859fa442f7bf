"""What a field is given: source views, who votes for whom, and the encoding.

Loops over points and views, closed forms, and pictures whose colours are positions.
"""

import itertools

import numpy as np
import pytest
import torch

from gnesf_core.data import store
from gnesf_core.errors import BadInput
from gnesf_core.fields.encoding import (
    Encoding,
    encoding_of,
    no_encoding,
    sample_encoding,
)
from gnesf_core.geometry.camera import look_at
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.rendering.choice import frames_of_kind, nearest_useful, overlap
from gnesf_core.rendering.sources import (
    Pairs,
    Sources,
    covering_uv,
    nearest_pairs,
    pairs_in_view,
    read_sources,
    said_by_prior,
    said_in_color,
    sample_maps,
)
from tests import field_scenes, room_files, tiny_room

CLASSES = len(CLASS_NAMES)
FOCAL, SIZE = 32.0, (41, 31)  # width, height
CENTRE = (20.0, 15.0)


def pinhole_sources(poses, maps=None, size=SIZE, seed=0):
    """Return views of noise with the pinhole above."""
    rng = np.random.default_rng(seed)
    width, height = size
    matrix = np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1]])
    poses = np.stack(poses)
    if maps is None:
        maps = rng.integers(1, 256, (len(poses), CLASSES, height, width), np.uint8)
    pictures = rng.integers(0, 256, (len(poses), 3, height, width), np.uint8)
    pixel_from_world = matrix @ np.linalg.inv(poses)[:, :3]
    return Sources(
        torch.from_numpy(pictures), torch.as_tensor(maps),
        torch.from_numpy(pixel_from_world), torch.from_numpy(poses[:, :3, 3].copy()),
    )  # fmt: skip


def pairs_at(uv, view=0):
    """Return pairs of one view at places of its picture."""
    uv = torch.as_tensor(np.array(uv), dtype=torch.float32).reshape(-1, 2)
    count = len(uv)
    views = torch.full((count,), view)
    return Pairs(views, torch.arange(count), uv, torch.ones(count))


def bilinear(image, u, v):
    """Return one interpolated value as the sum over all pixels of hat functions."""
    height, width = image.shape
    u, v = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
    column = np.clip(1 - np.abs(np.arange(width) - u), 0, None)
    row = np.clip(1 - np.abs(np.arange(height) - v), 0, None)
    used = np.outer(row, column) > 0
    return (np.outer(row, column)[used] * image[used]).sum()


# Which views have which points in their picture.


def test_pairs_in_view_are_those_of_a_loop_over_views_and_points():
    rng = np.random.default_rng(1)
    eyes = rng.uniform(-1, 1, (4, 3))
    poses = [look_at(eye, rng.uniform(-1, 1, 3), roll=0.3 * n)
             for n, eye in enumerate(eyes)]  # fmt: skip
    points = rng.uniform(-3, 3, (300, 3))
    far_m = 2.5
    found = pairs_in_view(pinhole_sources(poses), torch.from_numpy(points), far_m)
    expected = []
    for view, pose in enumerate(poses):
        for number, point in enumerate(points):
            x, y, z = np.linalg.solve(pose, [*point, 1])[:3]
            if not 0 < z <= far_m:
                continue
            u, v = FOCAL * x / z + CENTRE[0], FOCAL * y / z + CENTRE[1]
            if -0.5 <= u < SIZE[0] - 0.5 and -0.5 <= v < SIZE[1] - 0.5:
                expected.append((view, number, u, v, z))
    assert 30 < len(expected) < 600 and len({view for view, *_ in expected}) == 4
    rows = zip(found.view, found.point, *found.uv.T, found.depth_m, strict=True)
    # Point by point, in the order of the views.
    expected.sort(key=lambda row: (row[1], row[0]))
    np.testing.assert_allclose(np.array(list(rows)), expected, rtol=1e-6, atol=1e-5)


def test_edges_of_pictures_and_of_the_range_are_half_open():
    """At depth 2 a pixel is 1/16 m wide: all of this is exact."""
    sources = pinhole_sources([np.eye(4)])
    half, u, v = 1 / 32, (0 - CENTRE[0]) / 16, (0 - CENTRE[1]) / 16
    right, bottom = u + 41 / 16, v + 31 / 16
    inside = [[u - half, 0, 2], [0, v - half, 2], [0, 0, 4], [0, 0, 1e-3]]
    outside = [
        [right - half, 0, 2], [0, bottom - half, 2], [u - 1.01 * half, 0, 2],
        [0, 0, 4.001], [0, 0, 0], [0, 0, -2],
    ]  # fmt: skip
    points = torch.tensor([*inside, *outside], dtype=torch.float64)
    found = pairs_in_view(sources, points, 4.0)
    assert found.point.tolist() == [0, 1, 2, 3]
    assert found.uv[0, 0] == -0.5 and found.uv[1, 1] == -0.5


def test_points_nobody_sees_make_no_pairs_and_those_nothing_to_say():
    sources = pinhole_sources([np.eye(4), np.eye(4)])
    pairs = pairs_in_view(sources, torch.tensor([[0.0, 0, -1]]).double(), 9.0)
    assert len(pairs.view) == 0
    said, known = said_by_prior(sources, pairs)
    assert said.shape == (0, CLASSES) and known.shape == (0,)
    assert said_in_color(sources, pairs).shape == (0, 3)
    assert len(nearest_pairs(pairs, torch.zeros(0), 3).view) == 0


@pytest.mark.parametrize("most", [1, 2, 5])
def test_the_nearest_views_of_a_point_are_those_that_sorting_finds(most):
    """Distances are small whole numbers, so that many are equal."""
    rng = np.random.default_rng(most)
    views, points = 6, 40
    both = [(view, point) for point in range(points) for view in range(views)
            if rng.random() < 0.6]  # fmt: skip
    view, point = torch.tensor(both).T
    uv = torch.from_numpy(rng.random((len(both), 2))).float()
    pairs = Pairs(view, point, uv, torch.from_numpy(rng.random(len(both))).float())
    distance_m = torch.from_numpy(rng.integers(1, 4, len(both)).astype(float))
    wanted = set()
    for number in range(points):
        own = [(float(distance_m[row]), row) for row, (_, p) in enumerate(both)
               if p == number]  # fmt: skip
        wanted |= {row for _, row in sorted(own)[:most]}
    kept = nearest_pairs(pairs, distance_m, most)
    rows = sorted(wanted)
    assert len(rows) < len(both)
    # Pairs stay in their order.
    for values, before in zip(kept, pairs, strict=True):
        assert torch.equal(values, before[rows])


# What views say there.


@pytest.mark.parametrize("map_size", [(41, 31), (20, 62), (10, 7), (123, 11)])
def test_maps_of_another_size_show_the_same_place_as_the_picture(map_size):
    """Both show how far across their own area a place is, in thousandths."""
    width, height = map_size
    across = (torch.arange(width) + 0.5) / width
    down = (torch.arange(height) + 0.5) / height
    maps = torch.stack([across.expand(height, -1), down[:, None].expand(-1, width)])
    maps = maps[None].double()
    sources = pinhole_sources([np.eye(4)])
    # Half a pixel of the coarsest map from the edge, which is constant beyond.
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.08, 0.92, (50, 2))
    pairs = pairs_at(shares * SIZE - 0.5)
    uv = covering_uv(sources, maps, pairs)
    np.testing.assert_allclose(sample_maps(maps, pairs, uv), shares, atol=1e-6)
    corners = pairs_at([(-0.5, -0.5), (SIZE[0] - 0.5, SIZE[1] - 0.5)])
    np.testing.assert_allclose(
        covering_uv(sources, maps, corners),
        [(-0.5, -0.5), (width - 0.5, height - 0.5)], rtol=1e-6,
    )  # fmt: skip


def test_what_the_prior_says_is_scaled_to_a_sum_of_one():
    rng = np.random.default_rng(3)
    maps = rng.integers(0, 90, (2, CLASSES, 6, 8), np.uint8)
    maps *= rng.integers(0, 3, maps.shape, np.uint8)  # sums are far from 255
    sources = pinhole_sources([np.eye(4)] * 2, maps, (8, 6))
    uv = rng.uniform(-0.5, (7.5, 5.5), (2, 30, 2))
    pairs = Pairs(*(torch.cat(own) for own in zip(
        pairs_at(uv[0], 0), pairs_at(uv[1], 1), strict=True
    )))  # fmt: skip
    said, known = said_by_prior(sources, pairs)
    assert known.all()
    for row, (view, (u, v)) in enumerate(
        zip(np.repeat([0, 1], 30), uv.reshape(-1, 2), strict=True)
    ):
        scores = np.array([bilinear(own.astype(float), u, v) for own in maps[view]])
        np.testing.assert_allclose(said[row], scores / scores.sum(), atol=1e-5)


def test_where_the_prior_says_nothing_nobody_votes():
    """Beside a pixel that knows nothing, its neighbour's probabilities count whole."""
    maps = np.zeros((1, CLASSES, 3, 5), np.uint8)
    maps[0, 4, :, 3:], maps[0, 7, :, 3:] = 51, 204
    sources = pinhole_sources([np.eye(4)], maps, (5, 3))
    uv = [(0, 0), (2, 1), (1.99, 1), (2.25, 1), (3, 1), (4.4, 2.4)]
    said, known = said_by_prior(sources, pairs_at(uv))
    assert known.tolist() == [False, False, False, True, True, True]
    assert not said[:3].any()
    shares = torch.zeros(CLASSES)
    shares[4], shares[7] = 0.2, 0.8
    torch.testing.assert_close(said[3:], shares.expand(3, -1))


def test_logits_of_a_pixel_that_knows_nothing_do_not_blend_with_its_neighbours():
    rng = np.random.default_rng(4)
    maps = rng.uniform(-16, 0, (1, CLASSES, 4, 6)).astype(np.float32)
    maps[0, :, 1, 2] = -1e30  # as files are read that have -inf
    sources = pinhole_sources([np.eye(4)], torch.from_numpy(maps), (6, 4))
    clean = [(0.4, 0.6), (1, 1), (2, 0), (2, 2), (3, 1), (3.5, 1.5), (4.2, 2.9), (1, 2)]
    spoilt = [(2, 1), (1.01, 1), (2, 1.9), (2.99, 0.01), (1.5, 1.5)]
    said, known = said_by_prior(sources, pairs_at(clean + spoilt))
    assert known.tolist() == [True] * len(clean) + [False] * len(spoilt)
    assert not said[len(clean) :].any() and said.isfinite().all()
    for row, (u, v) in enumerate(clean):
        expected = [bilinear(own.astype(float), u, v) for own in maps[0]]
        np.testing.assert_allclose(said[row], expected, atol=1e-4)


def test_colours_are_shares_of_full_brightness():
    sources = pinhole_sources([np.eye(4)])
    pictures = sources.pictures
    told = said_in_color(sources, pairs_at([(3, 4), (40, 30), (7, 7.5)]))
    torch.testing.assert_close(told[0], pictures[0, :, 4, 3] / 255)
    torch.testing.assert_close(told[1], pictures[0, :, 30, 40] / 255)
    both = pictures[0, :, 7, 7].double() + pictures[0, :, 8, 7]
    torch.testing.assert_close(told[2].double(), both / 510)


# From files.


@pytest.fixture
def gradients(tmp_path):
    """Frames and a prior that say how far right and how far down a place is."""
    width, height = 97, 61
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.rint(255 * (np.arange(width) + 0.5) / width)
    picture[..., 1] = np.rint(255 * (np.arange(height) + 0.5) / height)[:, None]
    poses = [look_at((0.3 * n, 0, 1.5), (3, 0.2 * n, 1)) for n in range(3)]
    path = tmp_path / "s.h5"
    field_scenes.write_frames(
        path, "s", poses, [picture * (n != 1) for n in range(3)], size=(width, height)
    )
    columns, rows = 30, 19
    scores = np.zeros((CLASSES, rows, columns), np.float32)
    scores[2] = (np.arange(columns) + 0.5) / columns
    scores[5] = 1 - scores[2]
    prior = field_scenes.write_prior(
        tmp_path / "s.prior.h5", path, lambda _: scores, True, (columns, rows)
    )
    with store.Frames(path) as frames, store.PriorMaps(prior, frames) as maps:
        yield frames, maps


def test_views_that_are_read_show_points_where_their_frames_do(gradients):
    """A point of a pixel's ray has that pixel's colour, at any size of the picture."""
    frames, prior = gradients
    sources = read_sources(frames, prior, [2, 0], (48, 32), "probabilities")
    assert sources.pictures.shape == (2, 3, 32, 48)
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.05, 0.95, (40, 2))
    pixels = np.concatenate([shares * [97, 61] - 0.5, np.ones((40, 1))], 1)
    rays = pixels @ np.linalg.inv(frames.color_intrinsics).T
    for view, position in enumerate([2, 0]):
        pose = frames.world_from_camera[position]
        points = 1.5 * rays @ pose[:3, :3].T + pose[:3, 3]
        torch.testing.assert_close(
            sources.centres_world[view], torch.from_numpy(pose[:3, 3])
        )
        pairs = pairs_in_view(sources, torch.from_numpy(points), 3.0)
        pairs = pairs.only(pairs.view == view)
        assert pairs.point.tolist() == list(range(40))
        np.testing.assert_allclose(pairs.depth_m, 1.5, rtol=1e-6)
        color = said_in_color(sources, pairs).numpy()
        np.testing.assert_allclose(color[:, :2], shares, atol=1.1 / 255)
        said, known = said_by_prior(sources, pairs)
        assert known.all()
        np.testing.assert_allclose(said[:, 2], shares[:, 0], atol=1.1 / 255)
        np.testing.assert_allclose(said[:, [2, 5]].sum(1), 1, atol=1e-6)
    blank = read_sources(frames, prior, [1], (48, 32), "probabilities")
    assert not blank.pictures.any()


def test_logits_that_are_read_are_those_of_the_prior(gradients):
    frames, prior = gradients
    sources = read_sources(frames, prior, [1], (48, 32), "logits")
    said, known = said_by_prior(sources, pairs_at([(24, 16)]))
    assert known.all()
    shares = said.double().softmax(1)[0]
    across, _ = (24.5 / 48, 16.5 / 32)
    assert float(shares[2]) == pytest.approx(across, abs=1e-3)
    assert float(shares.sum() - shares[2] - shares[5]) < 1e-5


def test_a_field_that_votes_with_logits_refuses_a_prior_without(tmp_path, gradients):
    frames, _ = gradients
    path = tmp_path / "without.prior.h5"
    blank = np.ones((CLASSES, 4, 6), np.float32)
    field_scenes.write_prior(path, frames.path, lambda _: blank, size=(6, 4))
    with (
        store.PriorMaps(path, frames) as prior,
        pytest.raises(BadInput, match=r"without\.prior\.h5: logits: .*logits: true"),
    ):
        read_sources(frames, prior, [0], (48, 32), "logits")


# Who votes for whom.


@pytest.fixture
def views(tmp_path):
    """Return a function that writes and opens frames of given poses."""
    opened, numbers = [], itertools.count()

    def build(poses, **how):
        path = tmp_path / f"{next(numbers)}.h5"
        opened.append(store.Frames(field_scenes.write_frames(path, "s", poses, **how)))
        return opened[-1]

    yield build
    for file in opened:
        file.close()


def test_kinds_of_frames_are_key_frames_views_and_both(views):
    frames = views([np.eye(4)] * 4, keys=[True, False, False, True])
    kinds = [frames_of_kind(frames, own).tolist() for own in ("keys", "views", "kept")]
    assert kinds == [[0, 3], [1, 2], [0, 1, 2, 3]]


def test_frames_share_all_with_themselves_and_nothing_with_what_is_behind(views):
    eye = (0.0, 0.0, 1.0)
    frames = views([
        look_at(eye, (1, 0, 1)), look_at(eye, (-1, 0, 1)),
        look_at(eye, (1, 0, 1), roll=np.pi), look_at((0, 40, 1), (1, 40, 1)),
    ])  # fmt: skip
    found = overlap(frames, 0, [0, 1, 2, 3], 3.0)
    np.testing.assert_array_equal(found, [1, 0, 1, 0])


def test_a_view_further_back_sees_the_sides_but_not_beyond_its_range(views):
    """Nothing of the frustum leaves its picture; what it loses is too far away."""
    backs = [0.0, 0.3, 0.9, 1.8, 3.0]
    frames = views([look_at((-back, 0, 1), (5, 0, 1)) for back in backs])
    found = overlap(frames, 0, range(len(backs)), 3.0)
    assert found[0] == found[1] == 1 and found[-1] == 0
    assert (np.diff(found) <= 0).all() and 0 < found[3] < 1


def test_views_further_aside_share_less(views):
    asides = np.linspace(0, 4, 9)
    frames = views([look_at((0, y, 1), (1, y, 1)) for y in asides])
    found = overlap(frames, 0, range(len(asides)), 3.0)
    assert (np.diff(found) <= 0).all() and found[0] == 1 and found[-1] == 0
    assert len(set(found)) > 4


def test_near_frames_that_look_elsewhere_are_not_useful(views):
    poses = [look_at((0, 0, 1), (1, 0, 1))]
    poses += [look_at((0.1, 0, 1), (-1, 0, 1)), look_at((0, 0.1, 1), (0, 5, 9))]
    poses += [look_at((0, 0.1 * n, 1), (1, 0.1 * n, 1)) for n in (5, 3, 4)]
    frames = views(poses)
    everyone = range(1, 6)
    assert nearest_useful(frames, 0, everyone, 9, 0.1, 3.0) == [4, 5, 3]
    assert nearest_useful(frames, 0, everyone, 2, 0.1, 3.0) == [4, 5]
    # A threshold of nothing lets everybody vote, the nearest first.
    everyone = nearest_useful(frames, 0, np.arange(1, 6), 9, 0.0, 3.0)
    assert set(everyone[:2]) == {1, 2} and everyone[2:] == [4, 5, 3]


def test_if_none_is_useful_the_nearest_stands_for_all(views):
    away = [look_at((0, y, 1), (-1, y, 1)) for y in (0.5, 0.2, 0.4)]
    frames = views([look_at((0, 0, 1), (1, 0, 1)), *away])
    assert nearest_useful(frames, 0, [1, 2, 3], 9, 0.1, 3.0) == [2]


def test_of_frames_equally_near_the_first_comes_first(views):
    frames = views([look_at((0, y, 1), (9, 0, 1)) for y in (0.0, 0.5, -0.5, 0.25)])
    assert nearest_useful(frames, 0, [1, 2, 3], 2, 0.1, 3.0) == [3, 1]
    assert nearest_useful(frames, 0, [2, 1, 3], 2, 0.1, 3.0) == [3, 2]


# The encoding volume.


def encoding_with(known, features, origin=(-0.3, 0.2, 1.0), size_m=0.25):
    rows = torch.full(known.shape, -1, dtype=torch.int32)
    rows[known] = torch.arange(int(known.sum()), dtype=torch.int32)
    return Encoding(rows, features, torch.tensor(origin).double(), size_m)


def test_an_encoding_that_is_linear_in_space_is_sampled_exactly():
    shape = (5, 6, 4)
    slopes = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]).double()
    ijk = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), -1)
    origin, size_m = torch.tensor([-0.3, 0.2, 1.0]).double(), 0.25
    centres = origin + size_m * ijk.reshape(-1, 3)
    features = (centres @ slopes.T).float()
    encoding = encoding_with(torch.ones(shape, dtype=torch.bool), features)
    rng = np.random.default_rng(0)
    span = size_m * (torch.tensor(shape) - 1)
    points = origin + span * torch.from_numpy(rng.random((60, 3)))
    points = torch.cat([points, centres[[0, -1]]])
    found = sample_encoding(encoding, points)
    torch.testing.assert_close(found, (points @ slopes.T).float(), atol=1e-5, rtol=0)


def test_known_voxels_share_the_weight_of_those_without_an_encoding():
    """Against a loop over every voxel; a third of them have an encoding."""
    rng = np.random.default_rng(2)
    shape = (4, 3, 5)
    known = torch.from_numpy(rng.random(shape) < 0.33)
    features = torch.from_numpy(rng.normal(size=(int(known.sum()), 2))).float()
    encoding = encoding_with(known, features)
    # Up to more than a voxel outside the grid, on every side.
    index = rng.uniform(-1.5, np.array(shape) + 0.5, (300, 3))
    points = encoding.origin_world + 0.25 * torch.from_numpy(index)
    found = sample_encoding(encoding, points).numpy()
    empty = 0
    for row, place in enumerate(index):
        total, weight = np.zeros(2), 0.0
        for number, voxel in enumerate(known.nonzero().numpy()):
            share = np.prod(np.clip(1 - np.abs(voxel - place), 0, None))
            total += share * features[number].numpy()
            weight += share
        empty += weight == 0
        if weight == 0 or weight > 1e-3:  # a hair's share is lost in rounding
            expected = total / weight if weight else total
            np.testing.assert_allclose(found[row], expected, atol=1e-4)
    assert 20 < empty < 280


def test_without_an_encoding_points_have_no_channels():
    found = sample_encoding(no_encoding(), torch.zeros(7, 3).double())
    assert found.shape == (7, 0)


def test_the_encoding_of_a_file_is_found_at_its_voxels(tmp_path):
    poses = tiny_room.camera_path(2)
    path = field_scenes.write_frames(tmp_path / "s.h5", "s", poses)
    volume = field_scenes.room_volume()
    other = field_scenes.write_volume(tmp_path / "v.h5", path, volume)
    with store.Frames(path) as frames, store.VolumeFile(other, frames) as file:
        encoding = encoding_of(file.volume())
    near = volume.encoding_ijk[::50]
    points = volume.surface.origin_world + field_scenes.VOXEL_M * near
    found = sample_encoding(encoding, torch.from_numpy(points))
    np.testing.assert_allclose(found, volume.encoding[::50], rtol=1e-3, atol=1e-3)
    inside = volume.surface.origin_world[None] + 1.5  # in the air
    assert not sample_encoding(encoding, torch.from_numpy(inside)).any()


def test_depth_and_classes_of_sources_lie_on_their_pictures(tmp_path):
    """Against the room's closed form at another size than either camera's."""
    path = room_files.write_frames(tmp_path / "f.h5", [True] * 4, [False] * 4)
    size, views = (37, 23), [1, 3]
    with store.Frames(path) as frames:
        sources = read_sources(frames, None, views, size, needs={"depth", "labels"})
        plain = read_sources(frames, None, views, size)
        poses = frames.world_from_camera[views]
    assert plain.depth_m is None and plain.labels is None
    columns, rows = ((np.arange(n) + 0.5) / n - 0.5 for n in size)
    whole = tiny_room.COLOR_SIZE
    x, y = np.meshgrid(columns / 0.8, rows * whole[1] / (0.8 * whole[0]))
    rays = np.stack([x, y, np.ones_like(x)], -1)
    for depth_m, labels, pose in zip(
        sources.depth_m, sources.labels, poses, strict=True
    ):
        true_m, ids = tiny_room.cast_rays(pose, rays)
        apart = np.abs(depth_m.numpy() - true_m)[depth_m > 0]
        assert len(apart) > 0.9 * true_m.size and np.median(apart) < 0.02
        true = np.vectorize(room_files.CLASS.get)(ids)
        assert (labels.numpy() == true).mean() > 0.95


@pytest.mark.parametrize("what", ["depth", "labels"])
def test_sources_without_what_a_method_needs_are_refused(tmp_path, what, monkeypatch):
    path = room_files.write_frames(tmp_path / "f.h5", [True], [False], labelled=False)
    monkeypatch.setattr(store.Frames, "has_depth", False)
    with (
        store.Frames(path) as frames,
        pytest.raises(BadInput, match=f"{what}: expected {what} of source views"),
    ):
        read_sources(frames, None, [0], SIZE, needs={what})
