"""The stages, one after the other, on a room whose every distance is known."""

import json
import zipfile

import numpy as np
import pytest

from gnesf_core.config import EvaluationConfig, FramesConfig, TargetsConfig
from gnesf_core.data import store
from gnesf_core.data.meshes import read_mesh
from gnesf_core.data.publish import read_json
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES, IGNORE
from stages import (
    cache_prior,
    evaluate_scene,
    export_labels,
    extract_frames,
    extract_mesh,
    fuse_features,
    fuse_targets,
    pack_submission,
    plot_scene,
    summarize,
)
from tests import tiny_room

FRAMES = FramesConfig(15.0, 0.1, 9, False, 10, 5)
TARGETS = TargetsConfig(0.08, 2, 3.0, 5.0)
EVALUATION = EvaluationConfig(0.1, 0.2, 0.04, 0.1, 5.0, 10.0)
FUSED = json.dumps({"level": 0})
LABELS = json.dumps({"map_width": 96, "map_height": 72})
MEAN = json.dumps(
    {"rule": "mean", "depth_tolerance_m": 0.12, "max_depth_m": 5.0, "max_weight": 64.0}
)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tiny_room.write_room(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def chain(room, tmp_path_factory):
    """Run every stage once and return where the results are."""
    out = tmp_path_factory.mktemp("results")
    names = ("frames.h5", "targets.h5", "volume.h5", "prior.h5", "cost.json",
             "oracle.ply")  # fmt: skip
    paths = {name: out / name for name in names}
    extract_frames.main(
        room.sens, paths["frames.h5"], room.scene, "scannet", FRAMES, room.labels,
        room.label_map,
    )  # fmt: skip
    fuse_targets.main(
        room.sens, paths["frames.h5"], paths["targets.h5"], "scannet", TARGETS
    )
    fuse_features.main(
        paths["frames.h5"], paths["volume.h5"], "fused_depth", FUSED,
        paths["targets.h5"],
    )  # fmt: skip
    cache_prior.main(
        paths["frames.h5"], paths["prior.h5"], paths["cost.json"], "labels", "labels",
        LABELS,
    )  # fmt: skip
    extract_mesh.main(
        paths["frames.h5"], paths["volume.h5"], paths["prior.h5"],
        paths["oracle.ply"], "fusion", MEAN,
    )  # fmt: skip
    paths["scores"] = out / "scores.json"
    evaluate_scene.main(
        paths["oracle.ply"], room.mesh_labels, paths["frames.h5"], paths["scores"],
        "oracle", EVALUATION,
    )  # fmt: skip
    return paths


def test_unusable_frames_are_named_with_their_reason(chain):
    with store.Frames(chain["frames.h5"]) as frames:
        assert store.FRAME_STATUS[frames.raw_status[7]] == "pose is not finite"
        assert store.FRAME_STATUS[frames.raw_status[9]] == "depth is missing or empty"
        assert (np.delete(frames.raw_status, [7, 9]) == store.USABLE).all()
        assert not np.isin([7, 9], frames.index).any()


def test_labels_reach_the_store_as_classes(chain):
    wall, floor = CLASS_NAMES.index("wall"), CLASS_NAMES.index("floor")
    chair = CLASS_NAMES.index("chair")
    expected = np.full(100, IGNORE)
    expected[[tiny_room.WALL, tiny_room.FLOOR, tiny_room.CHAIR]] = wall, floor, chair
    poses = tiny_room.camera_path(40)
    with store.Frames(chain["frames.h5"]) as frames:
        for position in (0, len(frames) - 1):
            pose = poses[frames.index[position]]
            _, ids = tiny_room.cast(pose, tiny_room.COLOR_SIZE)
            np.testing.assert_array_equal(frames.labels(position), expected[ids])


def test_the_mesh_lies_on_the_room(chain):
    mesh, about = read_mesh(chain["oracle.ply"])
    assert about["scene"] == "scene0000_00"
    points = mesh.vertices_world
    to_room = np.minimum(points - tiny_room.LOW, tiny_room.HIGH - points).min(axis=1)
    low, high = tiny_room.BLOCK_LOW, tiny_room.BLOCK_HIGH
    outside = np.maximum(np.maximum(low - points, points - high), 0)
    to_block = np.linalg.norm(outside, axis=1)
    distance = np.minimum(np.abs(to_room), to_block)
    assert len(points) > 2000
    assert np.mean(distance < 0.08) > 0.97  # one voxel


def test_the_oracle_is_nearly_right_where_the_cameras_looked(chain):
    scores = read_json(chain["scores"])
    assert scores["semantics"]["overall_accuracy"] > 0.93
    assert scores["geometry"]["trimmed"]["f_score"] > 0.9
    assert scores["depth"]["abs_rel"] < 0.05
    counts = np.array(scores["confusion"])
    assert counts.sum() == scores["vertices_truth"]
    absent = scores["semantics"]["classes_absent"]
    assert set(CLASS_NAMES) - set(absent) == {"wall", "floor", "chair"}


def test_the_submission_has_one_benchmark_id_per_vertex(chain, room, tmp_path):
    text, archive = tmp_path / "scene0000_00.txt", tmp_path / "submission.zip"
    export_labels.main(chain["oracle.ply"], room.mesh, text)
    pack_submission.main([text], archive)
    ids = np.loadtxt(text, dtype=int)
    vertices, nyu40 = tiny_room.truth_vertices()
    assert len(ids) == len(vertices)
    assert set(ids.tolist()) <= {0, 1, 2, 5}
    valid = np.isin(nyu40, [1, 2, 5])
    assert np.mean(ids[valid] == nyu40[valid]) > 0.93
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["scene0000_00.txt"]


def test_tables_state_their_protocol_and_add_counts_before_dividing(chain, tmp_path):
    names = ("fields", "classes", "scenes", "markdown", "html")
    out = {name: tmp_path / name for name in names}
    # Twice the same scene: sums double, ratios stay.
    summarize.main([chain["scores"], chain["scores"]], "tiny", "val", **out)
    page = " ".join(out["markdown"].read_text().split())
    for words in ("nearest predicted vertex", "void becomes wall", "Trimmed"):
        assert words in page and words in out["html"].read_text()
    one = read_json(chain["scores"])["semantics"]["miou"]
    assert f"| {100 * one:.1f} |" in page
    true_wall = read_json(chain["scores"])["semantics"]["classes"][0]["truth"]
    assert "oracle,wall," in out["classes"].read_text()
    assert f",{2 * true_wall}\n" in out["classes"].read_text()


def test_a_picture_shows_prediction_and_truth(chain, room, tmp_path):
    from PIL import Image

    truth = tmp_path / "truth.ply"
    mesh, _ = read_mesh(chain["oracle.ply"])
    from gnesf_core.data.scannet import write_mesh_labels

    write_mesh_labels(truth, mesh.vertices_world, mesh.faces, mesh.label * 0 + 1)
    mesh = chain["oracle.ply"]
    plot_scene.main([mesh, mesh], truth, tmp_path / "picture.png", ["oracle", "twin"])
    picture = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    assert min(picture.shape[:2]) > 600
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_every_result_can_be_traced_to_its_inputs(chain, room):
    with (
        store.Frames(chain["frames.h5"]) as frames,
        store.Targets(chain["targets.h5"]) as targets,
    ):
        from gnesf_core.data.publish import sha256_of

        assert frames.provenance["inputs"]["scan"] == sha256_of(room.sens)
        assert targets.provenance["inputs"]["frames"] == frames.fingerprint
        made_by = read_json(chain["scores"])["provenance"]
        assert made_by["inputs"]["frames"] == frames.fingerprint


def test_targets_of_another_scan_are_refused(chain, tmp_path):
    other = tiny_room.write_room(tmp_path, frames=12, bad_poses=(), empty_depth=())
    with pytest.raises(BadInput, match="the scan that"):
        fuse_targets.main(
            other.sens, chain["frames.h5"], tmp_path / "t.h5", "scannet", TARGETS
        )
    frames = tmp_path / "frames.h5"
    extract_frames.main(other.sens, frames, other.scene, "scannet", FRAMES)
    with pytest.raises(BadInput, match="input frames"):
        extract_mesh.main(
            frames, chain["volume.h5"], chain["prior.h5"], tmp_path / "m.ply",
            "fusion", MEAN,
        )  # fmt: skip


def test_the_prior_of_another_scene_is_refused(chain, tmp_path):
    other = tiny_room.write_room(tmp_path, scene="scene0001_00", frames=12)
    frames, prior = tmp_path / "frames.h5", tmp_path / "prior.h5"
    extract_frames.main(other.sens, frames, other.scene, "scannet", FRAMES)
    cache_prior.main(frames, prior, tmp_path / "c.json", "labels", "labels", LABELS)
    with pytest.raises(BadInput, match="prior.h5: attribute scene"):
        extract_mesh.main(
            chain["frames.h5"], chain["volume.h5"], prior, tmp_path / "m.ply",
            "fusion", MEAN,
        )  # fmt: skip
    assert not (tmp_path / "m.ply").exists()


def test_a_mesh_of_other_frames_is_refused(chain, room, tmp_path):
    frames = tmp_path / "frames.h5"
    extract_frames.main(room.sens, frames, room.scene, "scannet", FRAMES)  # no labels
    with pytest.raises(BadInput, match="oracle.ply: input frames"):
        evaluate_scene.main(
            chain["oracle.ply"], room.mesh_labels, frames, tmp_path / "s.json",
            "oracle", EVALUATION,
        )  # fmt: skip


def test_a_scan_whose_tracking_was_lost_fails_with_the_reason(tmp_path):
    room = tiny_room.write_room(tmp_path, frames=5, bad_poses=range(5))
    with pytest.raises(BadInput, match="5 x pose is not finite"):
        extract_frames.main(room.sens, tmp_path / "f.h5", room.scene, "scannet", FRAMES)
    assert not (tmp_path / "f.h5").exists()


def test_a_missing_label_archive_is_named(room, tmp_path):
    with pytest.raises(BadInput, match="nowhere.zip"):
        extract_frames.main(
            room.sens, tmp_path / "f.h5", room.scene, "scannet", FRAMES,
            tmp_path / "nowhere.zip", room.label_map,
        )  # fmt: skip


def test_a_scene_without_labels_still_gets_a_mesh_and_a_submission(room, tmp_path):
    frames, targets = tmp_path / "frames.h5", tmp_path / "targets.h5"
    extract_frames.main(room.sens, frames, room.scene, "scannet", FRAMES)
    fuse_targets.main(room.sens, frames, targets, "scannet", TARGETS)
    prior, cost = tmp_path / "p.h5", tmp_path / "c.json"
    cache_prior.main(frames, prior, cost, "labels", "labels", LABELS)
    volume = tmp_path / "volume.h5"
    fuse_features.main(frames, volume, "fused_depth", FUSED, targets)
    extract_mesh.main(frames, volume, prior, tmp_path / "m.ply", "fusion", MEAN)
    mesh, _ = read_mesh(tmp_path / "m.ply")
    assert len(mesh.vertices_world) > 1000 and (mesh.label == IGNORE).all()
    export_labels.main(tmp_path / "m.ply", room.mesh, tmp_path / "s.txt")
    assert set((tmp_path / "s.txt").read_text().split()) == {"0"}


def test_an_empty_prediction_scores_zero(chain, room, tmp_path):
    from gnesf_core.data.meshes import LabelledMesh, write_mesh

    empty = LabelledMesh(
        np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32),
        np.zeros(0, np.uint8), np.zeros(0, np.float32), np.zeros((0, 3), np.uint8),
    )  # fmt: skip
    with store.Frames(chain["frames.h5"]) as frames:
        made_by = {"inputs": {"frames": frames.fingerprint}}
    write_mesh(tmp_path / "e.ply", "scene0000_00", empty, made_by)
    evaluate_scene.main(
        tmp_path / "e.ply", room.mesh_labels, chain["frames.h5"], tmp_path / "e.json",
        "oracle", EVALUATION,
    )  # fmt: skip
    scores = read_json(tmp_path / "e.json")
    assert scores["semantics"]["miou"] == 0.0
    assert scores["geometry"]["whole"]["f_score"] == 0.0
    assert scores["geometry"]["whole"]["empty_prediction"] is True


def test_replica_goes_through_the_same_store(tmp_path):
    folder, truth = tiny_room.write_replica(tmp_path)
    frames, targets = tmp_path / "frames.h5", tmp_path / "targets.h5"
    trajectory = folder / "traj_w_c.txt"
    extract_frames.main(
        trajectory, frames, "room_0", "replica", FRAMES, trajectory,
        tmp_path / "labels.tsv",
    )  # fmt: skip
    fuse_targets.main(trajectory, frames, targets, "replica", TARGETS)
    wall, floor = CLASS_NAMES.index("wall"), CLASS_NAMES.index("floor")
    with store.Frames(frames, "room_0") as kept, store.Targets(targets) as fused:
        assert kept.color_encoding == "png"
        depth_m, ids = truth[kept.index[3]]
        np.testing.assert_allclose(kept.depth_m(3), depth_m, atol=6e-4)
        assert (kept.labels(3)[ids == tiny_room.WALL] == wall).all()
        assert (kept.labels(3)[ids == tiny_room.FLOOR] == floor).all()
        assert (kept.labels(3)[ids == tiny_room.CEILING] == IGNORE).all()
        # The room's planes are where the zero level is.
        level = fused.level(0)
        assert (level.weight > 0).mean() > 0.3
