"""What is written comes back; what is damaged, foreign or hostile is refused."""

import json
import zlib
from dataclasses import replace

import h5py
import numpy as np
import pytest

from gnesf_core.data import images, store
from gnesf_core.data.container import Container, write_container
from gnesf_core.data.provenance import provenance, recipe_digest
from gnesf_core.data.scan import ScanInfo
from gnesf_core.errors import BadInput
from tests.made_up import write_frames_file

COLOR, DEPTH = (20, 16), (12, 10)  # width, height


def scene_info(tmp_path, depth_encoding="zlib"):
    return ScanInfo(
        tmp_path / "scan.sens", 5, *COLOR, *DEPTH,
        np.array([[30.0, 0, 9.5], [0, 30, 7.5], [0, 0, 1]]),
        np.array([[18.0, 0, 5.5], [0, 18, 4.5], [0, 0, 1]]),
        1000.0, "jpeg", depth_encoding,
    )  # fmt: skip


def write_scene(tmp_path, path, *, streams=True, labels=True, seed=0):
    rng = np.random.default_rng(seed)
    info = scene_info(tmp_path)
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, 0, 3] = np.arange(5)
    poses[2] = -np.inf
    status = np.array([0, 0, 1, 0, 0], np.uint8)
    selection = store.Selection(
        np.array([0, 1, 4]), np.array([True, False, True]),
        np.array([False, True, True]), np.array([[0, 2]]),
    )  # fmt: skip
    frames = []
    made_by = provenance("test", {"a": 1}, {"scan": "abc"})
    with store.write_frames(
        path, "scene0000_00", info, poses, status, selection, labels, made_by
    ) as writer:
        for _ in selection.index:
            rgb = rng.integers(0, 255, (*COLOR[::-1], 3), dtype=np.uint8)
            depth = rng.integers(0, 5000, DEPTH[::-1], dtype=np.uint16)
            depth[0, :2] = 0, 65535
            label = rng.integers(0, 20, COLOR[::-1], dtype=np.uint8)
            jpeg = images.encode_jpeg(rgb, 90)
            stream = zlib.compress(depth.astype("<u2").tobytes())
            writer.add(jpeg, stream if streams else depth, label if labels else None)
            frames.append((jpeg, depth, label))
    return frames, poses


@pytest.mark.parametrize("streams", [True, False])
def test_frames_come_back_as_they_were(tmp_path, streams):
    path = tmp_path / "frames.h5"
    written, poses = write_scene(tmp_path, path, streams=streams)
    with store.Frames(path, "scene0000_00") as frames:
        assert len(frames) == 3
        assert frames.index.tolist() == [0, 1, 4]
        assert frames.fragments.tolist() == [[0, 2]]
        np.testing.assert_array_equal(frames.world_from_camera, poses[[0, 1, 4]])
        for position, (jpeg, depth, label) in enumerate(written):
            assert frames.color_bytes(position) == jpeg
            expected_m = np.where(depth == 65535, 0, depth / 1000.0)
            np.testing.assert_allclose(frames.depth_m(position), expected_m, rtol=1e-6)
            np.testing.assert_array_equal(frames.labels(position), label)
            assert frames.color(position).shape == (16, 20, 3)


def test_any_hdf5_reader_can_read_the_copied_depth_streams(tmp_path):
    path = tmp_path / "frames.h5"
    written, _ = write_scene(tmp_path, path)
    with h5py.File(path) as file:  # no code of ours
        for position, (_, depth, _) in enumerate(written):
            np.testing.assert_array_equal(file["depth/frames"][position], depth)


def test_equal_content_gives_equal_files_and_other_content_another_fingerprint(
    tmp_path,
):
    for name, seed in (("a.h5", 0), ("b.h5", 0), ("c.h5", 1)):
        write_scene(tmp_path, tmp_path / name, seed=seed)
    a, b, c = (store.Frames(tmp_path / name) for name in ("a.h5", "b.h5", "c.h5"))
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_scene_without_labels_says_so(tmp_path):
    write_scene(tmp_path, tmp_path / "a.h5", labels=False)
    with store.Frames(tmp_path / "a.h5") as frames:
        assert not frames.has_labels


def test_a_scene_without_depth_says_so_and_names_what_needs_none(tmp_path):
    path = tmp_path / "a.h5"
    info = replace(scene_info(tmp_path), depth_width=0, depth_height=0)
    assert not info.has_depth
    jpeg = images.encode_jpeg(np.zeros((*COLOR[::-1], 3), np.uint8), 90)
    kept = np.array([True])
    selection = store.Selection(np.array([0]), kept, kept, np.array([[0]]))
    made_by = provenance("test", {}, {"scan": "abc"})
    with store.write_frames(
        path, "s", info, np.eye(4)[None], np.zeros(1, np.uint8), selection, False,
        made_by,
    ) as writer:  # fmt: skip
        writer.add(jpeg, None, None)
    with store.Frames(path) as frames:
        assert frames.color_bytes(0) == jpeg and not frames.has_depth
        for ask in (
            lambda: frames.depth_m(0),
            lambda: frames.depth_size,
            lambda: frames.depth_intrinsics,
        ):
            with pytest.raises(BadInput, match="depth.*neucon or plane_sweep"):
                ask()


