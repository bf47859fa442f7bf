"""Votes counted by hand, by loops over points and views, and in closed form."""

import itertools

import numpy as np
import pytest
import torch

from gnesf_core.config import FusionConfig
from gnesf_core.data import store
from gnesf_core.data.scan import ScanInfo
from gnesf_core.errors import BadInput
from gnesf_core.fields.fusion import label_points, renormalize
from gnesf_core.fields.interface import SceneInputs
from gnesf_core.geometry.camera import look_at, scale_intrinsics
from gnesf_core.labels import IGNORE

RULES = ("mean", "nearest", "running-average")
NEVER_FADES = 1e9
# 5x3 pixels; pixel (u, v) looks along ((u - 2) / 2, (v - 1) / 2, 1).
INTRINSICS = np.array([[2.0, 0, 2], [0, 2.0, 1], [0, 0, 1]])
LABELS = np.arange(15).reshape(3, 5)
DEPTH = np.full((3, 5), 2.0)
POSE = np.eye(4)


def settings(rule="mean", **changes):
    lengths = {"depth_tolerance_m": 0.05, "max_depth_m": 3.0}
    values = lengths | {"max_weight": NEVER_FADES} | changes
    return FusionConfig(rule, **{name: float(value) for name, value in values.items()})


def at(u, v, depth):
    return [(u - 2) / 2 * depth, (v - 1) / 2 * depth, depth]


def one_hot(labels):
    return (np.arange(20)[:, None, None] == labels).astype(np.float32)


def flat(**shares):
    """Return a map that says the same at every pixel, as in flat(c3=0.5, c4=0.5)."""
    scores = np.zeros((20, 3, 5), np.float32)
    for name, share in shares.items():
        scores[int(name[1:])] = share
    return scores


def voxels(shape=(2, 2, 2), origin=(0.0, 0.0, 0.0), size_m=1.0, truncation_m=0.05):
    """Return a surface that was observed everywhere."""
    tsdf, weight = np.zeros(shape, np.float32), np.ones(shape, np.uint16)
    return store.DistanceGrid(np.array(origin), size_m, truncation_m, tsdf, weight)


@pytest.fixture
def make(tmp_path):
    """Return a function that writes and opens a scene of any number of views."""
    opened, numbers = [], itertools.count()

    def build(
        maps=None, depths=None, poses=None, colors=None, surface=None,
        color_intrinsics=INTRINSICS, depth_intrinsics=INTRINSICS,
    ):  # fmt: skip
        maps = [one_hot(LABELS)] if maps is None else maps
        count = len(maps)
        depths = [DEPTH] * count if depths is None else depths
        poses = np.array([POSE] * count if poses is None else poses)
        if colors is None:
            colors = [np.full((3, 5, 3), 7, np.uint8)] * count
        sizes = *colors[0].shape[1::-1], *depths[0].shape[::-1]
        info = ScanInfo(
            tmp_path / "scan", count, *sizes, color_intrinsics, depth_intrinsics,
            1000.0, "raw", "raw",
        )  # fmt: skip
        selection = store.Selection(
            np.arange(count), np.ones(count, bool), np.zeros(count, bool),
            np.zeros((0, 9), np.int64),
        )  # fmt: skip
        path = tmp_path / f"{next(numbers)}.h5"
        status = np.zeros(count, np.uint8)
        with store.write_frames(
            path, "scene", info, poses, status, selection, False, {"inputs": {}}
        ) as writer:
            for color, depth in zip(colors, depths, strict=True):
                units = np.rint(1000 * depth).astype(np.uint16)
                writer.add(color.tobytes(), units, None)
        frames = store.Frames(path)
        made_by = {"inputs": {"frames": frames.fingerprint}}
        path = tmp_path / f"{next(numbers)}.h5"
        size = maps[0].shape[:0:-1]
        with store.write_prior(path, frames, size, False, made_by) as writer:
            for scores in maps:
                writer.add(scores)
        prior = store.PriorMaps(path, frames)
        opened.extend([frames, prior])
        return SceneInputs(frames, prior, voxels() if surface is None else surface)

    yield build
    for file in opened:
        file.close()


