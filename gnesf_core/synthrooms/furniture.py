"""Builders of beds, tables and storage; each draws a style and proportions."""

import numpy as np

from gnesf_core.synthrooms.shapes import Part, box, cushion, cylinder, loft, panel
from gnesf_core.synthrooms.things import Furniture, Rng, Thing, fronts, legs


def bed(rng: Rng) -> Furniture:
    """Return a single or double bed; the headboard is at the back."""
    double = rng.random() < 0.6
    width = rng.uniform(1.4, 1.75) if double else rng.uniform(0.95, 1.1)
    length, base = rng.uniform(1.95, 2.1), rng.uniform(0.26, 0.34)
    top, head = base + rng.uniform(0.18, 0.24), rng.uniform(0.85, 1.15)
    half = width / 2
    parts = [
        box((-half, 0.05, 0.1), (half, length, base), "bed_frame"),
        *legs(width, length, 0.1, 0.07, "bed_frame"),
        cushion((-half + 0.02, 0.06, base), (half - 0.02, length - 0.02, top), "sheet"),
    ]
    if rng.random() < 0.5:
        parts.append(box((-half - 0.02, 0, 0), (half + 0.02, 0.05, head), "bed_frame"))
    else:
        low, high = (-half - 0.02, 0, 0.1), (half + 0.02, 0.1, head)
        parts.append(cushion(low, high, "bed_frame", bulge=0.3))
    if rng.random() < 0.4:
        low, high = (-half, length, 0.05), (half, length + 0.04, base + 0.25)
        parts.append(box(low, high, "bed_frame"))
    start = rng.uniform(0.6, 0.95)
    low, high = (
        (-half - 0.03, start, base - 0.08),
        (half + 0.03, length - 0.03, top + 0.05),
    )
    parts.append(cushion(low, high, "blanket", bulge=0.22))
    things = [Thing("bed", tuple(parts))]
    count = 2 if double else 1
    for i in range(count):
        x = (i - (count - 1) / 2) * width / 2
        low, high = (x - 0.3, 0.14, top - 0.02), (x + 0.3, 0.52, top + 0.11)
        pillow = cushion(low, high, "pillow", bulge=0.45)
        things.append(Thing("pillow", (pillow,), "bed pillows"))
    return Furniture(tuple(things), width + 0.08, length + 0.05, head)


def table(rng: Rng) -> Furniture:
    """Return a dining table on four legs or a pedestal, or a round one."""
    height, thick = rng.uniform(0.72, 0.77), rng.uniform(0.025, 0.045)
    if rng.random() < 0.35:
        radius = rng.uniform(0.5, 0.62)
        centre = (0.0, radius)
        parts = [
            cylinder(centre, radius, height - thick, height, "table", segments=28),
            cylinder(centre, 0.06, 0.04, height - thick, "table", top_radius=0.05),
            cylinder(centre, 0.3, 0, 0.04, "table", segments=18, top_radius=0.26),
        ]
        return _one("dining table", parts, 2 * radius, 2 * radius, height)
    width, depth = rng.uniform(1.1, 1.6), rng.uniform(0.75, 0.9)
    parts = [
        box((-width / 2, 0, height - thick), (width / 2, depth, height), "table"),
        *legs(width, depth, height - thick, rng.uniform(0.05, 0.08), "table"),
    ]
    rail = 0.09
    for y in (0.05, depth - 0.07):
        low = (-width / 2 + 0.1, y, height - thick - rail)
        high = (width / 2 - 0.1, y + 0.02, height - thick)
        parts.append(box(low, high, "table", without=("top",)))
    return _one("dining table", parts, width, depth, height)


def coffee_table(rng: Rng) -> Furniture:
    """Return a low table with a shelf, or an oval one."""
    width, depth = rng.uniform(0.8, 1.15), rng.uniform(0.45, 0.6)
    height = rng.uniform(0.38, 0.47)
    if rng.random() < 0.4:
        y = depth / 2
        rings = [(0, y, height - 0.04, width / 2, y), (0, y, height, width / 2, y)]
        parts = [loft(rings, "table", segments=24)]
        for x in (-0.27, 0.27):
            parts.append(cylinder((x * width, y), 0.05, 0, height - 0.04, "table"))
    else:
        low, high = (-width / 2, 0, height - 0.04), (width / 2, depth, height)
        parts = [
            box(low, high, "table"),
            *legs(width, depth, height - 0.04, 0.05, "table", inset=0.01),
        ]
        low, high = (
            (-width / 2 + 0.065, 0.03, 0.12),
            (width / 2 - 0.065, depth - 0.03, 0.14),
        )
        parts.append(box(low, high, "table"))
    return _one("coffee table", parts, width, depth, height)


