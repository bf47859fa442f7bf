"""Judging geometries, from volumes of a known room to JSON, tables and pictures."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gnesf_core.config import EvaluationConfig, FramesConfig, TargetsConfig
from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.data.publish import read_json, sha256_of
from gnesf_core.data.scannet import write_mesh_labels
from gnesf_core.errors import BadInput
from stages import (
    evaluate_geometry,
    extract_frames,
    fuse_targets,
    plot_geometry,
    summarize_geometries,
)
from tests import tiny_room

FRAMES = FramesConfig(15.0, 0.1, 9, False, 10, 5)
TARGETS = TargetsConfig(0.08, 2, 3.0, 5.0)
EVALUATION = EvaluationConfig(0.05, 0.1, 0.04, 0.1, 5.0, 10.0)
NAMES = ("fused", "shifted", "floaters", "empty")
SHIFT_M = 0.03
CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4),
         (1, 5, 7, 3)]  # fmt: skip


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tiny_room.write_room(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def scene(room, tmp_path_factory):
    """Write frames, targets, four volumes and two kinds of truth."""
    folder = tmp_path_factory.mktemp("scene")
    frames, targets = folder / "frames.h5", folder / "targets.h5"
    extract_frames.main(room.sens, frames, room.scene, "scannet", FRAMES)
    fuse_targets.main(room.sens, frames, targets, "scannet", TARGETS)
    with store.Targets(targets) as fused:
        level = fused.level(0)
    # Along the diagonal every wall, floor and ceiling moves by as much.
    shifted = replace(level, origin_world=level.origin_world + SHIFT_M)
    floaters = replace(level, tsdf=level.tsdf.copy())
    floaters.tsdf[free_voxels(level)] = -0.5
    empty = replace(level, weight=np.zeros_like(level.weight))
    for name, grid in zip(NAMES, (level, shifted, floaters, empty), strict=True):
        write_volume_file(folder / f"{name}.h5", frames, grid)
    points, ids = tiny_room.truth_vertices(0.02)
    no_faces = np.zeros((0, 3), np.int32)
    write_mesh_labels(folder / "points.ply", points, no_faces, ids)
    vertices, faces = box_mesh()
    ids = np.ones(len(vertices), np.uint16)
    write_mesh_labels(folder / "truth.ply", vertices, faces, ids)
    return folder


def free_voxels(level):
    """Return some of the free voxels of the fused depth."""
    free = np.argwhere((level.tsdf >= 0.999) & (level.weight >= 2))
    return tuple(free[:: len(free) // 20].T)


def box_mesh():
    """Return the room's walls and its block as a few big triangles."""
    low, high = tiny_room.LOW, tiny_room.HIGH
    room = low + CORNERS * (high - low)
    low, high = tiny_room.BLOCK_LOW, tiny_room.BLOCK_HIGH
    block = low + CORNERS * (high - low)
    bottom = SIDES.index((0, 2, 6, 4))
    quads = np.array(SIDES + [[k + 8 for k in s] for s in np.delete(SIDES, bottom, 0)])
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return np.concatenate([room, block]), faces.astype(np.int32)


def write_volume_file(path, frames_path, grid):
    ijk, encoding = np.array([[0, 0, 0], [1, 2, 3]]), np.zeros((2, 5), np.float32)
    volume = store.SceneVolume(grid, np.zeros_like(grid.tsdf), ijk, encoding)
    with store.Frames(frames_path) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        store.write_volume(path, frames, volume, made_by)


def evaluate(scene, name, out, truth="truth.ply"):
    evaluate_geometry.main(
        scene / f"{name}.h5", scene / "frames.h5", scene / "targets.h5",
        scene / truth, out, name, EVALUATION,
    )  # fmt: skip
    return read_json(out)


@pytest.fixture(scope="module")
def scores(scene):
    return {name: evaluate(scene, name, scene / f"{name}.json") for name in NAMES}


def test_scores_name_their_geometry_and_can_be_traced(scene, scores):
    about = scores["shifted"]
    assert (about["scene"], about["geometry"]) == ("scene0000_00", "shifted")
    assert about["volume_bytes"] == (scene / "shifted.h5").stat().st_size
    assert (about["voxels_with_encoding"], about["encoding_channels"]) == (2, 5)
    inputs = about["provenance"]["inputs"]
    with (
        store.Frames(scene / "frames.h5") as frames,
        store.VolumeFile(scene / "shifted.h5", frames) as volume,
        store.Targets(scene / "targets.h5") as targets,
    ):
        assert inputs == {
            "frames": frames.fingerprint,
            "volume": volume.fingerprint,
            "targets": targets.fingerprint,
            "truth": sha256_of(scene / "truth.ply"),
        }
    assert about["provenance"]["recipe"]["coarse_threshold_m"] == 0.1


