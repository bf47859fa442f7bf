"""Builders of small things: on walls, on the floor, and on furniture.

Most of them belong to no class of the benchmark and become void.
"""

import numpy as np

from gnesf_core.synthrooms.shapes import (
    Part,
    ball,
    box,
    cushion,
    cylinder,
    drape,
    loft,
    panel,
)
from gnesf_core.synthrooms.things import Furniture, Rng, Thing, pick


def towel_rail(rng: Rng) -> Furniture:
    """Return a towel on a rail, hung at its own height."""
    width, length = rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.7)
    top = rng.uniform(1.3, 1.5)
    rail = box((-width / 2, 0.05, top - 0.01), (width / 2, 0.07, top + 0.01), "metal")
    cloth = drape(
        (-width / 2 + 0.04, 0.085),
        (width / 2 - 0.04, 0.085),
        top - length,
        top + 0.012,
        "towel",
        waves=1.5,
        depth=0.008,
        phase=rng.random(),
    )
    things = (Thing("towel", (cloth,)), Thing("", (rail,)))
    return Furniture(things, width, 0.1, top)


def framed(rng: Rng, category: str) -> Furniture:
    """Return a picture, mirror or whiteboard, flat on a wall around z = 0."""
    role = {"picture": "poster", "mirror": "mirror", "whiteboard": "board"}[category]
    width, height = rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.8)
    if category == "whiteboard":
        width, height = rng.uniform(1.2, 1.7), rng.uniform(0.85, 1.0)
    a, b, t = width / 2, height / 2, rng.uniform(0.02, 0.04)
    frame = "metal" if category == "whiteboard" else "picture_frame"
    parts = [
        box((-a, 0.002, -b), (-a + t, 0.03, b), frame, upright=True),
        box((a - t, 0.002, -b), (a, 0.03, b), frame, upright=True),
        box((-a + t, 0.002, b - t), (a - t, 0.03, b), frame, without=("left", "right")),
        box(
            (-a + t, 0.002, -b), (a - t, 0.03, -b + t), frame, without=("left", "right")
        ),
        panel((0, 0.015, 0), width - 2 * t, height - 2 * t, (0, 1, 0), role),
    ]
    return Furniture((Thing(category, tuple(parts)),), width, 0.03, height)


def radiator(rng: Rng) -> Furniture:
    """Return a ribbed radiator to stand below a window."""
    width, height = rng.uniform(0.6, 1.1), rng.uniform(0.5, 0.62)
    count = round(width / 0.08)
    parts = [
        box((x, 0.02, 0.1), (x + 0.055, 0.11, height), "radiator", upright=True)
        for x in np.linspace(-width / 2, width / 2 - 0.055, count)
    ]
    low, high = (
        (-width / 2 + 0.02, 0.045, 0.14),
        (width / 2 - 0.02, 0.085, height - 0.04),
    )
    parts.append(box(low, high, "radiator"))
    return Furniture((Thing("radiator", tuple(parts)),), width, 0.12, height)


def trash_can(rng: Rng) -> Furniture:
    """Return an open bin, round or square."""
    radius, height = rng.uniform(0.12, 0.17), rng.uniform(0.28, 0.45)
    rings = [
        (0, radius, 0.0, radius * 0.8, radius * 0.8),
        (0, radius, height, radius, radius),
        (0, radius, height, radius - 0.012, radius - 0.012),
        (0, radius, 0.02, radius * 0.8 - 0.012, radius * 0.8 - 0.012),
    ]
    power = 2.0 if rng.random() < 0.6 else 8.0
    part = loft(rings, "bin", segments=20, power=power, cap_low=False)
    return Furniture((Thing("trash can", (part,)),), 2 * radius, 2 * radius, height)


def floor_lamp(rng: Rng) -> Furniture:
    """Return a standing lamp."""
    height, r = rng.uniform(1.4, 1.7), rng.uniform(0.15, 0.2)
    return Furniture((_lamp(0.17, height, r, 0.14),), 0.4, 0.4, height)


def table_lamp(rng: Rng) -> Thing:
    """Return a lamp to stand on something, about the origin."""
    return _lamp(0.0, rng.uniform(0.35, 0.5), rng.uniform(0.1, 0.14), 0.07)


def _lamp(y: float, height: float, shade: float, foot: float) -> Thing:
    tall = min(0.28, 0.45 * height)
    y = y + 0.03 if y else y
    rings = [
        (0, y, height - tall, shade, shade),
        (0, y, height, shade * 0.7, shade * 0.7),
    ]
    parts = (
        loft(rings, "lamp_shade", segments=16),
        cylinder((0, y), 0.012, 0.02, height - tall, "metal", segments=8),
        cylinder((0, y), foot, 0.0, 0.02, "metal", segments=14),
    )
    return Thing("lamp", parts)


