"""Jobs that ask for a GPU get different ones, and a dead job has none."""

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gnesf_core.errors import BadInput
from stages import gpus

ROOT = Path(__file__).parents[2]
FOUR = [f"GPU-{n}a2b3c4d-0000-1111-2222-333344445555" for n in range(4)]
LIST = "".join(f"GPU {n}: NVIDIA H200 (UUID: {u})\n" for n, u in enumerate(FOUR))
HOLD = """
import os, sys, time
from pathlib import Path
from stages import gpus
gpus.FOLDER, gpus._LOOK_SECONDS = Path(sys.argv[1]), 0.02
if int(sys.argv[4]):
    os.setgroups([])
    os.setuid(int(sys.argv[4]))
gpus.lease(int(sys.argv[2]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with four GPUs, where nvidia-smi can be given other words to say."""
    says = tmp_path / "says.txt"
    says.write_text(LIST)
    command = tmp_path / "bin" / "nvidia-smi"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\n[ "$*" = -L ] && cat "{says}"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "is put back after the test")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(gpus, "FOLDER", tmp_path / "gpus")
    monkeypatch.setattr(gpus, "_LOOK_SECONDS", 0.02)
    return says


@pytest.fixture
def leases():
    """Collects leases of this process, and ends them."""
    held = []
    yield held
    for descriptor in held:
        os.close(descriptor)


@pytest.fixture
def holders(machine):
    """Starts jobs that take GPUs and keep them; none outlives the test."""
    running = []

    def start(count=1, seconds=60, user=0, **more):
        words = map(str, (gpus.FOLDER, count, seconds, user))
        command = [sys.executable, "-c", HOLD, *words]
        options = {"cwd": ROOT, "text": True} | more
        process = subprocess.Popen(command, stdout=subprocess.PIPE, **options)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def got(process):
    return process.stdout.readline().strip().split(",")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, FOUR),
        ("2", [FOUR[2]]),
        ("3, 1", [FOUR[3], FOUR[1]]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,7,2", [FOUR[1]]),
        ("0,0", [FOUR[0]]),
        (FOUR[1], [FOUR[1]]),
        ("GPU-3a", [FOUR[3]]),
        ("GPU-", []),
        ("MIG-1234", ["MIG-1234"]),
    ],
)
def test_only_gpus_that_cuda_would_show_are_used(machine, monkeypatch, named, expected):
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpus.visible() == expected


