import numpy as np
import pytest

from gnesf_core.config import FusedDepthConfig
from gnesf_core.data import store
from gnesf_core.data.provenance import provenance
from gnesf_core.errors import BadInput
from gnesf_core.geometries import fused_depth
from gnesf_core.geometries.interface import Geometry
from tests.made_up import write_frames_file


def level(seed, shape, size_m):
    rng = np.random.default_rng(seed)
    # Values that float16 holds, as they come from a file.
    tsdf = rng.integers(-64, 65, shape).astype(np.float32) / 64
    weight = rng.integers(0, 3, shape).astype(np.uint16)
    return store.DistanceGrid(
        np.array([0.32, -0.64, 0]), size_m, 3 * size_m, tsdf, weight
    )


LEVELS = [level(0, (8, 6, 4), 0.04), level(1, (4, 3, 2), 0.08)]


@pytest.fixture
def scene(tmp_path):
    frames = write_frames_file(tmp_path, "s")
    return frames, write_targets(tmp_path / "targets.h5", frames)


def write_targets(path, frames_path):
    with store.Frames(frames_path) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        store.write_targets(path, frames.scene, LEVELS, made_by)
    return path


def open_level(number):
    settings = FusedDepthConfig(level=number)
    return fused_depth.open_geometry(settings, None, "cpu")


def reconstruct(scene, number):
    with store.Frames(scene[0]) as frames, store.Targets(scene[1]) as targets:
        return open_level(number).reconstruct(frames, targets)


@pytest.mark.parametrize("number", [0, 1])
def test_the_volume_is_the_level_of_the_targets(scene, number):
    volume = reconstruct(scene, number)

    expected = LEVELS[number]
    np.testing.assert_array_equal(volume.surface.tsdf, expected.tsdf)
    np.testing.assert_array_equal(volume.surface.weight, expected.weight)
    np.testing.assert_array_equal(volume.surface.origin_world, expected.origin_world)
    assert volume.surface.voxel_size_m == expected.voxel_size_m
    assert volume.surface.truncation_m == expected.truncation_m
    assert volume.encoding.shape == (0, 0) and volume.encoding_ijk.shape == (0, 3)


def test_a_surface_is_near_only_where_one_was_measured(scene):
    confidence = reconstruct(scene, 0).confidence

    for ijk in np.ndindex(confidence.shape):
        seen = LEVELS[0].weight[ijk] > 0
        near = -1 < LEVELS[0].tsdf[ijk] < 1
        assert confidence[ijk] == (1 if seen and near else 0)


def test_the_volume_comes_back_from_its_file(scene, tmp_path):
    volume = reconstruct(scene, 0)
    with store.Frames(scene[0]) as frames:
        made_by = provenance("test", {}, {"frames": frames.fingerprint})
        store.write_volume(tmp_path / "v.h5", frames, volume, made_by)
        with store.VolumeFile(tmp_path / "v.h5", frames) as file:
            back = file.volume()

    np.testing.assert_array_equal(back.surface.tsdf, volume.surface.tsdf)
    np.testing.assert_array_equal(back.surface.weight, volume.surface.weight)
    np.testing.assert_array_equal(back.confidence, volume.confidence)
    assert back.encoding.shape == (0, 0)


def test_targets_of_other_frames_are_refused(scene, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    others = write_frames_file(folder, "s", seed=1)

    with pytest.raises(BadInput, match=r"targets\.h5: input frames"):
        reconstruct((others, scene[1]), 0)


def test_a_level_that_is_not_there_is_refused_with_the_setting_to_change(scene):
    with pytest.raises(BadInput, match=r"targets\.h5: levels: .*targets\.levels"):
        reconstruct(scene, 2)


def test_it_says_that_it_needs_the_targets():
    geometry = open_level(0)

    assert isinstance(geometry, Geometry) and geometry.needs_targets
    assert geometry.inputs() == {}