def test_targets_come_back_in_physical_units(tmp_path):
    tsdf = np.linspace(-1, 1, 4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    weight = np.arange(120, dtype=np.uint16).reshape(4, 5, 6)
    level = store.DistanceGrid(np.array([1.0, 2.0, 3.0]), 0.04, 0.12, tsdf, weight)
    path = tmp_path / "targets.h5"
    store.write_targets(path, "s", [level], provenance("t", {}, {"frames": "f"}))
    with store.Targets(path, "s") as targets:
        read = targets.level(0)
        targets.expect_input("frames", "f")
        with pytest.raises(BadInput, match="made from f"):
            targets.expect_input("frames", "another")
    np.testing.assert_allclose(read.tsdf, tsdf, atol=2.0**-11)
    np.testing.assert_array_equal(read.weight, weight)
    assert (read.voxel_size_m, read.truncation_m) == (0.04, 0.12)


def test_another_kind_or_scene_is_refused(tmp_path):
    write_scene(tmp_path, tmp_path / "a.h5")
    with pytest.raises(BadInput, match="expected targets, found frames"):
        store.Targets(tmp_path / "a.h5")
    with pytest.raises(BadInput, match="attribute scene"):
        store.Frames(tmp_path / "a.h5", "scene0001_00")
    with pytest.raises(BadInput, match="no such file"):
        store.Frames(tmp_path / "missing.h5")


def read_everything(path):
    with store.Frames(path, "scene0000_00") as frames:
        return [
            frames.raw_status.tobytes(),
            frames.world_from_camera.tobytes(),
            *(frames.color_bytes(i) for i in range(len(frames))),
            *(frames.depth_m(i).tobytes() for i in range(len(frames))),
            *(frames.labels(i).tobytes() for i in range(len(frames))),
        ]


def test_damage_is_refused_and_never_read_as_data(tmp_path):
    path = tmp_path / "a.h5"
    write_scene(tmp_path, path)
    whole, expected = path.read_bytes(), read_everything(path)
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, 8 * len(whole), 400).tolist():
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        try:
            assert read_everything(path) == expected  # unused bytes may differ
        except BadInput:
            refused += 1
    assert refused > 100
    for length in rng.integers(0, len(whole), 60).tolist():
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput):
            read_everything(path)


def test_an_unfinished_file_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    write_scene(tmp_path, path)
    with h5py.File(path, "r+") as file:
        del file.attrs["complete"]
    with pytest.raises(BadInput, match="attribute complete"):
        store.Frames(path)


@pytest.mark.parametrize("kind", ["external", "soft", "storage", "huge", "shape"])
def test_data_sets_that_lead_elsewhere_or_lie_about_their_size_are_refused(
    tmp_path, kind
):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\7" * 8)
    path = tmp_path / "a.h5"
    with write_container(path, "frames", "s", {"inputs": {}}) as writer:
        file = writer.file
        if kind == "external":
            file["raw/status"] = h5py.ExternalLink(str(secret), "x")
        elif kind == "soft":
            file["raw/status"] = h5py.SoftLink("/raw/status")
        elif kind == "storage":
            file.create_dataset(
                "raw/status", (8,), "u1", external=[(str(secret), 0, 8)]
            )
        elif kind == "huge":
            file.create_dataset("raw/status", (1 << 40,), "u1", chunks=(1 << 16,))
        else:
            file.create_dataset("raw/status", (2, 4), "u1")
    with Container(path, "frames") as container, pytest.raises(BadInput):
        container.array("raw/status", "u1", (8,))


def test_provenance_tells_recipes_apart_by_value_not_by_order():
    assert recipe_digest({"a": 1, "b": 2}) == recipe_digest({"b": 2, "a": 1})
    assert recipe_digest({"a": 1}) != recipe_digest({"a": 2})
    text = json.dumps(provenance("s", {"a": 1}, {"x": "y"}, seed=3))
    assert json.loads(text)["seed"] == 3


@pytest.mark.parametrize("library", ["isal", "zlib"])
def test_frames_read_alike_with_and_without_isal(tmp_path, monkeypatch, library):
    frames, _ = write_scene(tmp_path, tmp_path / "a.h5", streams=False)
    if library == "zlib":
        monkeypatch.setattr("gnesf_core.data.deflate._library", lambda: zlib)
    write_scene(tmp_path, tmp_path / "b.h5", streams=False)
    with (
        store.Frames(tmp_path / "a.h5") as ours,
        store.Frames(tmp_path / "b.h5") as own,
    ):
        assert ours.fingerprint == own.fingerprint
        for position, (_, _, label) in enumerate(frames):
            assert np.array_equal(ours.labels(position), label)
            assert np.array_equal(own.labels(position), label)
    with h5py.File(tmp_path / "b.h5") as plain:
        assert np.array_equal(plain["labels/frames"][1], frames[1][2])


