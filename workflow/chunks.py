"""Which scenes share a cluster job."""

import heapq
from collections.abc import Mapping
from typing import Any


def deal_out(sizes: Mapping[str, int], scenes_per_chunk: int) -> dict[str, int]:
    """Deal scenes into chunks of about equal size; return the chunk of each.

    The largest first, each to the chunk that has least: no chunk is then over by more
    than its smallest scene (Graham 1969). A chunk has so many scenes on average.
    """
    count = -(-len(sizes) // scenes_per_chunk)
    chunks = [(0, 0, number) for number in range(count)]  # size, scenes, name
    chunk_of = {}
    for scene in sorted(sizes, key=lambda scene: (-sizes[scene], scene)):
        size, scenes, number = chunks[0]
        heapq.heapreplace(chunks, (size + sizes[scene], scenes + 1, number))
        chunk_of[scene] = number
    return chunk_of


def check_each_group_once(dag_class: type) -> None:
    """Let Snakemake check a group of jobs once, and not once for each job in it.

    With chunks of 32 and a thousand scenes, that is seconds instead of half an hour.
    """
    check = dag_class._check_groups

    def check_groups(dag: Any) -> None:
        group_of_job = dag._group
        dag._group = {id(group): group for group in group_of_job.values()}
        try:
            check(dag)
        finally:
            dag._group = group_of_job

    dag_class._check_groups = check_groups