def test_a_gpu_that_is_cut_up_stands_for_its_parts(machine, monkeypatch):
    parts = "".join(
        f"  MIG 1g.18gb     Device  {n}: (UUID: MIG-part-{n})\n" for n in range(2)
    )
    first, rest = LIST.split("\n", 1)
    machine.write_text(f"{first}\n{parts}{rest}")
    assert gpus.visible() == ["MIG-part-0", "MIG-part-1", *FOUR[1:]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert gpus.visible() == [FOUR[1], "MIG-part-0", "MIG-part-1"]


def test_numbers_of_unlike_gpus_are_not_guessed(machine, monkeypatch):
    # CUDA's first is the fastest, nvidia-smi's the one in the first slot.
    machine.write_text(LIST.replace("H200", "T400", 1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    with pytest.raises(BadInput, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        gpus.visible()
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert gpus.visible() == [FOUR[1], FOUR[0]]
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", FOUR[2])
    assert gpus.visible() == [FOUR[2]]


@pytest.mark.parametrize(
    ("named", "expected"), [(None, []), ("1,0", ["1", "0"]), ("-1", []), ("", [])]
)
def test_without_nvidia_smi_the_names_themselves_do(
    machine, monkeypatch, named, expected
):
    monkeypatch.setenv("PATH", "/nowhere")
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpus.visible() == expected


def test_four_jobs_get_four_gpus_and_a_fifth_waits_for_the_one_that_is_killed(holders):
    first = [holders() for _ in range(4)]
    taken = [got(job)[0] for job in first]
    assert sorted(taken) == FOUR
    fifth = holders()
    time.sleep(1)
    assert fifth.poll() is None
    first[2].send_signal(signal.SIGKILL)
    assert got(fifth) == [taken[2]]


def test_numbers_that_differ_from_job_to_job_mean_the_same_gpu(holders, leases):
    theirs = got(holders(env=os.environ | {"CUDA_VISIBLE_DEVICES": FOUR[0]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
        leases += gpus.lease(1)
        mine = os.environ["CUDA_VISIBLE_DEVICES"]
    assert theirs == [FOUR[0]] and mine == FOUR[2]


def test_jobs_that_want_several_gpus_each_do_not_wait_for_each_other(holders):
    jobs = [holders(count=3, seconds=0.05) for _ in range(4)]
    jobs += [holders(count=1, seconds=0.05) for _ in range(3)]
    sets = [got(job) for job in jobs]
    assert [len(set(own)) for own in sets] == [3] * 4 + [1] * 3
    assert all(job.wait(30) == 0 for job in jobs)


def test_a_child_that_inherits_the_lease_keeps_it_when_its_parent_dies(holders, leases):
    leases += gpus.lease(4)
    child = subprocess.Popen(["sleep", "60"], pass_fds=leases)
    try:
        while leases:
            os.close(leases.pop())
        job = holders()
        time.sleep(1)
        assert job.poll() is None
    finally:
        child.kill()
        child.wait()
    assert got(job)[0] in FOUR


def test_a_child_that_does_not_inherit_it_has_no_part_in_it(holders, leases):
    leases += gpus.lease(4)
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        while leases:
            os.close(leases.pop())
        assert len(got(holders(count=4))) == 4
    finally:
        child.kill()
        child.wait()


def test_more_gpus_than_there_are_is_refused_at_once(machine):
    with pytest.raises(BadInput, match="5 for one job, found 4 that it may use"):
        gpus.lease(5)


def test_a_machine_without_gpus_is_left_alone(machine):
    machine.write_text("")
    assert gpus.lease(1) == []
    assert "CUDA_VISIBLE_DEVICES" not in os.environ and not gpus.FOLDER.exists()


def test_all_users_may_lock_whatever_the_umask_of_the_first(machine, leases):
    before = os.umask(0o077)
    try:
        leases += gpus.lease(2)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE(gpus.FOLDER.stat().st_mode) == 0o1777
    modes = [stat.S_IMODE(path.stat().st_mode) for path in gpus.FOLDER.iterdir()]
    assert len(modes) == 3 and all(mode & 0o444 == 0o444 for mode in modes)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes two users")
def test_another_user_meets_the_same_locks(holders):
    for folder in gpus.FOLDER.parents:
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    assert len({got(holders(user=user))[0] for user in (0, 65534, 65533)}) == 3


@pytest.mark.parametrize("planted", ["folder", "lock", "lock of nothing"])
def test_a_planted_link_is_not_followed_and_does_not_stop_the_work(
    machine, tmp_path, caplog, planted
):
    target = tmp_path / "precious"
    if planted == "folder":
        target.mkdir()
        gpus.FOLDER.symlink_to(target)
    else:
        gpus.FOLDER.mkdir()
        (gpus.FOLDER / FOUR[0]).symlink_to(target)
    if planted == "lock":
        target.touch()
    before = set(tmp_path.rglob("*"))
    assert gpus.lease(1) == [] and "CUDA_VISIBLE_DEVICES" not in os.environ
    assert "without asking" in caplog.text and set(tmp_path.rglob("*")) == before


def test_a_planted_pipe_does_not_stop_the_work(machine, leases):
    gpus.FOLDER.mkdir()
    os.mkfifo(gpus.FOLDER / FOUR[0])
    worker = threading.Thread(target=lambda: leases.extend(gpus.lease(1)), daemon=True)
    worker.start()
    worker.join(20)
    assert not worker.is_alive()


def test_the_name_of_a_lock_stays_in_the_folder(machine, monkeypatch, leases):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-1/../../escaped")
    leases += gpus.lease(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "MIG-GPU-1/../../escaped"
    names = [path.name for path in gpus.FOLDER.iterdir()]
    assert len(names) == 1 and re.fullmatch(r"[\w-]+", names[0])
