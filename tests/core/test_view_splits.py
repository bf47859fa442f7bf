import numpy as np
import pytest

from gnesf_core.evaluation import view_splits
from gnesf_core.evaluation.view_splits import (
    RELEASED_SCENES,
    VIEW_PROTOCOLS,
    SceneLists,
    barred_from_training,
    choose_sources,
    fine_tuning,
    frame_leaks,
    leaked_scenes,
    source_pool,
    targets,
    without_leaks,
)

FRAMES = np.arange(1200)
CLEAN = [name for name in VIEW_PROTOCOLS if name.endswith("-clean")]
SYSTEMS = ("gnesf", "sray", "gsnerf", "gpnerf")


def poses_at(centres):
    poses = np.tile(np.eye(4), (len(centres), 1, 1))
    poses[:, :3, 3] = centres
    return poses


def pools(protocol, frames):
    judged = targets(protocol, frames)
    return judged, [source_pool(protocol, frames, int(t), judged) for t in judged]


def test_every_system_has_a_released_and_a_clean_form_that_say_what_they_are():
    for system in SYSTEMS:
        assert {f"{system}-released", f"{system}-clean"} <= set(VIEW_PROTOCOLS)
    assert len({rules.words for rules in VIEW_PROTOCOLS.values()}) == len(
        VIEW_PROTOCOLS
    )
    for name in CLEAN:
        assert "cleaned" in VIEW_PROTOCOLS[name].words


@pytest.mark.parametrize("system", ["sray", "gsnerf"])
def test_s_rays_sources_are_every_fifth_frame_two_or_three_from_a_target(system):
    judged, sources = pools(f"{system}-released", FRAMES)
    assert judged.tolist() == [2, 22, 42, 62, 82, 102, 122, 142, 162, 182]
    for target, pool in zip(judged, sources, strict=True):
        assert pool.tolist() == list(range(0, 700, 5))
        assert sorted(abs(pool - target))[:2] == [2, 3]


def test_gp_nerfs_frames_of_scannet_come_in_the_order_of_their_digits():
    names = sorted(str(number) for number in FRAMES)
    expected = [int(name) for name in names[2:700:20][:10]]
    judged, sources = pools("gpnerf-released", FRAMES)
    assert sorted(expected) == judged.tolist()
    assert judged.tolist() != targets("gpnerf-replica-released", FRAMES).tolist()
    for target, pool in zip(judged, sources, strict=True):
        assert set(FRAMES) - set(pool) == {target}


def test_gnesf_judges_every_two_hundredth_frame_and_never_votes_with_one():
    judged, sources = pools("gnesf-released", FRAMES)
    assert judged.tolist() == [5, 205, 405, 605, 805, 1005]
    kept = set(range(5, 1200, 10)) - set(judged.tolist())
    assert all(set(pool.tolist()) == kept for pool in sources)
    # Its steps count frames that have lost their pose: the others stay what they are.
    posed = np.delete(FRAMES, [3, 5, 7, 300])
    judged, _ = pools("gnesf-released", posed)
    assert posed[judged].tolist() == [15, 215, 415, 615, 815, 1015]


def test_s_rays_steps_count_frames_that_have_a_pose():
    posed = np.delete(FRAMES, [0, 1, 10])
    judged, _ = pools("sray-released", posed)
    assert judged.tolist()[:2] == [2, 22] and posed[judged].tolist()[:2] == [4, 25]


def test_released_protocols_leak_as_much_as_is_known_of_them():
    leaks = {name: frame_leaks(name, FRAMES) for name in VIEW_PROTOCOLS}
    # Fine-tuning draws from all frames; GP-NeRF's from every third, 3 of its targets.
    assert leaks["sray-released"] == (10, 10, 0, 2)
    assert leaks["gsnerf-released"] == (10, 10, 0, 2)
    assert leaks["gpnerf-released"] == (10, 3, 10, 1)
    # 900 frames of Replica; all 15 targets of instances are even, as all it trains on.
    replica = np.arange(900)
    assert frame_leaks("gpnerf-replica-released", replica) == (10, 3, 10, 1)
    assert frame_leaks("gpnerf-instance-released", replica) == (15, 15, 15, 1)
    assert leaks["gnesf-released"] == (6, 0, 0, 10)


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("frames", [FRAMES, np.arange(240), np.delete(FRAMES, 77)])
def test_clean_protocols_leak_nothing_and_leave_sources_nearby(name, frames):
    leaks = frame_leaks(name, frames)
    assert leaks.targets >= 2
    assert (leaks.fine_tuned, leaks.as_sources) == (0, 0)
    assert 10 < leaks.closest <= 20
    judged, sources = pools(name, frames)
    for target, pool in zip(judged, sources, strict=True):
        assert len(pool) >= 8
        assert abs(frames[pool] - frames[target]).min() <= 20
    tuned = fine_tuning(name, frames, judged)
    apart = abs(frames[tuned][:, None] - frames[judged])
    assert (apart > 10).all() and len(tuned) >= 8