def label(points, scene, rule="mean", **changes):
    return label_points(np.array(points, float), scene, settings(rule, **changes))


def classes(points, scene, rule="mean", **changes):
    return label(points, scene, rule, **changes).class_id.tolist()


# What one view sees and says.


def test_a_vote_is_interpolated_between_pixels(make):
    found = label([at(0, 0, 2), at(3.4, 1.4, 2), at(3.6, 1.75, 2)], make())
    assert found.class_id.tolist() == [0, 8, 14]
    np.testing.assert_allclose(found.confidence, [1, 0.6 * 0.6, 0.6 * 0.75], rtol=1e-6)


def test_points_between_the_outermost_centres_and_the_edge_take_the_outermost(make):
    found = label([at(4.4, 2.4, 2), at(-0.4, 1, 2)], make())
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([14, 5], [1, 1])


@pytest.mark.parametrize("rule", ["mean", "nearest"])
def test_points_outside_the_image_or_behind_the_camera_get_no_vote(make, rule):
    points = [at(-0.6, 1, 2), at(4.6, 1, 2), at(2, -0.6, 2), at(2, 2.6, 2), [0, 0, -2]]
    assert classes(points, make(), rule) == [IGNORE] * 5


@pytest.mark.parametrize("rule", ["mean", "nearest"])
def test_occluded_points_and_points_in_free_space_get_no_vote(make, rule):
    points = [at(2, 1, z) for z in (1.9, 1.96, 2.0, 2.04, 2.1, 2.9)]
    assert classes(points, make(), rule) == [IGNORE, 7, 7, 7, IGNORE, IGNORE]


def test_no_depth_is_no_evidence(make):
    depth = DEPTH.copy()
    depth[1, 2] = 0
    # A point that touches the camera is as close to "no depth" as can be.
    points = [at(2, 1, 2), at(2, 1, 0.01), at(3, 1, 2)]
    assert classes(points, make(depths=[depth])) == [IGNORE, IGNORE, 8]


def test_far_points_get_no_vote(make):
    scene = make(depths=[np.full((3, 5), 3.0)])
    assert classes([at(2, 1, 2.99), at(2, 1, 3.01)], scene) == [7, IGNORE]


def test_void_pixels_cast_no_vote_but_give_colour(make):
    color = np.full((3, 5, 3), (10, 20, 30), np.uint8)
    found = label([at(2, 1, 2)], make([flat()], colors=[color]))
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([IGNORE], [0])
    assert found.color.tolist() == [[10, 20, 30]]


def test_a_vote_beside_void_counts_in_full(make):
    left_half = flat(c4=1.0)
    left_half[:, :, 3:] = 0
    scene = make([left_half, flat(c6=1.0)])
    # The first view's probability is interpolated to 0.2 of class 4 and nothing else.
    found = label([at(2.8, 1, 2), at(3.2, 1, 2)], scene)
    assert found.class_id.tolist() == [4, 6]
    np.testing.assert_allclose(found.confidence, [0.5, 1], rtol=1e-6)


def test_rounded_probabilities_are_scaled_to_a_sum_of_one(make):
    # Twelve equal shares of 255 become 21 each, which is 252.
    scores = flat(**{f"c{i}": 1.0 for i in range(8, 20)})
    found = label([at(1.3, 0.7, 2)], make([scores]))
    assert found.class_id.tolist() == [8]
    np.testing.assert_allclose(found.confidence, [1 / 12], rtol=1e-6)


