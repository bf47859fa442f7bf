"""Builders of chairs, sofas and other seats."""

import numpy as np

from gnesf_core.synthrooms.shapes import Part, box, cushion, cylinder, loft, place
from gnesf_core.synthrooms.things import Furniture, Rng, Thing, legs, pick


def chair(rng: Rng, looks: str = "") -> Furniture:
    """Return a dining chair with four legs; its front is +y."""
    width, depth = rng.uniform(0.4, 0.48), rng.uniform(0.42, 0.5)
    seat, top = rng.uniform(0.43, 0.47), rng.uniform(0.82, 1.0)
    leg = rng.uniform(0.03, 0.045)
    parts = legs(width, depth, seat - 0.03, leg, "chair_wood", inset=0.005)
    low, high = (-width / 2, 0, seat - 0.03), (width / 2, depth, seat)
    parts.append(box(low, high, "chair_wood"))
    if rng.random() < 0.7:
        low = (-width / 2 + 0.02, 0.05, seat + 0.002)
        high = (width / 2 - 0.02, depth - 0.01, seat + 0.045)
        parts.append(cushion(low, high, "chair_seat"))
    posts = [(-width / 2, -width / 2 + leg), (width / 2 - leg, width / 2)]
    for x0, x1 in posts:
        parts.append(box((x0, 0, seat), (x1, leg, top), "chair_wood", upright=True))
    style = pick(rng, ("slats", "bars", "solid"))
    x0, x1 = posts[0][1], posts[1][0]
    if style == "slats":
        for z in np.linspace(seat + 0.14, top - 0.07, 3):
            low, high = (x0, 0.008, z - 0.03), (x1, 0.028, z + 0.03)
            parts.append(box(low, high, "chair_wood"))
    elif style == "bars":
        rail = (x0, 0.004, top - 0.08), (x1, 0.034, top - 0.01)
        parts.append(box(*rail, "chair_wood"))
        for x in np.linspace(x0, x1, 6)[1:-1]:
            low, high = (x - 0.01, 0.01, seat), (x + 0.01, 0.028, top - 0.08)
            parts.append(box(low, high, "chair_wood", upright=True))
    else:
        low, high = (x0, 0.006, seat + 0.12), (x1, 0.032, top - 0.02)
        parts.append(box(low, high, "chair_seat"))
    return Furniture((Thing("chair", tuple(parts), looks),), width, depth, top)


def office_chair(rng: Rng, looks: str = "") -> Furniture:
    """Return a swivel chair on a five-armed foot."""
    width, depth = rng.uniform(0.46, 0.52), rng.uniform(0.46, 0.52)
    seat, top = rng.uniform(0.44, 0.5), rng.uniform(0.92, 1.12)
    y = depth / 2 + 0.04
    parts: list[Part] = []
    for i in range(5):
        spoke = box((0.03, -0.02, 0.05), (0.27, 0.02, 0.085), "black")
        caster = box((0.23, -0.022, 0), (0.28, 0.022, 0.049), "black")
        for piece in (spoke, caster):
            parts.append(piece.moved(place(0, y, 0, 72 * i + 20)))
    parts.append(cylinder((0, y), 0.03, 0.06, seat - 0.05, "metal", segments=8))
    low = (-width / 2, y - depth / 2, seat - 0.06)
    parts.append(cushion(low, (width / 2, y + depth / 2, seat + 0.02), "office_fabric"))
    parts.append(
        box(
            (-0.03, y - depth / 2 - 0.03, seat - 0.05),
            (0.03, 0.06, seat + 0.2),
            "black",
        )
    )
    shape = rng.uniform(0.4, 0.5) * width
    rings = [
        (0, 0.075, seat + 0.1, shape * 0.85, 0.03),
        (0, 0.07, seat + 0.16, shape, 0.045),
        (0, 0.06, (seat + top) / 2, shape * 1.02, 0.045),
        (0, 0.055, top - 0.06, shape * 0.92, 0.04),
        (0, 0.055, top, shape * 0.7, 0.025),
    ]
    parts.append(loft(rings, "office_fabric", segments=18, power=4, smooth=True))
    if rng.random() < 0.6:
        for side in (-1, 1):
            x = side * (width / 2 + 0.015)
            low, high = (
                (x - 0.02, y - 0.15, seat + 0.16),
                (x + 0.02, y + 0.12, seat + 0.19),
            )
            parts.append(box(low, high, "black"))
            low, high = (x - 0.014, y - 0.04, seat - 0.03), (x + 0.014, y, seat + 0.159)
            parts.append(box(low, high, "black"))
    whole = 0.62
    return Furniture((Thing("office chair", tuple(parts), looks),), whole, whole, top)


