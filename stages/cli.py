"""Turn a stage's `main` into a command: its signature is the command line.

`Path`, `str`, `int`, `float` and `list[Path]` become options; a settings dataclass is
given as JSON. Options with a default are optional. Exit status: 0 done, 1 a bug (with
a traceback), 2 wrong usage, 3 data that cannot be used (one line, no traceback), 75
training was told to stop and goes on when it is run again.
"""

import argparse
import dataclasses
import inspect
import json
import logging
import math
import os
import sys
import time
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gnesf_core.errors import BadInput, Diverged, Stopped
from stages import gpus, job_log

if typing.TYPE_CHECKING:
    import torch  # stages that do not compute with it do not wait for it

log = logging.getLogger("stages")

EXIT_BAD_DATA = 3
EXIT_STOPPED = 75  # what mail programs call a temporary failure


def run(main: Callable[..., None]) -> None:
    """Parse the command line, run `main`, report trouble in one line."""
    arguments = _parse(main)
    start_log()
    name = Path(sys.argv[0]).stem
    log.info("%s: %s", name, _limit_threads())
    try:
        if arguments.get("device") == "cuda" and "WORLD_SIZE" not in os.environ:
            gpus.lease(1)  # now: nothing has touched CUDA yet
        started = time.monotonic()
        main(**_convert(main, arguments))
    except (BadInput, Diverged) as error:
        log.error("%s", error)
        sys.exit(EXIT_BAD_DATA)
    except Stopped as stop:
        log.warning("%s; the same command goes on from there", stop)
        sys.exit(EXIT_STOPPED)
    except OSError as error:
        if error.errno is None:
            raise
        log.error("%s: %s", error.filename or "output", os.strerror(error.errno))
        logging.shutdown()
        # Not sys.exit: after a failed write, HDF5 crashes while Python shuts down.
        os._exit(EXIT_BAD_DATA)
    log.info("%s: done in %.1f s", name, time.monotonic() - started)


def start_log() -> None:
    """Report to stderr, which rules send into a file, and progress to a terminal."""
    leads = os.environ.get("RANK", "0") == "0"  # of several processes, one reports
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if leads else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    job_log.claim()
    job_log.show_progress()


def _limit_threads() -> str:
    """Follow the scheduler's thread count, so that parallel jobs do not crowd.

    Returns what there is to say about it.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None:
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    torch = sys.modules.get("torch")
    if torch is None:  # imported later, it reads OMP_NUM_THREADS itself
        return f"{threads or 'any number of'} threads"
    torch.set_num_threads(int(threads or torch.get_num_threads()))
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def _parse(main: Callable[..., None]) -> dict[str, Any]:
    stage = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{stage}", description=inspect.getdoc(main)
    )
    for name, parameter in inspect.signature(main).parameters.items():
        kind = _required_type(parameter.annotation)
        many = typing.get_origin(kind) is list
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            required=parameter.default is parameter.empty,
            nargs="*" if many else None,
            default=argparse.SUPPRESS,
        )
    return vars(parser.parse_args())


def _convert(main: Callable[..., None], arguments: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(main).parameters
    return {
        name: _value(name, _required_type(parameters[name].annotation), text)
        for name, text in arguments.items()
    }


def _required_type(annotation: Any) -> Any:
    """Return T for `T | None`."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        kinds = [k for k in typing.get_args(annotation) if k is not types.NoneType]
        return kinds[0]
    return annotation


def _value(name: str, kind: Any, text: Any) -> Any:
    if typing.get_origin(kind) is list:
        return [typing.get_args(kind)[0](item) for item in text]
    if dataclasses.is_dataclass(kind):
        return settings(kind, text, f"--{name}")
    if typing.get_origin(kind) is dict or kind is dict:
        return json.loads(text)
    return kind(text)


def settings(kind: Any, text: str, place: str) -> Any:
    """Build a settings dataclass from JSON; name the key that is wrong."""
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    names = set(types)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(
            "command line", place, expected="JSON", found=error, remedy="quote it"
        ) from None
    if not isinstance(values, dict) or set(values) != names:
        given = set(values) if isinstance(values, dict) else set()
        raise BadInput(
            "command line",
            place,
            expected=f"the keys of {kind.__name__}",
            found=f"missing {sorted(names - given)}, unknown {sorted(given - names)}",
            remedy="take them from config/config.yaml",
        )
    # JSON has one kind of number: 3 is a fine length, and 3.0 a fine count.
    numbers = {n: types[n](v) for n, v in values.items() if types[n] in (int, float)}
    if not all(math.isfinite(number) for number in numbers.values()):
        raise BadInput(
            "command line",
            place,
            expected="finite numbers",
            found=text,
            remedy="correct config/config.yaml",
        )
    return kind(**(values | numbers))


def device_named(name: str) -> "torch.device":
    """Return the device that a stage was told to use, if this machine has it."""
    import torch

    check_device(name)
    return torch.device(name)


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have; every machine has a CPU."""
    if name == "cpu":
        return
    import torch

    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        raise BadInput(
            "command line",
            "--device",
            expected="a CUDA device",
            found="none that torch can use",
            remedy="set `device: cpu` in the config, or run on a machine with a GPU",
        )
