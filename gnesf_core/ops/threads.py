"""Python threads for compiled code that releases the interpreter lock.

numba's own threads do not survive a fork, and abort the process when two callers meet.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def thread_count() -> int:
    """Return how many threads may be used: as many as Torch uses, if it is there."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def on_threads(
    job: Callable[[int], None], jobs: int, threads: int | None = None
) -> None:
    """Do the jobs 0, 1, ... on so many threads, or as many as may be used."""
    threads = min(threads or thread_count(), jobs)
    if threads <= 1:
        for number in range(jobs):
            job(number)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(job, range(jobs)):
            pass