def side_table(rng: Rng) -> Furniture:
    """Return a small table to stand beside a sofa or bed."""
    radius, height = rng.uniform(0.2, 0.27), rng.uniform(0.48, 0.6)
    centre = (0.0, radius)
    parts = [
        cylinder(centre, radius, height - 0.03, height, "table", segments=20),
        cylinder(centre, 0.03, 0.03, height - 0.03, "table"),
        cylinder(centre, 0.15, 0, 0.03, "table", segments=16),
    ]
    return _one("end table", parts, 2 * radius, 2 * radius, height)


def desk(rng: Rng) -> Furniture:
    """Return a desk with a drawer block or with side panels."""
    width, depth = rng.uniform(1.1, 1.6), rng.uniform(0.6, 0.75)
    height = rng.uniform(0.72, 0.76)
    half = width / 2
    parts = [box((-half, 0, height - 0.03), (half, depth, height), "desk")]
    low, high = (-half + 0.03, 0.05, 0.35), (half - 0.03, 0.07, height - 0.03)
    parts.append(box(low, high, "desk", without=("top",)))
    side = rng.choice([-1, 1])
    if rng.random() < 0.65:
        block = 0.4
        x = side * (half - block / 2 - 0.02)
        low, high = (-block / 2, 0.08, 0.03), (block / 2, depth - 0.04, height - 0.03)
        pieces = [box(low, high, "desk", without=("top",))]
        pieces += fronts(block, depth - 0.04, 0.04, height - 0.035, 1, 3, "desk")
        parts += [piece.shifted((x, 0, 0)) for piece in pieces]
        x = -side * (half - 0.03)
        parts.append(
            box((x - 0.018, 0.08, 0), (x + 0.018, depth - 0.03, height - 0.03), "desk")
        )
    elif rng.random() < 0.5:
        for x in (-half + 0.05, half - 0.05):
            low, high = (x - 0.018, 0.08, 0), (x + 0.018, depth - 0.03, height - 0.03)
            parts.append(box(low, high, "desk"))
    else:
        parts += legs(width, depth, height - 0.03, 0.045, "metal", inset=0.02)
    return _one("desk", parts, width, depth, height)


def cabinet(rng: Rng) -> Furniture:
    """Return a low cabinet or sideboard with doors or drawers."""
    width, depth = rng.uniform(0.7, 1.4), rng.uniform(0.38, 0.48)
    height = rng.uniform(0.6, 0.95)
    columns = max(1, round(width / 0.5))
    rows = int(rng.integers(1, 4))
    return _chest(rng, width, depth, height, columns, rows, "cabinet", "cabinet")


def file_cabinet(rng: Rng) -> Furniture:
    """Return a narrow cabinet of drawers."""
    height = rng.uniform(0.7, 1.3)
    rows = round(height / 0.33)
    return _chest(rng, 0.45, 0.55, height, 1, rows, "file cabinet", "cabinet")


def wardrobe(rng: Rng) -> Furniture:
    """Return a tall cabinet with doors."""
    width, height = rng.uniform(1.0, 1.6), rng.uniform(1.85, 2.15)
    columns = round(width / 0.5)
    return _chest(rng, width, 0.58, height, columns, 1, "wardrobe", "wardrobe")


def dresser(rng: Rng) -> Furniture:
    """Return a chest of drawers, which the benchmark does not score."""
    width = rng.uniform(0.8, 1.1)
    return _chest(
        rng, width, 0.46, rng.uniform(0.75, 1.0), 2, 3, "dresser", "bed_frame"
    )


def nightstand(rng: Rng) -> Furniture:
    """Return a bedside chest."""
    height = rng.uniform(0.45, 0.58)
    return _chest(rng, 0.44, 0.4, height, 1, 2, "nightstand", "bed_frame")