def test_images_of_three_sizes_have_their_own_pixels(make):
    # Maps at three times the size of the depth image, colour at twice; the depth image
    # has a hole where u is 4.
    labels = np.kron(LABELS, np.ones((3, 3), int))
    labels[4, 7] = 19  # the middle of old pixel (2, 1)
    color = np.zeros((6, 10, 3), np.uint8)
    color[2:4, 4:6, 0] = [[1, 2], [3, 4]]  # the four parts of old pixel (2, 1)
    depth = DEPTH.copy()
    depth[:, 4] = 0
    scene = make(
        [one_hot(labels)],
        depths=[depth],
        colors=[color],
        color_intrinsics=scale_intrinsics(INTRINSICS, (5, 3), (10, 6)),
    )
    points = [at(2, 1, 2), at(2.2, 0.8, 2), at(1.95, 1.05, 2), at(4, 1, 2)]
    found = label(points, scene)
    assert found.class_id.tolist() == [19, 7, 19, IGNORE]
    # (7.6, 3.4) and (6.85, 4.15) on the map, (4.9, 2.1) and (4.4, 2.6) in colour.
    expected = [1, 1 - 0.4 * 0.4, 0.85 * 0.85, 0]
    np.testing.assert_allclose(found.confidence, expected, rtol=1e-5)
    assert found.color[1:, 0].tolist() == [2, 3, 127]


def test_points_beside_the_colour_image_get_neither_vote_nor_colour(make):
    # The same pixels of depth, but only the middle one of colour.
    scene = make(
        [one_hot(LABELS[1:2, 2:3])],
        colors=[np.full((1, 1, 3), 9, np.uint8)],
        color_intrinsics=np.array([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 1]]),
    )
    found = label([at(1.6, 0.6, 2), at(1.4, 1, 2), at(2, 1.6, 2)], scene)
    assert found.class_id.tolist() == [7, IGNORE, IGNORE]
    assert found.color[:, 0].tolist() == [9, 127, 127]


def test_poses_move_the_camera_and_not_the_points(make):
    scene = make(poses=[look_at((1, 2, 3), (1, 5, 3))])
    # Two metres ahead is y = 4; one pixel to the right is x + 1.
    assert classes([[1, 4, 3], [2, 4, 3]], scene) == [7, 8]


# How votes are put together.


def test_the_mean_weighs_every_vote_alike(make):
    scene = make([flat(c3=0.8, c5=0.2), flat(c5=1.0), flat(c3=0.4, c5=0.6), flat()])
    found = label([at(2, 1, 2)], scene)
    assert found.class_id.tolist() == [5]
    np.testing.assert_allclose(found.confidence, [1.8 / 3], rtol=1e-6)


def test_the_majority_wins_and_ties_go_to_the_lowest_class(make):
    # Columns are points, rows are views.
    views = [[3, 9, 19], [5, 4, IGNORE], [3, 4, 19], [IGNORE, 9, 0]]
    labels = np.full((4, 3, 5), 11)
    labels[:, 0, :3] = views
    colors = [np.full((3, 5, 3), value, np.uint8) for value in (0, 1, 1, 1)]
    scene = make([one_hot(view) for view in labels], colors=colors)
    found = label([at(0, 0, 2), at(1, 0, 2), at(2, 0, 2)], scene)
    assert found.class_id.tolist() == [3, 4, 19]
    np.testing.assert_allclose(found.confidence, [2 / 3, 2 / 4, 2 / 3], rtol=1e-6)
    assert (found.color == 1).all()  # 3 / 4, rounded
    assert found.class_id.dtype == found.color.dtype == np.uint8
    assert found.confidence.dtype == np.float32


def test_the_nearest_camera_that_votes_decides(make):
    # Cameras 2, 1 and 3 m below the point, in this order; all look up at it.
    poses = [look_at((0, 0, -z), (0, 0, 1)) for z in (2.0, 1.0, 3.0)]
    depths = [np.full((3, 5), z) for z in (2.0, 1.0, 3.0)]
    maps = [flat(c4=0.6, c5=0.4), flat(c6=1.0), flat(c5=1.0)]
    scene = make(maps, depths, poses)
    found = label([[0, 0, 0]], scene, "nearest", max_depth_m=4.0)
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([6], [1])
    # Said nothing by the nearest, the point is told by the next, and only by it.
    silent = make([maps[0], flat(), maps[2]], depths, poses)
    found = label([[0, 0, 0]], silent, "nearest", max_depth_m=4.0)
    assert found.class_id.tolist() == [4]
    np.testing.assert_allclose(found.confidence, [0.6], rtol=1e-6)
    # Its view blocked, likewise.
    blocked = make(maps, [depths[0], depths[1] / 2, depths[2]], poses)
    assert classes([[0, 0, 0]], blocked, "nearest", max_depth_m=4.0) == [4]