def _upholstery(
    rng: Rng, width: float, depth: float, seats: int, role: str
) -> tuple[list[Part], float, float]:
    """Return an upholstered seat, its seat height and its arms' thickness."""
    arm = rng.uniform(0.12, 0.2)
    seat, arms = rng.uniform(0.38, 0.44), rng.uniform(0.55, 0.64)
    top = rng.uniform(0.75, 0.88)
    back = rng.uniform(0.16, 0.22)
    half = width / 2
    parts = [
        box((-half + arm, 0.02, 0.06), (half - arm, depth - 0.03, seat - 0.13), role),
        *legs(width, depth, 0.06, 0.06, "black"),
        cushion((-half + 0.01, 0, 0.06), (half - 0.01, back, top), role, bulge=0.12),
    ]
    for x0, x1 in ((-half, -half + arm), (half - arm, half)):
        parts.append(cushion((x0, 0.03, 0.06), (x1, depth, arms), role, bulge=0.14))
    inner = width - 2 * arm
    for i in range(seats):
        x0 = -inner / 2 + inner * i / seats + 0.005
        x1 = -inner / 2 + inner * (i + 1) / seats - 0.005
        low, high = (x0, back - 0.02, seat - 0.13), (x1, depth, seat + 0.03)
        parts.append(cushion(low, high, role))
        low, high = (
            (x0 + 0.01, back - 0.03, seat + 0.02),
            (x1 - 0.01, back + 0.13, top + 0.04),
        )
        parts.append(cushion(low, high, role, bulge=0.2))
    return parts, seat, arm


def sofa(rng: Rng) -> Furniture:
    """Return a sofa for two or three, some with a chaise, with loose pillows."""
    seats = int(rng.integers(2, 4))
    depth = rng.uniform(0.82, 0.95)
    width = rng.uniform(0.6, 0.7) * seats + 0.35
    parts, seat, arm = _upholstery(rng, width, depth, seats, "sofa")
    things = [Thing("couch", tuple(parts))]
    for side in (-1, 1):
        if rng.random() < 0.55:
            things.append(
                _loose_pillow(rng, side * (width / 2 - arm - 0.24), 0.36, seat)
            )
    return Furniture(tuple(things), width, depth, 0.95)


def _loose_pillow(rng: Rng, x: float, y: float, seat: float) -> Thing:
    size = rng.uniform(0.36, 0.42)
    pillow = cushion((-size / 2, -0.06, 0), (size / 2, 0.06, size), "throw_pillow")
    leaning = pillow.turned(rng.uniform(12, 22), axis=0)
    matrix = place(x, y + 0.08, seat + 0.05, rng.uniform(-8, 8))
    return Thing("pillow", (leaning.moved(matrix),))


def armchair(rng: Rng) -> Furniture:
    """Return an upholstered chair for one."""
    width, depth = rng.uniform(0.8, 0.92), rng.uniform(0.78, 0.88)
    parts, _, _ = _upholstery(rng, width, depth, 1, "chair_seat")
    return Furniture((Thing("armchair", tuple(parts)),), width, depth, 0.92)


def ottoman(rng: Rng) -> Furniture:
    """Return a low upholstered block."""
    width, depth = rng.uniform(0.45, 0.7), rng.uniform(0.4, 0.5)
    height = rng.uniform(0.35, 0.42)
    parts = [
        cushion(
            (-width / 2, 0, 0.05), (width / 2, depth, height), "ottoman", bulge=0.2
        ),
        *legs(width, depth, 0.06, 0.05, "black", inset=0.06),
    ]
    return Furniture((Thing("ottoman", tuple(parts)),), width, depth, height)