def tv_stand(rng: Rng) -> Furniture:
    """Return a low board with a television on it."""
    width, height = rng.uniform(1.2, 1.7), rng.uniform(0.42, 0.55)
    base = _chest(rng, width, 0.42, height, 3, 1, "tv stand", "cabinet")
    size = rng.uniform(0.85, 1.1)
    tall = 0.58 * size
    low = (-size / 2, 0.16, height + 0.07)
    frame = box(low, (size / 2, 0.2, height + 0.07 + tall), "black")
    centre = (0, 0.202, height + 0.07 + tall / 2)
    screen = panel(centre, size - 0.04, tall - 0.04, (0, 1, 0), "screen")
    foot = box((-0.15, 0.1, height + 0.002), (0.15, 0.27, height + 0.02), "black")
    neck = box((-0.04, 0.165, height + 0.02), (0.04, 0.195, height + 0.071), "black")
    return base.with_things([Thing("tv", (frame, screen, foot, neck))])


def bookshelf(rng: Rng) -> Furniture:
    """Return a shelf with rows of books, some lying, and gaps."""
    width, depth = rng.uniform(0.7, 1.1), rng.uniform(0.26, 0.34)
    height, board = rng.uniform(1.5, 2.1), 0.025
    half = width / 2
    parts = [
        box((-half, 0, 0), (-half + board, depth, height), "bookshelf", upright=True),
        box((half - board, 0, 0), (half, depth, height), "bookshelf", upright=True),
        box(
            (-half + board, 0.004, 0.06),
            (half - board, 0.012, height - 0.004),
            "bookshelf",
        ),
    ]
    count = int(rng.integers(4, 7))
    levels = np.linspace(0.06, height - board, count + 1)
    for z in levels:
        low, high = (-half + board, 0.014, z), (half - board, depth - 0.004, z + board)
        parts.append(box(low, high, "bookshelf", without=("left", "right")))
    for z, above in zip(levels[:-1] + board, levels[1:], strict=True):
        parts += _row_of_books(rng, half - board, depth, z, above - z)
    return _one("bookshelf", parts, width, depth, height)


def _row_of_books(
    rng: Rng, half: float, depth: float, z: float, room: float
) -> list[Part]:
    parts = []
    x = -half + rng.uniform(0.01, 0.06)
    while x < half - 0.12:
        length = min(rng.uniform(0.1, 0.28), half - 0.02 - x)
        kind = rng.random()
        tall = rng.uniform(0.55, 0.88) * room
        deep = rng.uniform(0.6, 0.88) * depth
        if kind < 0.72:
            low, high = (x, 0.02, z + 0.001), (x + length, deep, z + tall)
            parts.append(box(low, high, "books", without=("bottom", "back")))
        elif kind < 0.85 and length > 0.18:
            low = (x, 0.03, z + 0.001)
            high = (x + length, deep, z + rng.uniform(0.05, 0.1))
            parts.append(box(low, high, "book_cover", without=("bottom", "back")))
        x += length + rng.uniform(0.004, 0.05)
    return parts


def _chest(
    rng: Rng,
    width: float,
    depth: float,
    height: float,
    columns: int,
    rows: int,
    category: str,
    role: str,
) -> Furniture:
    """Return a box with fronts, on a plinth or on feet."""
    half, body = width / 2, depth - 0.04
    front = "cabinet_front" if role == "cabinet" else role
    foot = 0.06 if rng.random() < 0.6 else 0.12
    parts = [
        box((-half, 0, foot), (half, body, height - 0.025), role, without=("top",)),
        box((-half - 0.01, 0, height - 0.025), (half + 0.01, depth, height), role),
        *fronts(width, body, foot + 0.01, height - 0.03, columns, rows, front),
    ]
    if foot < 0.1:
        low, high = (-half + 0.03, 0.03, 0), (half - 0.03, body - 0.04, foot)
        parts.append(box(low, high, role, without=("top", "bottom")))
    else:
        parts += legs(width, body, foot, 0.04, role)
    return _one(category, parts, width + 0.02, depth, height)


def _one(
    category: str, parts: list[Part], width: float, depth: float, height: float
) -> Furniture:
    return Furniture((Thing(category, tuple(parts)),), width, depth, height)