@pytest.mark.parametrize("name", VIEW_PROTOCOLS)
def test_training_keeps_out_what_a_protocol_bars_from_its_sources(name):
    barred = FRAMES[barred_from_training(name, FRAMES)]
    judged = FRAMES[targets(name, FRAMES)]
    if name in CLEAN:
        assert len(barred) >= 10 * len(judged)
        assert set(judged) <= set(barred)
        assert abs(barred[:, None] - judged).min(1).max() == 10
    else:  # GNeSF never looks at its targets, others do
        assert set(barred) == (set(judged) if name == "gnesf-released" else set())


@pytest.mark.parametrize("name", VIEW_PROTOCOLS)
@pytest.mark.parametrize("count", [0, 1, 3, 30])
def test_short_scenes_have_few_targets_and_no_target_is_in_its_pool(name, count):
    frames = np.arange(count)
    judged, sources = pools(name, frames)
    assert set(judged) <= set(range(count))
    for target, pool in zip(judged, sources, strict=True):
        assert target not in pool
        assert set(pool) <= set(range(count))


def test_frames_out_of_order_are_refused():
    with pytest.raises(ValueError, match="ascending"):
        targets("sray-clean", np.array([0, 2, 1]))


@pytest.mark.parametrize("system", ["gnesf-released", "sray-released", "gsnerf-clean"])
def test_the_nearest_centres_of_the_pool_are_chosen_nearest_first(system):
    rng = np.random.default_rng(1)
    poses = poses_at(rng.normal(size=(60, 3)) + 5)
    pool = rng.permutation(60)[:40]
    pool = np.sort(pool[pool != 7])
    chosen = choose_sources(system, poses, 7, pool, 8, rng)
    apart = {p: np.linalg.norm(poses[p, :3, 3] - poses[7, :3, 3]) for p in pool}
    assert chosen.tolist() == sorted(apart, key=apart.get)[:8]
    assert len(choose_sources(system, poses, 7, pool, 99, rng)) == len(pool)


def test_gsnerf_as_released_asks_where_cameras_see_the_origin():
    # Both look along x and stand side by side, the third looks back at them.
    poses = poses_at([[4, 0, 0], [4.1, 0, 0], [-4, 0, 0]])
    back = np.diag([-1.0, 1, -1])
    poses[2, :3, :3] = back
    # From the first and the third, the origin lies 4 m away in the same direction.
    pool, rng = np.array([1, 2]), np.random.default_rng(0)
    assert choose_sources("gsnerf-released", poses, 0, pool, 1, rng).tolist() == [2]
    assert choose_sources("gsnerf-clean", poses, 0, pool, 1, rng).tolist() == [1]


def test_gp_nerf_draws_among_the_nearest_by_direction_from_the_origin():
    # Angles grow with the position; distances between the centres do not.
    angles = np.linspace(0, 1.5, 100)
    radii = np.where(np.arange(100) % 2, 1.0, 9.0)
    directions = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    poses = poses_at(radii[:, None] * directions)
    pool, rng = np.arange(1, 100), np.random.default_rng(2)
    farthest = []
    for _ in range(400):
        chosen = choose_sources("gpnerf-clean", poses, 0, pool, 4, rng)
        assert len(set(chosen.tolist())) == 4 and 0 not in chosen
        farthest.append(max(chosen))
    # A pool of 4, 8, 12, 16 or 20, each of them now and then.
    assert max(farthest) <= 20
    shares = [
        np.mean([low < f <= low + 4 for f in farthest]) for low in range(0, 20, 4)
    ]
    assert shares[0] == pytest.approx(0.3, abs=0.08)
    assert all(share > 0.02 for share in shares)


def test_only_gp_nerf_as_released_now_and_then_shows_a_target_itself():
    rng = np.random.default_rng(3)
    poses, pool = poses_at(rng.normal(size=(40, 3))), np.arange(1, 40)
    own = dict.fromkeys(VIEW_PROTOCOLS, 0)
    for name in ("gpnerf-released", "gpnerf-clean", "sray-released", "gnesf-released"):
        for _ in range(1000):
            own[name] += 0 in choose_sources(name, poses, 0, pool, 8, rng)
    assert 0 < own.pop("gpnerf-released") < 20
    assert not any(own.values())


