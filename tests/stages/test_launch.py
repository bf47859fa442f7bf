"""Processes that learn together are started, stopped and ended together."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from gnesf_core.training.loop import train
from gnesf_core.training.weights import read_weights
from stages.cli import EXIT_STOPPED
from tests.core import test_training

ROOT = Path(__file__).parents[2]
START = """
import sys
from stages import launch
launch._GRACE_SECONDS = 1
sys.exit(launch.run_team([sys.executable, "-c", sys.argv[1]], int(sys.argv[2]), []))
"""
# What every one of the team begins with; signals are noted beside it.
MEMBER = """
import os, pathlib, signal, sys, time
rank = int(os.environ["RANK"])
signals = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda number, _: signals.append(number))
here = pathlib.Path(os.environ["HERE"])
(here / f"started-{rank}").write_text(str(os.getpid()))
"""


@pytest.fixture
def start(tmp_path):
    """Starts teams that run a program; none outlives the test."""
    running = []

    def start(program, count=2, **more):
        process = subprocess.Popen(
            [sys.executable, "-c", START, MEMBER + program, str(count)], cwd=ROOT,
            env=os.environ | {"HERE": str(tmp_path)} | more, start_new_session=True,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()
    for path in tmp_path.glob("started-*"):
        assert not alive(int(path.read_text()))


def alive(number):
    """Tell whether a process is there and no zombie."""
    try:
        return ") Z" not in Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False


def wait_until(happened, seconds=20):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def all_started(folder, count=2):
    return lambda: len(list(folder.glob("started-*"))) == count


def test_each_process_knows_its_place_and_its_share_of_the_threads(start, tmp_path):
    tell = """
names = "WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT OMP_NUM_THREADS"
told = " ".join(os.environ[name] for name in names.split())
(here / f"told-{rank}").write_text(told)
"""
    assert start(tell, 3, OMP_NUM_THREADS="16").wait(30) == 0
    told = [(tmp_path / f"told-{rank}").read_text().split() for rank in range(3)]
    assert [own[:3] for own in told] == [["3", str(n), "127.0.0.1"] for n in range(3)]
    assert len({own[3] for own in told}) == 1
    assert {own[4] for own in told} == {"5"}


def test_a_failure_ends_those_that_wait_for_it_and_gives_its_status(start):
    began = time.monotonic()
    run = start("sys.exit(3) if rank == 1 else time.sleep(60)")
    assert run.wait(30) == 3
    assert time.monotonic() - began < 30


def test_one_that_is_killed_ends_the_others(start):
    run = start("os.kill(os.getpid(), signal.SIGKILL) if rank == 0 else time.sleep(60)")
    assert run.wait(30) == 128 + signal.SIGKILL


def test_the_end_of_one_is_not_the_end_of_another_that_still_writes(start, tmp_path):
    run = start("""
if rank == 0:
    time.sleep(1.5)
    (here / "weights").touch()
""")
    assert run.wait(30) == 0 and (tmp_path / "weights").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_stop_reaches_all_and_their_status_comes_back(
    start, tmp_path, number
):
    run = start(
        f"""
while not signals:
    time.sleep(0.01)
time.sleep(0.5 * (rank == 0))
(here / f"state-{{rank}}").write_text(str([int(n) for n in signals]))
sys.exit({EXIT_STOPPED})
"""
    )
    wait_until(all_started(tmp_path))
    run.send_signal(number)
    assert run.wait(30) == EXIT_STOPPED
    for rank in range(2):
        assert (tmp_path / f"state-{rank}").read_text() == str([int(number)])


def test_ctrl_c_in_a_terminal_comes_once(start, tmp_path):
    """A second one would kill a training that is writing its state."""
    run = start("""
while not signals:
    time.sleep(0.01)
time.sleep(0.5)
sys.exit(len(signals))
""")
    wait_until(all_started(tmp_path))
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(30) == 1


def test_a_launcher_that_is_killed_leaves_nobody_behind(start, tmp_path):
    run = start("""
while not signals:
    time.sleep(0.01)
(here / f"state-{rank}").write_text(str([int(n) for n in signals]))
""")
    wait_until(all_started(tmp_path))
    run.kill()
    wait_until(lambda: len(list(tmp_path.glob("state-*"))) == 2)
    told = [path.read_text() for path in tmp_path.glob("state-*")]
    assert told == [str([int(signal.SIGTERM)])] * 2  # asked, not killed in their turn
    pids = [int(path.read_text()) for path in tmp_path.glob("started-*")]
    wait_until(lambda: not any(map(alive, pids)))
    assert len(pids) == 2


LAUNCH = """
from pathlib import Path
import sys
from stages import gpus, launch
gpus.FOLDER = Path(sys.argv.pop(1))
launch.main()
"""


def test_gpus_are_taken_for_all_by_the_launcher(tmp_path):
    """Of three GPUs two; the stage lacks an option, and ends with 2 in each process."""
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nfor n in 0 1 2; do\n"
                       'echo "GPU $n: Any (UUID: GPU-$n)"\ndone\n')  # fmt: skip
    command.chmod(0o755)
    run = subprocess.run(
        [sys.executable, "-c", LAUNCH, tmp_path / "gpus", "2", "verify",
         "--device", "cuda"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 2
    assert "has the GPU GPU-0, GPU-1" in run.stderr
    assert run.stderr.count("required: --results") == 2
    assert len(list((tmp_path / "gpus").iterdir())) == 3  # two and the queue


@pytest.mark.parametrize("count", ["0", "1"])
def test_one_process_is_the_stage_itself(tmp_path, count):
    run = subprocess.run(
        [sys.executable, "-m", "stages.launch", count, "verify", "--results", tmp_path],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 3 and "0 files checked" in run.stderr


@pytest.mark.slow
def test_two_that_are_stopped_learn_what_one_learns(tmp_path):
    config = replace(test_training.CONFIG, report_steps=1)

    def launch(pause_s):
        words = [sys.executable, test_training.__file__, tmp_path / "pair"]
        words += [json.dumps(asdict(config)), pause_s]
        program = f"launch.run_team({list(map(str, words))}, 2, [])"
        return subprocess.Popen(
            [sys.executable, "-c", f"from stages import launch; exit({program})"],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    run = launch(pause_s=0.05)
    test_training.wait_for(run, "step 7/")
    run.send_signal(signal.SIGTERM)
    errors = run.communicate(timeout=240)[1]
    assert run.returncode == EXIT_STOPPED, errors
    run = launch(pause_s=0.0)
    errors = run.communicate(timeout=240)[1]
    assert run.returncode == 0, errors
    assert "training from step" in errors and "from step 0 " not in errors
    task = test_training.Validated(dropout=0.0)
    train(task, config, tmp_path / "alone", test_training.KEY, test_training.CPU)
    learned = read_weights(tmp_path / "pair" / "weights.safetensors")[0]
    for name, value in task.model.state_dict().items():
        torch.testing.assert_close(learned[name], value, rtol=1e-4, atol=1e-6)