def plant(rng: Rng) -> Furniture:
    """Return a plant in a pot."""
    radius, tall = rng.uniform(0.12, 0.18), rng.uniform(0.22, 0.34)
    c = 0.3
    parts = [cylinder((0, c), radius * 0.75, 0, tall, "pot", top_radius=radius)]
    for _ in range(int(rng.integers(5, 9))):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.14)
        x, y = reach * np.cos(angle), c + reach * np.sin(angle)
        z = tall + rng.uniform(0.08, 0.55)
        radii = rng.uniform([0.05, 0.05, 0.07], [0.11, 0.11, 0.16])
        parts.append(ball((x, y, z), radii, "leaf", segments=8))
    parts.append(cylinder((0, c), 0.015, tall, tall + 0.3, "bed_frame", segments=6))
    return Furniture((Thing("plant", tuple(parts)),), 0.56, 0.6, tall + 0.7)


def box_pile(rng: Rng) -> Furniture:
    """Return one to three cardboard boxes on each other."""
    parts: list[Part] = []
    z, size = 0.0, rng.uniform([0.3, 0.25], [0.5, 0.4])
    for _ in range(int(rng.integers(1, 4))):
        tall = rng.uniform(0.18, 0.32)
        w, d = size / 2
        piece = box((-w, -d, z), (w, d, z + tall), "cardboard").turned(
            rng.uniform(-9, 9)
        )
        parts.append(piece.shifted((0, 0.26, 0)))
        z, size = z + tall + 0.002, size * rng.uniform(0.75, 0.95)
    return Furniture((Thing("box", tuple(parts)),), 0.58, 0.52, z)


def bag(rng: Rng) -> Furniture:
    """Return a soft bag on the floor."""
    width, height = rng.uniform(0.3, 0.45), rng.uniform(0.3, 0.42)
    body = cushion((-width / 2, 0.03, 0), (width / 2, 0.23, height), "bag", bulge=0.3)
    return Furniture((Thing("bag", (body,)),), width, 0.26, height)


def rug(rng: Rng, width: float, depth: float) -> Furniture:
    """Return a flat rug; it is walked over and stood upon."""
    part = box(
        (-width / 2, 0, 0.0), (width / 2, depth, 0.008), "rug", without=("bottom",)
    )
    return Furniture((Thing("rug", (part,)),), width, depth, 0.01)


def book_stack(rng: Rng) -> Thing:
    """Return a few books lying on each other, about the origin."""
    parts, z = [], 0.0
    for _ in range(int(rng.integers(1, 5))):
        w, d, t = rng.uniform([0.07, 0.1, 0.02], [0.1, 0.14, 0.045])
        piece = box((-w, -d, z), (w, d, z + t), "book_cover").turned(
            rng.uniform(-25, 25)
        )
        parts.append(piece)
        z += t + 0.001
    return Thing("books", tuple(parts))


def monitor(rng: Rng) -> Thing:
    """Return a computer screen on a foot, facing +y, about the origin."""
    w, h = rng.uniform(0.45, 0.62), rng.uniform(0.28, 0.36)
    z = rng.uniform(0.1, 0.16)
    parts = (
        box((-w / 2, -0.02, z), (w / 2, 0.02, z + h), "black"),
        panel((0, 0.022, z + h / 2), w - 0.03, h - 0.03, (0, 1, 0), "screen"),
        box((-0.03, -0.045, 0.01), (0.03, -0.021, z + 0.1), "black"),
        box((-0.12, -0.09, 0), (0.12, 0.08, 0.012), "black"),
    )
    return Thing("monitor", parts)


def keyboard() -> Thing:
    """Return a keyboard, about the origin."""
    return Thing("keyboard", (box((-0.21, -0.07, 0), (0.21, 0.07, 0.02), "black"),))


def bottle(rng: Rng) -> Thing:
    """Return a bottle, about the origin."""
    r, h = rng.uniform(0.03, 0.045), rng.uniform(0.18, 0.3)
    rings = [
        (0, 0, 0, r, r),
        (0, 0, h * 0.65, r, r),
        (0, 0, h * 0.8, r * 0.4, r * 0.4),
        (0, 0, h, r * 0.4, r * 0.4),
    ]
    return Thing("bottle", (loft(rings, pick(rng, ("bin", "cup")), segments=10),))


def trifle(rng: Rng) -> Thing:
    """Return a cup, a paper or a bowl that nobody annotated, about the origin."""
    kind = rng.random()
    if kind < 0.4:
        part = cylinder((0, 0), 0.04, 0, 0.1, "cup", segments=10)
    elif kind < 0.7:
        part = box((-0.1, -0.14, 0), (0.1, 0.14, 0.004), "paper", without=("bottom",))
        part = part.turned(rng.uniform(0, 90))
    else:
        rings = [
            (0, 0, 0, 0.05, 0.05),
            (0, 0, 0.07, 0.11, 0.11),
            (0, 0, 0.03, 0.05, 0.05),
        ]
        part = loft(rings, "pot", segments=14, cap_low=False)
    return Thing("", (part,))