def test_one_seed_chooses_the_same_sources():
    poses = poses_at(np.random.default_rng(4).normal(size=(40, 3)))
    pair = [
        choose_sources("gpnerf-released", poses, 3, np.arange(4, 40), 8, rng).tolist()
        for rng in (np.random.default_rng(9), np.random.default_rng(9))
    ]
    assert pair[0] == pair[1]


def test_a_camera_at_the_origin_and_an_empty_pool_give_no_trouble():
    poses = poses_at([[0, 0, 0], [1, 0, 0], [0, 2, 0]])
    rng, empty = np.random.default_rng(5), np.zeros(0, np.int64)
    for name in VIEW_PROTOCOLS:
        assert len(choose_sources(name, poses, 0, np.array([1, 2]), 8, rng)) == 2
        assert len(choose_sources(name, poses, 0, empty, 8, rng)) == 0


def test_scene_lists_have_the_sizes_that_are_known():
    sizes = {key: tuple(map(len, lists)) for key, lists in RELEASED_SCENES.items()}
    assert sizes == {
        ("sray", "scannet"): (198, 3, 10), ("gpnerf", "scannet"): (198, 10, 10),
        ("gsnerf", "scannet"): (61, 10, 10), ("gsnerf", "replica"): (12, 4, 4),
        ("gpnerf", "replica"): (8, 2, 2),
    }  # fmt: skip
    for lists in RELEASED_SCENES.values():
        assert all(len(set(scenes)) == len(scenes) for scenes in lists)
    sray = RELEASED_SCENES["sray", "scannet"]
    assert not {"scene0001_00", "scene0160_00"} & set(sray.train)


def test_released_lists_leak_the_scenes_that_are_known_and_clean_ones_none():
    leaked = {key: leaked_scenes(lists) for key, lists in RELEASED_SCENES.items()}
    assert leaked["gpnerf", "replica"].train == ("office_0", "room_0")
    assert leaked["sray", "scannet"] == ((), ("scene0211_00",), ())
    assert len(leaked["gsnerf", "scannet"].val) == 10
    assert len(leaked["gpnerf", "scannet"].val) == 10
    assert leaked["gsnerf", "scannet"].train == leaked["gsnerf", "replica"].train == ()
    for lists in RELEASED_SCENES.values():
        clean = without_leaks(lists)
        assert leaked_scenes(clean) == ((), (), ())
        assert clean.test == lists.test
        assert set(clean.train) <= set(lists.train)
    assert without_leaks(RELEASED_SCENES["gpnerf", "replica"]).train == (
        "office_1", "office_2", "office_3", "office_4", "room_1", "room_2",
    )  # fmt: skip


def test_lists_of_one_system_leak_into_the_tests_of_another():
    trained = RELEASED_SCENES["sray", "scannet"].train
    test = RELEASED_SCENES["gsnerf", "scannet"].test
    leaked = leaked_scenes(SceneLists(trained, (), test)).train
    assert leaked == tuple(f"scene{n:04d}_00" for n in (63, 67, 71, 74, 79, 86))


@pytest.mark.parametrize("system", ["sray", "gsnerf"])
def test_eight_of_ten_judged_scenes_are_in_scannets_official_train_split(system):
    test = RELEASED_SCENES[system, "scannet"].test
    official_val = {"scene0217_00", "scene0643_00", "scene0063_00", "scene0086_00"}
    official_train = tuple(sorted(set(test) - official_val)) + ("scene0340_00",)
    lists = SceneLists(official_train, tuple(official_val), test)
    leaked = leaked_scenes(lists)
    assert len(set(leaked.train) & set(test)) == 8
    # Another scan of a judged room goes as well.
    assert ("scene0340_00" in leaked.train) == (system == "sray")
    clean = without_leaks(lists)
    assert leaked_scenes(clean) == ((), (), ())
    assert len(clean.val) == 2  # those that the other system judges


def test_rooms_of_replica_are_told_apart_and_their_sequences_are_not():
    lists = SceneLists(("room_0/Sequence_1", "room_1/Sequence_1", "room_10"), (),
                       ("room_1/Sequence_2",))  # fmt: skip
    assert leaked_scenes(lists).train == ("room_1/Sequence_1",)


def test_protocols_are_what_the_words_promise_of_the_gap():
    assert view_splits.CLEAN_GAP == 10
    for name in CLEAN:
        assert "within 10 frames" in VIEW_PROTOCOLS[name].words