def test_the_fused_depth_is_right_and_agrees_with_itself(scores):
    fused = scores["fused"]
    assert fused["surface"]["trimmed"]["f_score"] > 0.9
    assert fused["surface"]["trimmed"]["coarse_f_score"] > 0.95
    assert fused["depth"]["abs_rel"] < 0.03
    signed = fused["signed_distance"]
    assert signed["mean_error_m"] == signed["free_space_occupied"] == 0.0
    assert signed["coverage"] == signed["sign_agreement"] == 1.0


def test_a_shift_shows_in_every_distance(scores):
    fused, shifted = scores["fused"], scores["shifted"]
    accuracy = [
        about["surface"]["whole"]["accuracy_predicted_to_truth_m"]
        for about in (fused, shifted)
    ]
    # The points of both surfaces are 4 cm apart: 3 cm off is 3 to 4 cm away.
    assert accuracy[1] - accuracy[0] > 0.01
    assert SHIFT_M < accuracy[1] < 0.05
    assert SHIFT_M * 0.7 < shifted["signed_distance"]["mean_error_m"] < SHIFT_M * 1.3
    assert shifted["signed_distance"]["coverage"] > 0.8
    assert shifted["depth"]["abs_diff_m"] > fused["depth"]["abs_diff_m"] + 0.01
    assert shifted["faces"] == fused["faces"]


def test_floaters_are_found_in_free_space(scene, scores):
    signed = scores["floaters"]["signed_distance"]
    with store.Targets(scene / "targets.h5") as targets:
        added = len(free_voxels(targets.level(0))[0])
    assert added > 15
    occupied = added / signed["voxels_free"]
    assert signed["free_space_occupied"] == pytest.approx(occupied)


def test_an_empty_volume_scores_zero(scores):
    empty = scores["empty"]
    assert empty["vertices"] == empty["faces"] == 0
    assert empty["surface"]["trimmed"]["f_score"] == 0.0
    assert empty["surface"]["whole"]["accuracy_predicted_to_truth_m"] is None
    assert empty["signed_distance"]["coverage"] == 0.0
    assert empty["depth"]["frames_without_error"] == empty["depth"]["frames"]


def test_big_triangles_are_worth_as_much_as_points_on_them(scene, scores, tmp_path):
    of_points = evaluate(scene, "fused", tmp_path / "s.json", "points.ply")
    for extent in ("whole", "trimmed"):
        for name in ("f_score", "coarse_f_score"):
            found, other = (
                s["surface"][extent][name] for s in (of_points, scores["fused"])
            )
            assert found == pytest.approx(other, abs=0.02)