def test_every_flipped_bit_of_a_chunk_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "f.h5"
    frames, _ = write_scene(tmp_path, path, streams=False)
    with h5py.File(path) as file:
        chunk = file["labels/frames"].id.get_chunk_info(1)
    data, noticed = path.read_bytes(), 0
    for bit in range(0, 8 * chunk.size, 7):
        damaged = bytearray(data)
        damaged[chunk.byte_offset + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with store.Frames(path) as kept:
            try:
                assert np.array_equal(kept.labels(1), frames[1][2])
            except BadInput:
                noticed += 1
    assert noticed > 0.95 * (8 * chunk.size // 7)


def made_volume(**changes):
    tsdf = np.linspace(-1, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    weight = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    grid = store.DistanceGrid(np.array([1.0, 2.0, 3.0]), 0.08, 0.12, tsdf, weight)
    values = {
        "surface": grid,
        "confidence": np.abs(tsdf),
        "encoding_ijk": np.array([[0, 1, 2], [2, 3, 4]]),
        "encoding": np.array([[0.5, -1.0], [2.0, 0.25]], np.float32),
    }
    return store.SceneVolume(**(values | changes))


@pytest.fixture
def kept(tmp_path):
    with store.Frames(write_frames_file(tmp_path, "scene0000_00")) as frames:
        yield frames


def write_made_volume(kept, path, volume):
    made_by = {"inputs": {"frames": kept.fingerprint}}
    store.write_volume(path, kept, volume, made_by)


def test_a_volume_comes_back(kept, tmp_path):
    volume = made_volume()
    write_made_volume(kept, tmp_path / "v.h5", volume)
    with store.VolumeFile(tmp_path / "v.h5", kept) as file:
        found = file.volume()
    np.testing.assert_allclose(found.surface.tsdf, volume.surface.tsdf, atol=5e-4)
    np.testing.assert_array_equal(found.surface.weight, volume.surface.weight)
    np.testing.assert_allclose(found.confidence, volume.confidence, atol=1 / 510 + 1e-6)
    np.testing.assert_array_equal(found.encoding_ijk, volume.encoding_ijk)
    np.testing.assert_array_equal(found.encoding, volume.encoding)
    assert found.surface.truncation_m == 0.12
    np.testing.assert_array_equal(found.surface.origin_world, [1, 2, 3])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_a_volume_with_numbers_that_are_none_is_not_written(kept, tmp_path, value):
    encoding = np.array([[0.5, value], [2.0, 0.25]], np.float32)
    with pytest.raises(BadInput, match="encoding"):
        write_made_volume(kept, tmp_path / "v.h5", made_volume(encoding=encoding))
    assert not (tmp_path / "v.h5").exists()


def test_the_volume_of_other_frames_is_refused(kept, tmp_path):
    write_made_volume(kept, tmp_path / "v.h5", made_volume())
    (tmp_path / "other").mkdir()
    path = write_frames_file(tmp_path / "other", "scene0000_00", seed=7)
    with (
        store.Frames(path) as other,
        pytest.raises(BadInput, match="input frames"),
    ):
        store.VolumeFile(tmp_path / "v.h5", other)


def test_hostile_volumes_are_refused(kept, tmp_path):
    """Sizes that exhaust memory, numbers that are none, voxels outside."""

    def spoil(edit, place):
        path = tmp_path / "v.h5"
        write_made_volume(kept, path, made_volume())
        with h5py.File(path, "r+") as file:
            edit(file)
        with (
            store.VolumeFile(path, kept) as opened,
            pytest.raises(BadInput, match=place),
        ):
            opened.volume()

    def enlarge(file):
        del file["tsdf"]
        file.create_dataset("tsdf", (20000, 20000, 20000), "<f2", chunks=(64, 64, 64))

    def replace_with(name, values):
        def edit(file):
            del file[name]
            file[name] = values

        return edit

    tsdf = np.zeros((3, 4, 5), "<f2")
    spoil(enlarge, "tsdf")
    tsdf[1, 1, 1] = np.nan
    spoil(replace_with("tsdf", tsdf), "tsdf")
    spoil(replace_with("origin_world", np.array([0, np.inf, 0.0])), "grid")
    spoil(lambda file: file.attrs.modify("voxel_size_m", -1.0), "grid")
    outside = np.array([[0, 1, 2], [3, 0, 0]], "<i4")
    spoil(replace_with("encoding/ijk", outside), "encoding/ijk")
    features = np.array([[1, 2], [np.nan, 0]], "<f2")
    spoil(replace_with("encoding/features", features), "encoding/features")
    many = np.zeros((200, 3), "<i4")
    spoil(replace_with("encoding/ijk", many), "encoding")
