"""Means over scenes of made-up scores."""

import pytest

from gnesf_core.evaluation import geometry_summary, tables

SHARES = ("precision_predicted_to_truth", "recall_truth_to_predicted", "f_score")
DEPTH = ("abs_rel", "abs_diff_m", "sq_rel_m", "rmse_m", "log_rmse", "r1", "r2", "r3")


def surface(f_score, accuracy_m):
    shares = dict.fromkeys(SHARES, f_score)
    further = {f"coarse_{name}": value for name, value in shares.items()}
    return shares | further | {
        "threshold_m": 0.05, "coarse_threshold_m": 0.1, "down_sample_m": 0.02,
        "trim_tolerance_m": 0.07, "trim_depth_m": 3.0,
        "accuracy_predicted_to_truth_m": accuracy_m,
        "completeness_truth_to_predicted_m": accuracy_m,
    }  # fmt: skip


def row(geometry, scene, f_score, error=0.04):
    """Score a scene; without an error nothing was found in it."""
    signed = {"mean_error_m": error, "sign_agreement": error, "coverage": f_score}
    signed |= {"free_space_occupied": 0.01, "compared_up_to_m": 0.12}
    depth = dict.fromkeys(DEPTH, error) | {"completeness": f_score}
    return {
        "geometry": geometry, "scene": scene, "signed_distance": signed,
        "surface": {
            "trimmed": surface(f_score, error), "whole": surface(f_score, error),
        },
        "depth": depth | {"completeness_all_pixels": 0.5},
        "vertices": 100 if error else 0, "faces": 200, "voxels_observed": 300,
        "voxels_with_encoding": 50, "volume_bytes": 3_000_000,
    }  # fmt: skip


ROWS = [
    row("neucon", "scene0000_00", 0.8),
    row("neucon", "scene0001_00", 0.6, error=0.02),
    row("neucon", "scene0002_00", 0.0, error=None),
    row("fused-depth", "scene0000_00", 1.0),
]


def test_a_scene_without_a_surface_lowers_shares_and_enters_no_distance():
    neucon, fused = geometry_summary.per_geometry(ROWS)

    assert (neucon["geometry"], fused["geometry"]) == ("neucon", "fused-depth")
    assert neucon["scenes"] == 3 and fused["scenes"] == 1
    for extent in ("trimmed", "whole"):
        assert neucon[f"{extent}_f_score"] == pytest.approx(1.4 / 3)
        assert neucon[f"{extent}_coarse_f_score"] == pytest.approx(1.4 / 3)
        distance = neucon[f"{extent}_accuracy_predicted_to_truth_m"]
        assert distance == pytest.approx(0.03)
        assert neucon[f"{extent}_scenes_scored"] == 3
        assert neucon[f"{extent}_scenes_with_surface"] == 2
    assert neucon["depth_abs_rel"] == pytest.approx(0.03)
    assert neucon["depth_completeness"] == pytest.approx(1.4 / 3)
    assert neucon["depth_scenes_scored"] == 2
    assert neucon["signed_distance_mean_error_m"] == pytest.approx(0.03)
    assert neucon["signed_distance_coverage"] == pytest.approx(1.4 / 3)
    assert neucon["signed_distance_scenes_scored"] == 2
    assert neucon["vertices"] == pytest.approx(200 / 3)


def test_a_scene_without_truth_enters_no_mean():
    unknown = row("neucon", "scene0003_00", None, error=None)
    line = geometry_summary.per_geometry([*ROWS[:2], unknown])[0]
    assert line["trimmed_f_score"] == pytest.approx(0.7)
    assert (line["scenes"], line["trimmed_scenes_scored"]) == (3, 2)


def test_scenes_come_worst_first_within_their_geometry():
    lines = geometry_summary.per_scene([row("neucon", "unjudged", None), *ROWS])
    order = [(line["geometry"], line["scene"][:9]) for line in lines]
    assert order == [
        ("neucon", "scene0002"), ("neucon", "scene0001"), ("neucon", "scene0000"),
        ("neucon", "unjudged"), ("fused-depth", "scene0000"),
    ]  # fmt: skip
    assert lines[0]["trimmed_accuracy_predicted_to_truth_m"] is None


def test_pages_state_the_protocol_and_how_many_scenes_entered_a_mean():
    page = tables.markdown("Geometries", geometry_summary.blocks(ROWS))
    words = " ".join(page.split())
    for protocol in (
        "Surface, within 5 cm and 10 cm", "at most 2 cm apart", "Mean over scenes",
        "more than 7 cm behind the depth", "further from it than 3 m", "(12 cm)",
        "two frames or more",
    ):  # fmt: skip
        assert protocol in words
    assert "| neucon | trimmed | 3 of 3 |" + 6 * " 0.467 |" + " 2 of 3 |" in page
    assert "| neucon | 2 of 3 | 0.030 | 3.0 | 46.7 | 1.0 |" in page
    assert "| neucon | scene0002_00 | 0.000 | 0.000 | - | - | - | - |" in page
    assert "| fused-depth | 1 | 100 | 200 | 300 | 50 | 3.00 |" in page


def test_only_the_worst_scenes_are_on_the_page_and_all_are_in_the_table():
    many = [row("neucon", f"scene{n:04d}_00", n / 100) for n in range(1, 31)]
    page = tables.markdown("Geometries", geometry_summary.blocks(many))
    assert "scene0010_00" in page and "scene0011_00" not in page
    assert len(geometry_summary.per_scene(many)) == 30