def test_of_cameras_at_one_distance_the_first_decides(make):
    assert classes([at(2, 1, 2)], make([flat(c9=1.0), flat(c2=1.0)]), "nearest") == [9]


@pytest.mark.parametrize("rule", RULES)
def test_points_no_view_sees_are_void_and_grey(make, rule):
    scene = make(surface=voxels((1, 1, 1), origin=(0, 0, 2.9)))
    found = label([at(2, 1, 2.9)], scene, rule)
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([IGNORE], [0])
    assert found.color.tolist() == [[127, 127, 127]]


@pytest.mark.parametrize("rule", RULES)
def test_a_prior_that_says_nothing_leaves_void_but_colours(make, rule):
    scene = make([flat(), flat()], surface=voxels((1, 1, 3)))
    found = label([[0, 0, 2]], scene, rule)
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([IGNORE], [0])
    assert found.color.tolist() == [[7, 7, 7]]


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_surface_gets_empty_labels(make, rule):
    found = label(np.zeros((0, 3)), make(), rule)
    assert found.class_id.shape == found.confidence.shape == (0,)
    assert found.color.shape == (0, 3)


def test_an_unknown_rule_is_refused_by_name(make):
    with pytest.raises(BadInput, match="found median"):
        label([at(2, 1, 2)], make(), "median")


def test_renormalize_keeps_what_is_unknown(make):
    values = torch.tensor([[2.0, 6.0], [0.0, 0.0]])
    assert renormalize(values).tolist() == [[0.25, 0.75], [0, 0]]


# Against loops over points and views, in plain numbers.


def bilinear(image, u, v):
    """Sample one channel; outside the pixel centres the outermost pixel counts."""
    height, width = len(image), len(image[0])
    u, v = min(max(u, 0), width - 1), min(max(v, 0), height - 1)
    total = 0.0
    for row in range(height):
        for column in range(width):
            tent = max(0, 1 - abs(u - column)) * max(0, 1 - abs(v - row))
            total += tent * float(image[row][column])
    return total


def vote_of(point, pose, depth, maps, tolerance_m):
    """Return a view's 20 probabilities for a point, or None; sizes as below."""
    x, y, z = pose[:3, :3].T @ (point - pose[:3, 3])
    if not 0 < z <= 2.5:
        return None
    row, column = round(2.5 + 4 * y / z), round(4.5 + 4 * x / z)
    if not (0 <= row < 6 and 0 <= column < 10):
        return None
    measured = depth[row, column]
    if measured == 0 or abs(measured - z) >= tolerance_m:
        return None
    u, v = 2 + 2 * x / z, 1 + 2 * y / z  # colour image: 5x3
    if not (-0.5 <= u < 4.5 and -0.5 <= v < 2.5):
        return None
    u, v = (u + 0.5) * 7 / 5 - 0.5, (v + 0.5) * 4 / 3 - 0.5  # maps: 7x4
    values = [bilinear(channel, u, v) for channel in maps]
    total = sum(values)
    return [value / total for value in values] if total > 0 else None


def random_scene(make, seed, surface=None, count=12):
    rng = np.random.default_rng(seed)
    poses = [
        look_at(rng.uniform(-2, 2, 3), rng.uniform(-1, 1, 3), roll=rng.uniform(-1, 1))
        for _ in range(count)
    ]
    depths = rng.integers(500, 3000, (count, 6, 10)) / 1000
    depths[rng.random(depths.shape) < 0.1] = 0
    maps = rng.exponential(1, (count, 20, 4, 7)).astype(np.float32) ** 3
    void = rng.random((count, 1, 4, 7)) < 0.3
    void[0] = True
    small = scale_intrinsics(INTRINSICS, (5, 3), (10, 6))
    scene = make(
        list(np.where(void, 0, maps).astype(np.float32)),
        list(depths),
        poses,
        depth_intrinsics=small,
        surface=surface,
    )
    return scene, poses, depths