def test_volumes_and_targets_of_other_frames_are_refused(scene, room, tmp_path):
    other = tmp_path / "frames.h5"
    fewer = replace(FRAMES, view_stride=0)
    extract_frames.main(room.sens, other, room.scene, "scannet", fewer)
    arguments = scene / "truth.ply", tmp_path / "out"
    with pytest.raises(BadInput, match=r"fused\.h5: input frames"):
        evaluate_geometry.main(
            scene / "fused.h5", other, scene / "targets.h5", *arguments, "fused",
            EVALUATION,
        )  # fmt: skip
    with pytest.raises(BadInput, match=r"fused\.h5: input frames"):
        plot_geometry.main(
            [scene / "fused.h5"], other, *arguments, ["fused"], EVALUATION
        )
    with store.Targets(scene / "targets.h5") as fused:
        write_volume_file(tmp_path / "own.h5", other, fused.level(0))
    with pytest.raises(BadInput, match=r"targets\.h5: input frames"):
        evaluate_geometry.main(
            tmp_path / "own.h5", other, scene / "targets.h5", *arguments, "own",
            EVALUATION,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_volume_of_another_scene_is_refused(scene, tmp_path):
    other = tiny_room.write_room(tmp_path, scene="scene0001_00", frames=12)
    frames = tmp_path / "frames.h5"
    extract_frames.main(other.sens, frames, other.scene, "scannet", FRAMES)
    with pytest.raises(BadInput, match=r"fused\.h5: attribute scene"):
        evaluate_geometry.main(
            scene / "fused.h5", frames, scene / "targets.h5", scene / "truth.ply",
            tmp_path / "out", "fused", EVALUATION,
        )  # fmt: skip


def test_tables_are_by_geometry_and_by_scene(scene, scores, tmp_path):
    names = ("geometries", "scenes", "markdown", "html")
    out = {name: tmp_path / name for name in names}
    paths = [scene / f"{name}.json" for name in NAMES]

    summarize_geometries.main(paths, "tiny", "val", **out)

    page = " ".join(out["markdown"].read_text().split())
    for words in ("within 5 cm and 10 cm", "at most 4 cm apart", "Mean over scenes"):
        assert words in page and words in out["html"].read_text()
    assert "Geometries on tiny, val split" in page
    with out["geometries"].open() as file:
        lines = {line["geometry"]: line for line in csv.DictReader(file)}
    assert list(lines) == list(NAMES)
    assert lines["empty"]["trimmed_f_score"] == "0.0"
    assert lines["empty"]["trimmed_accuracy_predicted_to_truth_m"] == ""
    assert lines["empty"]["trimmed_scenes_with_surface"] == "0"
    fused = float(lines["fused"]["trimmed_f_score"])
    assert fused == scores["fused"]["surface"]["trimmed"]["f_score"]
    with out["scenes"].open() as file:
        assert len(list(csv.DictReader(file))) == len(NAMES)


def cells_of(path, columns):
    """Cut a picture into its rows and columns, roughly; return their pixels."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert 340 * columns < pixels.shape[1] < 440 * columns
    rows = np.array_split(pixels[80:], 3, axis=0)
    return [np.array_split(row[:, 30:], columns, axis=1) for row in rows]


def dark(cell):
    return (cell.max(axis=2) < 80).mean()


def drawn(cell):
    return (cell.min(axis=2) < 250).mean()


@pytest.mark.slow
def test_a_picture_shows_surfaces_errors_and_what_is_missing(
    scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(plot_geometry, "SIZE", (80, 60))
    monkeypatch.setattr(plot_geometry, "SPACING_M", 0.03)
    monkeypatch.setattr(plot_geometry, "FACET_M", 0.3)
    volumes = [scene / f"{name}.h5" for name in ("fused", "empty")]
    with store.Targets(scene / "targets.h5") as fused:
        level = fused.level(0)
    far = replace(level, origin_world=level.origin_world + [0.2, 0.2, -0.2])
    write_volume_file(tmp_path / "far.h5", scene / "frames.h5", far)
    out = tmp_path / "picture.png"

    plot_geometry.main(
        [*volumes, tmp_path / "far.h5"], scene / "frames.h5", scene / "truth.ply", out,
        ["fused", "empty", "far"], EVALUATION,
    )  # fmt: skip

    surface, errors, missing = cells_of(out, 4)
    assert drawn(surface[0]) > 0.6 and drawn(surface[2]) > 0.5
    assert drawn(surface[3]) > 0.6  # the truth
    assert drawn(surface[1]) < 0.1 and drawn(errors[1]) < 0.1
    # Black is 10 cm off, and so is everything that was not found at all.
    assert dark(missing[1]) > 0.6 and dark(errors[2]) > 0.2
    assert dark(errors[0]) < 0.1 and dark(missing[0]) < 0.3


def test_a_truth_of_points_is_no_obstacle(scene, room, tmp_path, monkeypatch):
    monkeypatch.setattr(plot_geometry, "SIZE", (80, 60))
    monkeypatch.setattr(plot_geometry, "SPACING_M", 0.03)
    monkeypatch.setattr(plot_geometry, "FACET_M", 0.3)
    out = tmp_path / "picture.png"
    plot_geometry.main(
        [scene / "fused.h5"], scene / "frames.h5", room.mesh, out, ["fused"], EVALUATION
    )
    surface, errors, _ = cells_of(out, 2)
    assert drawn(surface[0]) > 0.5 and drawn(errors[0]) > 0.5
    assert drawn(surface[1]) < 0.1


def test_the_command_line_names_every_argument(scene, tmp_path, monkeypatch):
    from dataclasses import asdict

    from stages.cli import run

    command = ["evaluate_geometry"]
    for name in ("frames", "targets"):
        command += [f"--{name}", str(scene / f"{name}.h5")]
    command += ["--volume", str(scene / "fused.h5"), "--geometry", "fused"]
    command += ["--truth", str(scene / "points.ply"), "--out", str(tmp_path / "s.json")]
    command += ["--config", json.dumps(asdict(EVALUATION))]
    monkeypatch.setattr("sys.argv", command)
    run(evaluate_geometry.main)
    assert read_json(tmp_path / "s.json")["geometry"] == "fused"
