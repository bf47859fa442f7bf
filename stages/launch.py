"""Run a training by several processes of this machine, each on a GPU of its own.

    python -m stages.launch 4 train_sdf --frames ...

They find each other as those that `torchrun` starts do. Unlike it, this keeps the exit
status (75: told to stop, and goes on when run again), gives those that were told to
stop the time that they need, and does not leave them behind when it is killed.
"""

import argparse
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType

from gnesf_core.errors import BadInput
from stages import gpus
from stages.cli import EXIT_BAD_DATA, EXIT_STOPPED, start_log

log = logging.getLogger("stages")

_GRACE_SECONDS = 10  # for the others, once one has failed
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main() -> None:
    """Start the processes; end as they end."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("processes", type=int, help="0 and 1: the stage itself")
    parser.add_argument("stage")
    parser.add_argument("--device", default="cpu")
    wanted, _ = parser.parse_known_args()
    command = [sys.executable, "-m", f"stages.{wanted.stage}", *sys.argv[3:]]
    if wanted.processes <= 1:  # none is what a rule asks for that has no GPU
        os.execv(sys.executable, command)
    start_log()
    try:
        leases = gpus.lease(wanted.processes) if wanted.device == "cuda" else []
    except BadInput as error:
        log.error("%s", error)
        sys.exit(EXIT_BAD_DATA)
    sys.exit(run_team(command, wanted.processes, leases))


def run_team(command: list[str], count: int, leases: list[int]) -> int:
    """Run the command `count` times at once; return the exit status of them all."""
    team: list[subprocess.Popen] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        for process in team:
            process.send_signal(number)

    # Not SIGINT: a terminal sends that to all of them itself.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, hand_on)
    signal.signal(signal.SIGINT, lambda *_: None)
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": str(_share_of_threads(count)),
    }
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = subprocess.Popen(
            command, env=shared | own, pass_fds=leases, preexec_fn=_end_with_parent
        )
        team.append(process)
    return _status(team)


def _status(team: list[subprocess.Popen]) -> int:
    """Wait for all; after a failure end those that wait for the one that failed."""
    while not any(found := [process.poll() for process in team]) and None in found:
        time.sleep(0.1)
    if any(found):
        deadline = time.monotonic() + _GRACE_SECONDS
        while None in [process.poll() for process in team]:
            if time.monotonic() > deadline:
                for process in team:
                    process.kill()
            time.sleep(0.1)
    # Those that failed first know why; others may have died of that, or been stopped.
    failed = [status for status in found if status]
    first = max([s for s in failed if s != EXIT_STOPPED] or failed or [0])
    return first if first >= 0 else 128 - first


def _end_with_parent() -> None:
    """Be told to stop when the parent dies, even if it is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _share_of_threads(count: int) -> int:
    cores = len(os.sched_getaffinity(0))
    return max(1, int(os.environ.get("OMP_NUM_THREADS", cores)) // count)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
