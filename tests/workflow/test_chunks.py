"""Scenes are dealt out to cluster jobs of about equal length."""

from itertools import product
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from workflow.chunks import check_each_group_once, deal_out


def loads(sizes, chunk_of, count):
    sums = [0] * count
    for scene, chunk in chunk_of.items():
        sums[chunk] += sizes[scene]
    return sums


@given(st.lists(st.integers(0, 100), min_size=1, max_size=7), st.integers(2, 4))
def test_chunks_are_within_a_third_of_the_best_there_are(sizes, per_chunk):
    """Largest first is at most 4/3 - 1/(3 m) of the optimum (Graham 1969)."""
    sizes = {f"scene{n}": size for n, size in enumerate(sizes)}
    count = -(-len(sizes) // per_chunk)
    chunk_of = deal_out(sizes, per_chunk)
    assert set(chunk_of) == set(sizes)
    best = min(
        max(loads(sizes, dict(zip(sizes, chunks, strict=True)), count))
        for chunks in product(range(count), repeat=len(sizes))
    )
    longest = max(loads(sizes, chunk_of, count))
    assert 3 * count * longest <= (4 * count - 1) * best


def test_scenes_of_one_size_are_dealt_out_evenly_and_always_alike():
    sizes = {f"scene{n:04d}": 0 for n in range(100)}
    chunk_of = deal_out(sizes, 32)
    counts = [list(chunk_of.values()).count(chunk) for chunk in range(4)]
    assert counts == [25, 25, 25, 25]
    assert chunk_of == deal_out(dict(reversed(sizes.items())), 32)


def test_each_group_is_checked_once_and_jobs_keep_their_groups():
    checked = []

    class Dag:
        def _check_groups(self):
            checked.extend(self._group.values())

    check_each_group_once(Dag)
    chunk, alone = SimpleNamespace(), SimpleNamespace()
    dag = Dag()
    dag._group = before = {"a": chunk, "b": chunk, "c": alone}
    dag._check_groups()
    assert checked == [chunk, alone] and dag._group is before
