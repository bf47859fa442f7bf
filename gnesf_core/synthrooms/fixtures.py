"""Builders of kitchens and bathrooms."""

from gnesf_core.synthrooms.clutter import bottle
from gnesf_core.synthrooms.shapes import (
    Part,
    box,
    cylinder,
    drape,
    loft,
    panel,
)
from gnesf_core.synthrooms.things import Furniture, Rng, Thing, fronts


def kitchen_run(rng: Rng, width: float) -> Furniture:
    """Return base cabinets under a counter with a sink, stove and wall cabinets."""
    depth, height = rng.uniform(0.58, 0.64), rng.uniform(0.86, 0.92)
    half, columns = width / 2, max(2, round(width / 0.55))
    top = height - 0.04
    base = [
        box((-half, 0, 0.09), (half, depth - 0.06, top), "cabinet", without=("top",)),
        box((-half + 0.01, 0.02, 0), (half - 0.01, depth - 0.1, 0.09), "black"),
        *fronts(width, depth - 0.06, 0.1, top - 0.01, columns, 1, "cabinet_front"),
    ]
    sink_x = rng.uniform(-0.25, 0.25) * (width - 1.2)
    slab, sink = _counter_with_sink(rng, half, depth, top, height, sink_x)
    things = [
        Thing("kitchen cabinets", tuple(base), "kitchen"),
        Thing("kitchen counter", slab, "counter"),
        Thing("sink", sink),
    ]
    low, high = rng.uniform(1.4, 1.5), rng.uniform(2.0, 2.2)
    span = rng.uniform(0.55, 1.0) * width
    side = rng.choice([-1, 1]) * (width - span) / 2
    shelf = [
        box((-span / 2, 0, low), (span / 2, 0.32, high), "cabinet"),
        *fronts(span, 0.32, low + 0.005, high - 0.005, max(1, round(span / 0.45)), 1,
                "cabinet_front"),
    ]  # fmt: skip
    shelf = tuple(part.shifted((side, 0, 0)) for part in shelf)
    things.append(Thing("kitchen cabinet", shelf, "kitchen"))
    things += _kitchen_clutter(rng, half, height, sink_x)
    return Furniture(tuple(things), width, depth, 2.2)


