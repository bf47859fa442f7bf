"""The log of a job: whether somebody writes it, and what a terminal shows of it.

Rules send what a stage says into `<results>/logs/<stage>/.../<scene>.log`. The process
keeps a lock on it while it lives: so a job that was killed without a word can be told
from one that is at work.
"""

import fcntl
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

_TERMINAL = "/dev/tty"
_TERMINAL_SECONDS = 10.0
# Those that say how far long work is.
_SPEAKERS = ("gnesf_core.progress", "gnesf_core.training.report")


def name_of(path: Path) -> str:
    """Name the job that a log belongs to: its stage, its recipe, its scene."""
    parts = path.with_suffix("").parts
    if "logs" not in parts:
        return ""
    return " ".join(parts[len(parts) - parts[::-1].index("logs") :])


def claim() -> None:
    """Keep a lock on the file that this process reports to, if it is one."""
    with suppress(OSError):
        fcntl.flock(sys.stderr.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def claimed(path: Path) -> bool:
    """Tell whether a living process writes this log."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # taken; or, where files have no locks, nobody knows
            return True
    return False


def show_progress() -> None:
    """Let a person who started the workflow see how far long work is.

    What goes into a log goes to the terminal as well, now and then, if there is one.
    """
    if os.environ.get("GNESF_PROGRESS") == "0" or sys.stderr.isatty():
        return
    terminal = _Terminal()
    for name in _SPEAKERS:
        logging.getLogger(name).addHandler(terminal)


class _Terminal(logging.Handler):
    """The terminal that the process was started from, while it is in the foreground."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        job = name_of(Path(os.path.realpath("/proc/self/fd/2")))
        line = f"%(asctime)s {job or Path(sys.argv[0]).stem}: %(message)s"
        self.setFormatter(logging.Formatter(line, "%H:%M:%S"))
        self._told = -_TERMINAL_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._told < _TERMINAL_SECONDS:
            return
        self._told = now
        # A terminal that stands still costs a line, it does not hold the work.
        with suppress(OSError):
            terminal = os.open(_TERMINAL, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                if os.tcgetpgrp(terminal) == os.getpgrp():
                    os.write(terminal, f"{self.format(record)}\n".encode())
            finally:
                os.close(terminal)
