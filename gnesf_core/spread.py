"""A few of many, evenly."""


def spread(count: int, wanted: int) -> list[int]:
    """Return the middles of `wanted` equally long stretches of a list, or all of it."""
    wanted = min(wanted, count)
    return [(2 * n + 1) * count // (2 * wanted) for n in range(wanted)]