def _counter_with_sink(
    rng: Rng, half: float, depth: float, low: float, high: float, x: float
) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Return a slab with a hole and the basin and tap in the hole."""
    w, y0, y1 = rng.uniform(0.24, 0.34), 0.14, depth - 0.1
    inner = {"material": "counter"}
    slab = [
        box((-half, 0, low), (x - w, depth, high), **inner, without=("right",)),
        box((x + w, 0, low), (half, depth, high), **inner, without=("left",)),
        box((x - w, 0, low), (x + w, y0, high), **inner, without=("left", "right")),
        box((x - w, y1, low), (x + w, depth, high), **inner, without=("left", "right")),
        box((-half, 0, high), (half, 0.015, high + 0.1), **inner, without=("bottom",)),
    ]
    a, b, y = w, (y1 - y0) / 2, (y0 + y1) / 2
    rings = [
        (x, y, high + 0.004, a + 0.015, b + 0.015),
        (x, y, high + 0.006, a - 0.012, b - 0.012),
        (x, y, high - 0.15, a - 0.04, b - 0.04),
    ]
    basin = loft(rings, "steel", segments=24, power=6, cap_low=False)
    return tuple(slab), (basin, *_tap(x, 0.09, high + 0.001, "steel"))


def _tap(x: float, y: float, z: float, material: str) -> list[Part]:
    return [
        cylinder((x, y), 0.016, z, z + 0.24, material, segments=8),
        box((x - 0.012, y, z + 0.22), (x + 0.012, y + 0.16, z + 0.245), material),
    ]


def _kitchen_clutter(rng: Rng, half: float, top: float, sink_x: float) -> list[Thing]:
    things = []
    side = -1 if sink_x > 0 else 1
    x = side * (half - 0.32)
    if rng.random() < 0.7:
        low, high = (x - 0.24, 0.08, top + 0.002), (x + 0.24, 0.42, top + 0.28)
        door = panel((x - 0.05, 0.423, top + 0.14), 0.3, 0.2, (0, 1, 0), "screen")
        things.append(Thing("microwave", (box(low, high, "metal"), door)))
    for _ in range(int(rng.integers(1, 4))):
        x = -side * rng.uniform(0.1, half - 0.15)
        if abs(x - sink_x) > 0.45:
            things.append(bottle(rng).shifted(x, rng.uniform(0.1, 0.25), top + 0.002))
    return things


def refrigerator(rng: Rng) -> Furniture:
    """Return a refrigerator with one or two doors."""
    width, depth = rng.uniform(0.6, 0.8), rng.uniform(0.62, 0.7)
    height, half = rng.uniform(1.6, 1.9), width / 2
    split = height * rng.uniform(0.6, 0.7) if rng.random() < 0.75 else height - 0.02
    parts = [box((-half, 0, 0.03), (half, depth - 0.07, height), "refrigerator")]
    doors = [(0.06, split)] + (
        [(split + 0.012, height)] if split < height - 0.1 else []
    )
    for low, high in doors:
        y0, y1 = depth - 0.062, depth - 0.01
        parts.append(
            box((-half, y0, low), (half, y1, high), "refrigerator", upright=True)
        )
        z = (low + high) / 2
        handle = (
            (-half + 0.05, y1 + 0.01, z - 0.18),
            (-half + 0.075, y1 + 0.035, z + 0.18),
        )
        parts.append(box(*handle, "metal"))
    parts.append(
        box((-half + 0.03, 0.03, 0), (half - 0.03, depth - 0.1, 0.03), "black")
    )
    thing = Thing("refrigerator", tuple(parts))
    return Furniture((thing,), width, depth + 0.03, height)


def stove(rng: Rng) -> Furniture:
    """Return a stove, which the benchmark does not score."""
    width, depth, height = 0.6, 0.6, rng.uniform(0.86, 0.91)
    body = box((-0.3, 0, 0.02), (0.3, depth, height), "radiator")
    glass = panel((0, depth + 0.003, 0.45), 0.44, 0.36, (0, 1, 0), "screen")
    plates = [
        cylinder((x, y), 0.09, height + 0.001, height + 0.012, "black", segments=14)
        for x in (-0.14, 0.14)
        for y in (0.18, 0.43)
    ]
    thing = Thing("stove", (body, glass, *plates))
    return Furniture((thing,), width, depth + 0.02, height)


def toilet(rng: Rng) -> Furniture:
    """Return a toilet with a cistern, its lid open or closed."""
    width, seat = rng.uniform(0.36, 0.4), rng.uniform(0.39, 0.43)
    bowl_depth, y = rng.uniform(0.23, 0.27), rng.uniform(0.42, 0.46)
    half = width / 2
    outer = [
        (0, y - 0.06, 0, 0.11, 0.17),
        (0, y - 0.05, 0.12, 0.1, 0.16),
        (0, y - 0.02, seat - 0.12, half * 0.8, bowl_depth * 0.85),
        (0, y, seat - 0.02, half, bowl_depth),
    ]
    parts = [loft(outer, "ceramic", segments=18, cap_low=False, cap_high=False)]
    rim = [
        (0, y, seat - 0.02, half, bowl_depth),
        (0, y, seat + 0.012, half, bowl_depth),
    ]
    closed = rng.random() < 0.5
    if not closed:
        rim += [
            (0, y, seat + 0.012, half - 0.06, bowl_depth - 0.07),
            (0, y, seat - 0.14, half - 0.1, bowl_depth - 0.12),
        ]
        lid = loft(
            [(0, 0, 0, half, bowl_depth), (0, 0, 0.02, half, bowl_depth)],
            "ceramic",
            segments=18,
        )
        upright = lid.shifted((0, bowl_depth, 0)).turned(97, axis=0)
        parts.append(upright.shifted((0, y - bowl_depth + 0.03, seat + 0.02)))
    parts.append(loft(rim, "ceramic", segments=18, cap_low=False))
    tank = rng.uniform(0.72, 0.82)
    deep = y - bowl_depth - 0.025
    low, high = (-half - 0.01, 0, seat - 0.06), (half + 0.01, deep, tank)
    parts.append(box(low, high, "ceramic"))
    low, high = (
        (-half - 0.02, -0.005, tank + 0.001),
        (half + 0.02, deep + 0.01, tank + 0.03),
    )
    parts.append(box(low, high, "ceramic"))
    parts.append(
        cylinder((0, 0.08), 0.02, tank + 0.03, tank + 0.04, "metal", segments=8)
    )
    thing = Thing("toilet", tuple(parts))
    return Furniture((thing,), width + 0.06, y + bowl_depth + 0.02, tank + 0.03)


def vanity(rng: Rng) -> Furniture:
    """Return a bathroom sink in a cabinet, or on a pedestal."""
    width, depth = rng.uniform(0.6, 0.95), rng.uniform(0.45, 0.52)
    height = rng.uniform(0.8, 0.86)
    half, y = width / 2, depth / 2 + 0.03
    if rng.random() < 0.6:
        low, high = (-half, 0, 0.08), (half, depth - 0.04, height - 0.045)
        base = [
            box(low, high, "wardrobe", without=("top",)),
            box((-half + 0.02, 0.02, 0), (half - 0.02, depth - 0.1, 0.08), "black"),
            *fronts(width, depth - 0.04, 0.1, height - 0.05, 2, 1, "wardrobe"),
        ]
        slab, sink = _counter_with_sink(rng, half, depth, height - 0.04, height, 0.0)
        sink = (*_white(sink[:1]), *sink[1:])
        things = (
            Thing("bathroom vanity", tuple(base)),
            Thing("bathroom counter", slab),
            Thing("sink", sink),
        )
        return Furniture(things, width, depth, height + 0.1)
    a = min(half, 0.32)
    rings = [
        (0, y, height - 0.17, a * 0.5, depth * 0.25),
        (0, y, height - 0.06, a * 0.95, depth * 0.45),
        (0, y, height, a, depth / 2),
        (0, y + 0.01, height + 0.001, a - 0.05, depth / 2 - 0.06),
        (0, y + 0.01, height - 0.12, a - 0.12, depth / 2 - 0.13),
    ]
    parts = [
        loft(rings, "ceramic", segments=22, power=2.8, cap_low=False),
        cylinder((0, y - 0.06), 0.11, 0, height - 0.16, "ceramic", top_radius=0.08),
        *_tap(0.0, 0.07, height + 0.002, "steel"),
    ]
    return Furniture((Thing("sink", tuple(parts)),), 2 * a, depth + 0.04, height)


def _white(parts: tuple[Part, ...]) -> list[Part]:
    return [Part(p.vertices, p.triangles, p.uv, p.normals, "ceramic") for p in parts]


def bathtub(rng: Rng) -> Furniture:
    """Return a bathtub along the wall with a shower curtain before it."""
    width, depth = rng.uniform(1.5, 1.75), rng.uniform(0.7, 0.78)
    height = rng.uniform(0.48, 0.58)
    half, y = width / 2, depth / 2
    rings = [
        (0, y, 0.0, half - 0.02, y - 0.02),
        (0, y, height - 0.03, half - 0.01, y - 0.01),
        (0, y, height - 0.03, half, y),
        (0, y, height, half, y),
        (0, y, height, half - 0.07, y - 0.07),
        (0, y, height - 0.1, half - 0.09, y - 0.09),
        (0, y, 0.14, half - 0.22, y - 0.16),
    ]
    tub = loft(rings, "tub", segments=36, power=12, cap_low=False)
    things = [Thing("bathtub", (tub, *_tap(-half + 0.1, y, height, "steel")))]
    high = rng.uniform(1.95, 2.1)
    bunched = rng.uniform(0.35, 0.75) * width
    side = rng.choice([-1, 1])
    cloth = drape(
        (side * (half - 0.02), depth + 0.05),
        (side * (half - bunched), depth + 0.05),
        rng.uniform(0.18, 0.3),
        high - 0.03,
        "shower_curtain",
        waves=max(3, bunched / 0.16),
        depth=0.022,
        phase=rng.random(),
    )
    things.append(Thing("shower curtain", (cloth,)))
    low = (-half, depth + 0.042, high - 0.01)
    rod = box(low, (half, depth + 0.058, high + 0.01), "metal")
    things.append(Thing("", (rod,)))
    return Furniture(tuple(things), width + 0.02, depth + 0.09, high)
