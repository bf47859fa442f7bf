"""Volumes by name: what a geometry is given, and what its file says of its making."""

import json
import logging

import numpy as np
import pytest

from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.errors import BadInput
from stages import fuse_features
from tests.made_up import write_frames_file

FUSED = json.dumps({"level": 0})
SWEEP = json.dumps(
    {"image_width": 48, "image_height": 32, "patch": 3, "depths": 8, "near_m": 1.0,
     "far_m": 5.0, "neighbours": 2, "baseline_m": 0.2, "min_score": -0.9,
     "voxel_size_m": 0.2, "truncation_voxels": 3.0}
)  # fmt: skip


@pytest.fixture
def scene(tmp_path):
    """Write frames of noise, and targets of which five voxels are near a surface."""
    frames_path = write_frames_file(tmp_path, "s", frames=8)
    tsdf = np.ones((6, 5, 4), np.float32)
    tsdf[2, :, 1] = -0.25
    tsdf[4] = 0.5  # never observed
    weight = np.ones(tsdf.shape, np.uint16)
    weight[4] = 0
    level = store.DistanceGrid(np.zeros(3), 0.04, 0.12, tsdf, weight)
    with store.Frames(frames_path) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        store.write_targets(tmp_path / "t.h5", "s", [level], made_by)
    return frames_path, tmp_path / "t.h5", tmp_path / "v.h5"


def inputs_of(scene):
    with store.Frames(scene[0]) as kept, store.VolumeFile(scene[2], kept) as file:
        assert file.provenance["stage"] == "fuse_features"
        return file.provenance["inputs"], file.provenance["recipe"], kept.fingerprint


def test_fused_depth_names_frames_and_targets(scene, caplog):
    frames, targets, out = scene
    with caplog.at_level(logging.INFO):
        fuse_features.main(frames, out, "fused_depth", FUSED, targets)

    inputs, recipe, fingerprint = inputs_of(scene)
    with store.Targets(targets) as fused:
        assert inputs == {"frames": fingerprint, "targets": fused.fingerprint}
    assert recipe == {"module": "fused_depth", "device": "cpu", "level": 0}
    assert "s: 5 voxels near surfaces" in caplog.text


def test_stereo_looks_at_nothing_but_the_frames(scene, tmp_path):
    frames, _, out = scene
    fuse_features.main(frames, out, "plane_sweep", SWEEP, tmp_path / "nowhere.h5")

    inputs, recipe, fingerprint = inputs_of(scene)
    assert inputs == {"frames": fingerprint}
    assert recipe["module"] == "plane_sweep" and recipe["depths"] == 8


def test_a_geometry_that_needs_targets_asks_for_them(scene):
    with pytest.raises(BadInput, match="--targets"):
        fuse_features.main(scene[0], scene[2], "fused_depth", FUSED)
    assert not scene[2].exists()