@pytest.mark.parametrize("seed", range(3))
def test_mean_and_nearest_equal_loops_over_points_and_views(make, seed):
    scene, poses, depths = random_scene(make, seed)
    points = np.random.default_rng([seed, 1]).uniform(-1, 1, (60, 3))
    options = {"depth_tolerance_m": 0.8, "max_depth_m": 2.5}
    mean = label(points, scene, "mean", **options)
    nearest = label(points, scene, "nearest", **options)
    several = 0
    for index, point in enumerate(points):
        votes = []
        for position, pose in enumerate(poses):
            maps = scene.prior.probabilities(position).tolist()
            vote = vote_of(point, pose, depths[position], maps, 0.8)
            if vote is not None:
                votes.append((sum((point - pose[:3, 3]) ** 2), vote))
        several += len(votes) > 1
        if not votes:
            assert mean.class_id[index] == nearest.class_id[index] == IGNORE
            continue
        average = [sum(vote[c] for _, vote in votes) / len(votes) for c in range(20)]
        for found, expected in ((mean, average), (nearest, min(votes)[1])):
            assert found.class_id[index] == expected.index(max(expected))
            assert found.confidence[index] == pytest.approx(max(expected), rel=1e-5)
    assert several > 20


# Running averages. Voxels are 1 m apart unless said otherwise.


def line(*, tsdf=(0, 0, 0), weight=(1, 1, 1), **options):
    """Return three voxels side by side at the depth of 2 m: pixels 1, 2 and 3."""
    level = voxels((3, 1, 1), origin=(-1.0, 0.0, 2.0), **options)
    level.tsdf[:, 0, 0], level.weight[:, 0, 0] = tsdf, weight
    return level


THREE = np.array([11, 3, 4, 5, 11]) * np.ones((3, 1), int)  # classes of the voxels


def test_points_interpolate_between_voxels(make):
    scene = make([one_hot(THREE)], surface=line())
    found = label([[-1, 0, 2], [-0.75, 0, 2], [0.6, 0, 2]], scene, "running-average")
    assert found.class_id.tolist() == [3, 3, 5]
    np.testing.assert_allclose(found.confidence, [1, 0.75, 0.6], rtol=1e-6)


def test_interpolation_is_trilinear(make):
    # Two layers of voxels, all in one column of pixels: class by depth, 3 or 4.
    level = voxels((2, 2, 2), origin=(-0.1, -0.1, 2.0), size_m=0.2, truncation_m=0.3)
    labels = np.full((3, 5), 4)
    labels[:, :2] = 3
    points = [[0.05, 0.08, 2.03]]
    scene = make([one_hot(labels)], surface=level)
    found = label(points, scene, "running-average")
    # Voxels at x = -0.1 project to u = 2 - 0.2 / z, those at x = 0.1 to the right of 2.
    right = (0.05 + 0.1) / 0.2
    deep = (2.03 - 2.0) / 0.2
    left_of_centre = (1 - deep) * 0.2 / 2.0 + deep * 0.2 / 2.2
    expected = right + (1 - right) * (1 - left_of_centre)
    assert found.class_id.tolist() == [4]
    np.testing.assert_allclose(found.confidence, [expected], rtol=1e-5)


def test_voxels_without_surface_or_votes_carry_no_weight(make):
    points = [[-0.4, 0, 2], [0.4, 0, 2]]
    assert classes(points, make([one_hot(THREE)], surface=line()), RULES[2]) == [4, 4]
    for level in (
        line(tsdf=(0, 1, 0)),  # free space
        line(tsdf=(0, -1, 0)),  # deep behind the surface
        line(weight=(1, 0, 1)),  # never observed
    ):
        found = label(points, make([one_hot(THREE)], surface=level), RULES[2])
        assert (found.class_id.tolist(), found.confidence.tolist()) == ([3, 5], [1, 1])
    depth = DEPTH.copy()
    depth[:, 2] = 0
    found = label(points, make([one_hot(THREE)], [depth], surface=line()), RULES[2])
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([3, 5], [1, 1])


