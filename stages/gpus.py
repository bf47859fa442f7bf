"""GPUs of this machine: a process that takes one has it alone, for as long as it lives.

A lock on a file stands for each GPU, in a folder that all users of the machine share.
The kernel gives the lock back, however its holder ends. Only those who ask here are
kept apart; other programs on a GPU are not noticed.
"""

import fcntl
import itertools
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gnesf_core.errors import BadInput

log = logging.getLogger("stages")

FOLDER = Path("/tmp/gnesf-gpus")
_LOOK_SECONDS = 1.0  # between two looks at GPUs that are all taken
_PATIENCE_SECONDS = 60  # with an nvidia-smi that hangs


def lease(count: int) -> list[int]:
    """Wait for `count` GPUs of those that CUDA shows, and let CUDA show no others.

    To be called before anything touches CUDA, which looks once. Returns the locks as
    file descriptors: a process that inherits them has the GPUs too.
    """
    usable = visible()
    if not usable:
        return []  # whoever wants to compute on one will say that there is none
    if count > len(usable):
        raise BadInput(
            "this machine",
            "GPUs",
            expected=f"{count} for one job",
            found=f"{len(usable)} that it may use",
            remedy="ask for fewer GPUs, or look at CUDA_VISIBLE_DEVICES",
        )
    try:
        folder = _shared_folder()
        with _turn(folder, count):
            held = _collect(folder, usable, count)
    except OSError as error:
        log.warning("GPUs are used without asking whether others do: %s", error)
        return []
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    log.info("has the GPU %s", ", ".join(held))
    return [folder, *held.values()]


def visible() -> list[str]:
    """Name the GPUs that CUDA would show, by UUID where nvidia-smi tells.

    So numbers that mean different GPUs in different jobs meet under one name. A GPU
    that is cut into MIG devices stands for these.
    """
    gpus, kinds = _listed()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [device for gpu in gpus for device in _devices(gpu)]
    in_order = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if len(kinds) > 1 and not in_order and re.search(r"(^|,)\s*\d", named):
        raise BadInput(
            "this machine",
            "CUDA_VISIBLE_DEVICES",
            expected="UUIDs (nvidia-smi -L), as CUDA counts unlike GPUs by speed",
            found=named,
            remedy="name UUIDs, or set CUDA_DEVICE_ORDER=PCI_BUS_ID as well",
        )
    found: list[str] = []
    for name in named.split(","):
        meant = _meant(name.strip(), gpus)
        if not meant:
            break  # CUDA too ignores what follows a name that it does not know
        found += meant
    return list(dict.fromkeys(found))


def _listed() -> tuple[list[list[str]], set[str]]:
    """Ask nvidia-smi for the UUIDs of GPUs and their MIG devices, and for kinds."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return [], set()
    gpus: list[list[str]] = []
    kinds = set(re.findall(r"^GPU \d+: (.*) \(UUID: ", answer.stdout, re.M))
    lines = re.findall(r"^\s*(GPU|MIG) .*\(UUID: (\S+)\)", answer.stdout, re.M)
    for kind, uuid in lines:
        if kind == "GPU":
            gpus.append([uuid])
        elif gpus:
            gpus[-1].append(uuid)
    return gpus, kinds


def _devices(gpu: list[str]) -> list[str]:
    return gpu[1:] or gpu


def _meant(name: str, gpus: list[list[str]]) -> list[str]:
    """Return what one name in CUDA_VISIBLE_DEVICES stands for; nothing if unknown."""
    if name.startswith("MIG-"):
        return [name]
    if not gpus:  # no nvidia-smi: the name itself has to do
        return [name] if re.match(r"\d|GPU-", name) else []
    if name.isdecimal():
        return _devices(gpus[int(name)]) if int(name) < len(gpus) else []
    # CUDA takes the beginning of a UUID if it fits one GPU alone.
    fitting = [gpu for gpu in gpus if name and gpu[0].startswith(name)]
    return _devices(fitting[0]) if len(fitting) == 1 else []


def _collect(folder: int, usable: list[str], count: int) -> dict[str, int]:
    """Lock `count` GPUs, whichever are free first; return {name: lock}."""
    held: dict[str, int] = {}
    for looks in itertools.count():
        for name in usable:
            if len(held) < count and name not in held:
                lock = _lock(folder, name, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock is not None:
                    held[name] = lock
        if len(held) == count:
            return held
        if looks == 0:
            values = count - len(held), len(usable)
            log.info("waits for %d of %d GPUs; lslocks tells who has them", *values)
        time.sleep(_LOOK_SECONDS)


@contextmanager
def _turn(folder: int, count: int) -> Iterator[None]:
    """Wait until no other job collects several GPUs, if this one wants several.

    Whoever collects keeps what it gets: two at a time could wait for each other.
    """
    queue = _lock(folder, "queue", fcntl.LOCK_EX) if count > 1 else None
    try:
        yield
    finally:
        if queue is not None:
            os.close(queue)


def _shared_folder() -> int:
    """Open the folder of locks, which the first user of the machine makes for all."""
    with suppress(FileExistsError), _no_umask():
        FOLDER.mkdir(mode=0o1777)
    folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    with suppress(BlockingIOError):
        # Those who tidy /tmp leave a locked folder alone.
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return folder


def _lock(folder: int, name: str, how: int) -> int | None:
    """Lock the file for `name`; return it open, or None if another process has it."""
    file = _open(folder, re.sub(r"[^\w-]", "_", name))
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _open(folder: int, name: str) -> int:
    """Open a file to lock, whoever made it; links and pipes lead and stop nobody."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    # O_CREAT for new ones alone: where everybody may write, some kernels refuse it for
    # files of others.
    with suppress(FileNotFoundError):
        return os.open(name, flags, dir_fd=folder)
    with suppress(FileExistsError), _no_umask():
        return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o444, dir_fd=folder)
    return os.open(name, flags, dir_fd=folder)


@contextmanager
def _no_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)
