"""Python threads for compiled code that releases the interpreter lock.

numba's own threads do not survive a fork, and abort the process when two callers meet.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def on_threads(
    job: Callable[[int], None], jobs: int, threads: int | None = None
) -> None:
    """Do the jobs 0, 1, ... on so many threads, or as many as Torch uses."""
    threads = min(threads or torch.get_num_threads(), jobs)
    if threads <= 1:
        for number in range(jobs):
            job(number)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(job, range(jobs)):
            pass