def test_points_away_from_the_volume_are_void(make):
    scene = make([one_hot(THREE)], surface=line())
    points = [[-2, 0, 2], [-1.5, 0, 2], [2.1, 0, 2], [0, 1, 2], [1e9, 0, 2]]
    found = label(points, scene, "running-average")
    assert found.class_id.tolist() == [IGNORE, 3, IGNORE, IGNORE, IGNORE]


def test_voxels_are_seen_within_the_truncation_and_max_depth(make):
    depths = [np.full((3, 5), z) for z in (1.89, 1.91, 2.09, 2.11)]
    maps = [flat(c1=1.0), flat(c2=1.0), flat(c2=1.0), flat(c1=1.0)]
    scene = make(maps, depths, surface=line(truncation_m=0.1))
    found = label([[0, 0, 2]], scene, RULES[2], depth_tolerance_m=1.0)
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([2], [1])
    assert classes([[0, 0, 2]], scene, RULES[2], max_depth_m=1.99) == [IGNORE]


@pytest.mark.parametrize("max_weight", [1, 2.5, 4, NEVER_FADES])
def test_equal_votes_stay_what_they_are(make, max_weight):
    scene = make([flat(c3=0.8, c7=0.2)] * 9, surface=line())
    found = label([[0.3, 0, 2]], scene, RULES[2], max_weight=max_weight)
    assert found.class_id.tolist() == [3]
    np.testing.assert_allclose(found.confidence, [0.8], rtol=1e-6)


@pytest.mark.parametrize("max_weight", [1, 2, 3, 5])
def test_a_class_that_is_seen_no_more_fades_geometrically(make, max_weight):
    # W votes for one class, then k for another: each leaves W / (W + 1) of the first.
    for later in range(4):
        maps = [flat(c3=1.0)] * max_weight + [flat(c8=1.0)] * later
        found = label([[0, 0, 2]], make(maps, surface=line()), RULES[2],
                      max_weight=max_weight)  # fmt: skip
        left = (max_weight / (max_weight + 1)) ** later
        assert found.class_id.tolist() == [3 if left >= 0.5 else 8]
        np.testing.assert_allclose(found.confidence, [max(left, 1 - left)], rtol=1e-6)


def test_without_fading_the_running_average_is_the_mean_at_voxel_centres(make):
    shape = (6, 5, 7)
    level = voxels(shape, origin=(-1.0, -1.0, -1.0), size_m=0.4, truncation_m=0.8)
    scene, _, _ = random_scene(make, 5, level)
    points = level.origin_world + 0.4 * np.argwhere(np.ones(shape))
    mean = label(points, scene, "mean", depth_tolerance_m=0.8)
    running = label(points, scene, "running-average", depth_tolerance_m=0.01)
    assert (mean.class_id != IGNORE).sum() > 100
    # Within rounding of a centre its neighbours weigh next to nothing, but if it has
    # no vote itself they are all there is.
    known = mean.class_id != IGNORE
    np.testing.assert_array_equal(running.class_id[known], mean.class_id[known])
    np.testing.assert_allclose(
        running.confidence[known], mean.confidence[known], rtol=1e-5
    )


def test_the_order_of_frames_matters_only_where_old_ones_fade(make):
    maps = [flat(c3=1.0)] * 3 + [flat(c8=1.0)] * 2
    forwards, backwards = (make(m, surface=line()) for m in (maps, maps[::-1]))
    for rule in ("mean", "running-average"):
        one, other = (
            label([[0, 0, 2]], scene, rule) for scene in (forwards, backwards)
        )
        assert one.class_id.tolist() == other.class_id.tolist() == [3]
        np.testing.assert_allclose(one.confidence, other.confidence, rtol=1e-6)
    assert classes([[0, 0, 2]], forwards, RULES[2], max_weight=1) == [8]
    assert classes([[0, 0, 2]], backwards, RULES[2], max_weight=1) == [3]
