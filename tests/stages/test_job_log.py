"""A log tells whether somebody writes it, and progress reaches a terminal."""

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from stages.job_log import claimed, name_of

ROOT = Path(__file__).parents[2]
TELL = """
from gnesf_core import progress
from stages.cli import start_log
progress._REPORT_SECONDS = -1
start_log()
frames = progress.Progress("frames", 10)
frames.tell(3)
frames.tell(5)
"""
LINE = r"\d\d:\d\d:\d\d fuse_features plane-sweep room: 3 of 10 frames, .* left\r\n"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "results" / "logs" / "fuse_features" / "plane-sweep" / "room.log"
    path.parent.mkdir(parents=True)
    return path


class Terminal:
    """A terminal that a program is started from, in a session of its own."""

    def __init__(self):
        self.master, self.slave = pty.openpty()

    def run(self, program, log, **more):
        """Run the program with its messages in a log; return what a person sees."""
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", program], cwd=ROOT, env=os.environ | more,
                stderr=self.slave if more.get("STDERR") else stderr,
                start_new_session=True, preexec_fn=self._control,
            )  # fmt: skip
        assert process.wait(30) == 0
        return self.seen()

    def _control(self):
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

    def seen(self):
        os.set_blocking(self.master, False)
        try:
            return os.read(self.master, 1 << 16).decode()
        except BlockingIOError:
            return ""


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    os.close(terminal.slave)
    os.close(terminal.master)


def test_progress_in_a_log_is_seen_at_the_terminal_now_and_then(terminal, log):
    assert re.fullmatch(LINE, terminal.run(TELL, log))
    assert log.read_text().count("of 10 frames") == 2


def test_so_is_that_of_a_training(terminal, log):
    program = """
import logging
from stages.cli import start_log
start_log()
logging.getLogger("gnesf_core.training.report").info("step 5/9")
logging.getLogger("gnesf_core.training").info("nothing of that kind")
"""
    seen = terminal.run(program, log)
    assert seen.endswith("room: step 5/9\r\n") and seen.count("\n") == 1
    report = ROOT / "gnesf_core/training/report.py"
    assert "log = logging.getLogger(__name__)" in report.read_text()


def test_who_asks_for_silence_has_it(terminal, log):
    assert terminal.run(TELL, log, GNESF_PROGRESS="0") == ""
    assert log.read_text().count("of 10 frames") == 2


def test_nothing_is_said_twice_where_the_terminal_is_the_log(terminal, log):
    assert terminal.run(TELL, log, STDERR="terminal").count("3 of 10 frames") == 1


def test_a_job_in_the_background_leaves_the_terminal_alone(terminal, log):
    """Writing to it could even stop the job, where `stty tostop` is set."""
    modes = termios.tcgetattr(terminal.slave)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(terminal.slave, termios.TCSANOW, modes)
    background = f"""
import os, subprocess, sys
job = subprocess.Popen([sys.executable, "-c", {TELL!r}], process_group=0)
sys.exit(job.wait(20))
"""
    assert terminal.run(background, log) == ""
    assert log.read_text().count("of 10 frames") == 2


def test_a_terminal_that_stands_still_does_not_hold_the_work(terminal, log):
    os.set_blocking(terminal.slave, False)
    try:
        while True:
            os.write(terminal.slave, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(terminal.slave, True)
    terminal.run(TELL, log)
    assert log.read_text().count("of 10 frames") == 2


def test_without_a_terminal_there_is_just_the_log(log):
    with log.open("w") as stderr:
        subprocess.run(
            [sys.executable, "-c", TELL], cwd=ROOT, stderr=stderr, check=True,
            start_new_session=True,
        )  # fmt: skip
    assert log.read_text().count("of 10 frames") == 2
    assert len(log.read_text().splitlines()) == 2


def test_a_log_is_claimed_while_its_writer_lives(log):
    program = "import time; from stages.cli import start_log; start_log()\n"
    program += "print(flush=True)\ntime.sleep(60)"
    with log.open("w") as stderr:
        run = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stderr=stderr,
            stdout=subprocess.PIPE,
        )  # fmt: skip
    run.stdout.readline()
    assert claimed(log)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    deadline = time.monotonic() + 10
    while claimed(log):
        assert time.monotonic() < deadline


def test_a_log_that_nobody_claimed_is_free(log):
    log.write_text("12:00:00 INFO old\n")
    assert not claimed(log)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("results/a/logs/verify.log", "verify"),
        ("results/a/logs/extract_frames/s.log", "extract_frames s"),
        ("/x/logs/y/results/a/logs/train_prior/m/fold0.log", "train_prior m fold0"),
        ("results/a/elsewhere.log", ""),
    ],
)
def test_a_job_is_named_as_its_log_is(path, name):
    assert name_of(Path(path)) == name
