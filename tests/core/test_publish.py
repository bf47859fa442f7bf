"""A final name stands for a whole file, whatever happens to its writer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gnesf_core.data import publish
from gnesf_core.errors import BadInput


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_published_file_has_its_checksum_beside_it(tmp_path):
    publish.write_text(tmp_path / "a.txt", "hello\n")
    assert names(tmp_path) == {"a.txt", ".a.txt.sha256"}
    # `sha256sum --check` is somebody else's opinion of the same format.
    subprocess.run(["sha256sum", "--check", ".a.txt.sha256"], cwd=tmp_path, check=True)
    assert publish.verify(tmp_path / "a.txt") is None


def test_a_failing_writer_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    publish.write_text(path, "old")
    with pytest.raises(RuntimeError), publish.publish(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert publish.verify(path) is None
    assert names(tmp_path) == {"a.txt", ".a.txt.sha256"}


def test_every_single_bit_flip_and_truncation_is_found(tmp_path):
    path = tmp_path / "a.json"
    publish.write_json(path, {"confusion": [[1, 2], [3, 4]]})
    whole = path.read_bytes()
    for position in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        assert publish.verify(path) is not None
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="snakemake again"):
            publish.read_json(path)


WRITER = """
import sys, time
from pathlib import Path
from gnesf_core.data.publish import publish
with publish(Path(sys.argv[1])) as temporary:
    temporary.write_text("first")
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_writer(path: Path, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(seconds)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"writing\n"
    return process


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path):
    path = tmp_path / "a.txt"
    writer = start_writer(path, 60)
    try:
        with (
            pytest.raises(BadInput, match=rf"process {writer.pid} is writing it"),
            publish.publish(path),
        ):
            pass
    finally:
        writer.kill()
        writer.wait()


def test_what_a_killed_writer_left_does_not_stand_in_the_way(tmp_path):
    path = tmp_path / "a.txt"
    writer = start_writer(path, 60)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert names(tmp_path) == {".a.txt.partial"}  # and nothing under the final name
    publish.write_text(path, "second")
    assert path.read_text() == "second"
    assert names(tmp_path) == {"a.txt", ".a.txt.sha256"}


def test_many_writers_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    program = (
        "import sys; from pathlib import Path; from gnesf_core.data import publish\n"
        "publish.write_text(Path(sys.argv[1]), sys.argv[2] * 100000)"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path), letter],
            stderr=subprocess.DEVNULL,
        )
        for letter in "abcd"
    ]
    codes = [writer.wait() for writer in writers]
    assert 0 in codes
    text = path.read_text()
    assert len(text) == 100000 and len(set(text)) == 1
    assert publish.verify(path) is None


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "a.txt").symlink_to(victim)
    (folder / ".b.txt.partial").symlink_to(victim)
    publish.write_text(folder / "a.txt", "new")
    with pytest.raises(BadInput, match="look at"):
        publish.write_text(folder / "b.txt", "new")
    assert victim.read_text() == "precious"
    assert not (folder / "a.txt").is_symlink()


def test_files_of_a_folder_appear_together_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), publish.publish_files(tmp_path / "s") as folder:
        (folder / "a").write_text("1")
        raise RuntimeError("stop")
    assert names(tmp_path / "s") == set()
    with publish.publish_files(tmp_path / "s") as folder:
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")
    assert (tmp_path / "s" / "b").read_text() == "2"
    assert publish.verify(tmp_path / "s" / "a") is None
    assert not (tmp_path / "s" / ".files.partial").exists()


def test_the_clock_plays_no_part(tmp_path):
    path = tmp_path / "a.txt"
    publish.write_text(path, "x")
    os.utime(path, (time.time() + 1e6, time.time() + 1e6))
    assert publish.verify(path) is None
