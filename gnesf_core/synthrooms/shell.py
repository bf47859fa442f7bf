"""The shell of a room: floor, ceiling, walls with openings, doors and windows."""

import itertools

import numpy as np

from gnesf_core.synthrooms.plan import Opening, Plan, Wall, rectangle
from gnesf_core.synthrooms.shapes import Number, Part, box, drape, join, panel
from gnesf_core.synthrooms.things import Rng, Thing

LEAF_DEPTH_M = 0.07  # door leaves stand behind the wall's surface
PANE_DEPTH_M = 0.13


def cut_openings(plan: Plan, rng: Rng, windows: int, curtains: float) -> None:
    """Put one door and some windows into the walls, with curtains at some windows."""
    order = rng.permutation(len(plan.walls))
    walls = sorted((plan.walls[i] for i in order), key=lambda wall: wall.length < 1.6)
    _cut_door(plan, walls[0], rng)
    for index in range(windows):
        wall = walls[1 + index % (len(walls) - 1)]
        opening = _cut_window(wall, plan.height, rng)
        if opening is not None and rng.random() < curtains:
            _hang_curtains(plan, wall, opening, rng)


def _cut_door(plan: Plan, wall: Wall, rng: Rng) -> None:
    width = rng.uniform(0.8, 0.95)
    high = min(rng.uniform(1.98, 2.1), plan.height - 0.25)
    s0 = rng.uniform(0.25, max(0.3, wall.length - width - 0.25))
    opening = Opening("door", s0, s0 + width, 0.0, high)
    wall.openings.append(opening)
    matrix = wall.frame(s0 + width / 2)
    plan.reserve(rectangle(matrix, width + 0.1, 0.0, 0.85))
    thing = Thing("door", tuple(_door_parts(width, high, rng)))
    plan.things.append(thing.moved(matrix))


def _door_parts(width: float, high: float, rng: Rng) -> list[Part]:
    half, y = width / 2, -LEAF_DEPTH_M
    leaf = box((-half, y - 0.04, 0), (half, y, high), "door", upright=True)
    threshold = box((-half, y, -0.02), (half, 0.0, 0.0), "door_frame")
    parts = [leaf, threshold, *_casing(width, 0.0, high, y, sill=False)]
    rows = int(rng.integers(1, 4))
    columns = int(rng.integers(1, 3))
    for row, column in itertools.product(range(rows), range(columns)):
        w, h = (width - 0.24) / columns, (high - 0.3) / rows
        x0, z0 = -half + 0.12 + column * w + 0.03, 0.15 + row * h + 0.04
        low, high_corner = (x0, y, z0), (x0 + w - 0.06, y + 0.012, z0 + h - 0.08)
        parts.append(box(low, high_corner, "door", without=("back",), upright=True))
    x = rng.choice([-1, 1]) * (half - 0.065)
    parts.append(box((x - 0.02, y, 0.95), (x + 0.02, y + 0.016, 1.13), "metal"))
    toward = -np.sign(x) * 0.11
    low, high_corner = sorted((x, x + toward)), (y + 0.03, y + 0.052)
    parts.append(
        box((low[0], high_corner[0], 1.03), (low[1], high_corner[1], 1.055), "metal")
    )
    return parts


def _casing(width: float, low: float, high: float, y: float, sill: bool) -> list[Part]:
    """Return the reveal of an opening and the trim around it."""
    half, trim, role = width / 2, 0.07, "window_frame" if sill else "door_frame"
    out = 0.018
    parts = [
        box((-half - trim, y, low), (-half, out, high + trim), role, upright=True),
        box((half, y, low), (half + trim, out, high + trim), role, upright=True),
        box(
            (-half, y, high), (half, out, high + trim), role, without=("left", "right")
        ),
    ]
    if sill:
        parts.append(
            box((-half - trim, y, low - 0.035), (half + trim, 0.06, low - 1e-4), role)
        )
    return parts


def _cut_window(wall: Wall, height: float, rng: Rng) -> Opening | None:
    width = min(rng.uniform(0.9, 1.7), wall.length - 1.0)
    low, high = rng.uniform(0.8, 1.0), min(rng.uniform(2.0, 2.25), height - 0.25)
    if width < 0.6:
        return None
    s0 = rng.uniform(0.4, wall.length - width - 0.4)
    opening = Opening("window", s0, s0 + width, low, high)
    if not wall.is_free(s0 - 0.25, s0 + width + 0.25, 0.0, high):
        return None
    wall.openings.append(opening)
    return opening


def window_thing(wall: Wall, opening: Opening, rng: Rng) -> Thing:
    """Return the frame, sill and panes of a window."""
    width, low, high = opening.s1 - opening.s0, opening.z0, opening.z1
    half, y, bar = width / 2, -PANE_DEPTH_M, 0.05
    parts = [
        *_casing(width, low, high, y, sill=True),
        panel((0, y, (low + high) / 2), width, high - low, (0, 1, 0), "outlook"),
    ]
    front = y + 0.045
    for x0 in (-half, half - bar):
        corners = (x0, y, low), (x0 + bar, front, high)
        parts.append(box(*corners, "window_frame", upright=True))
    for z0 in (low, high - bar):
        corners = (-half + bar, y, z0), (half - bar, front, z0 + bar)
        parts.append(box(*corners, "window_frame", without=("left", "right")))
    if width > 1.0:
        corners = (-bar / 2, y, low + bar), (bar / 2, front, high - bar)
        parts.append(box(*corners, "window_frame", upright=True))
    if rng.random() < 0.5:
        z = low + (high - low) * rng.uniform(0.55, 0.7)
        for x0, x1 in ((-half + bar, -bar / 2), (bar / 2, half - bar)):
            corners = (x0, y, z), (x1, front - 0.01, z + 0.035)
            parts.append(box(*corners, "window_frame"))
    return Thing("window", tuple(parts)).moved(
        wall.frame((opening.s0 + opening.s1) / 2)
    )


def _hang_curtains(plan: Plan, wall: Wall, opening: Opening, rng: Rng) -> None:
    top = min(opening.z1 + 0.14, plan.height - 0.06)
    low = 0.06 if rng.random() < 0.6 else opening.z0 - 0.15
    y = 0.1
    looks = f"curtains {opening.s0:.3f}"
    for side in (-1, 1):
        covered = rng.uniform(0.22, 0.5)
        edge = opening.s0 if side < 0 else opening.s1
        outer = np.clip(edge + side * 0.22, 0.03, wall.length - 0.03)
        a, b = sorted((outer, edge - side * covered * (opening.s1 - opening.s0) * 0.7))
        cloth = drape(
            (a, y),
            (b, y),
            low,
            top,
            "curtain",
            waves=max(2.5, (b - a) / 0.13),
            depth=0.03,
            phase=rng.random(),
        )
        plan.things.append(Thing("curtain", (cloth,), looks).moved(wall.frame(0.0)))
        wall.taken.append((a - 0.02, b + 0.02, max(low - 0.02, 0.0), top))
        if low < 0.3:
            strip = rectangle(wall.frame((a + b) / 2), b - a, 0.0, y + 0.06)
            plan.footprints.append(strip)
    start, end = max(opening.s0 - 0.3, 0.02), min(opening.s1 + 0.3, wall.length - 0.02)
    low_corner, high_corner = (start, y - 0.012, top), (end, y + 0.012, top + 0.024)
    rod = box(low_corner, high_corner, "curtain_rod")
    plan.things.append(Thing("", (rod,)).moved(wall.frame(0.0)))


def shell_things(plan: Plan, floor: str, walls: str, rng: Rng) -> list[Thing]:
    """Return floor, ceiling, walls and windows.

    Args:
        plan: the room with its openings.
        floor: what the floor is made of.
        walls: what the walls are made of.
        rng: draws the windows' bars.

    Returns:
        One thing for the floor, one for the ceiling, one for each wall and window.
    """
    things = [
        Thing("floor", (_slab(plan, 0.0, 1.0, floor),)),
        Thing("ceiling", (_slab(plan, plan.height, -1.0, "ceiling"),)),
    ]
    for wall in plan.walls:
        parts = (_wall_surface(wall, plan.height, walls), *_baseboard(wall))
        things.append(Thing("wall", parts, "walls").moved(wall.frame(0.0)))
        for opening in wall.openings:
            if opening.kind == "window":
                things.append(window_thing(wall, opening, rng))
    return things


def _wall_surface(wall: Wall, height: float, role: str) -> Part:
    """Return the wall without its openings, in the wall's frame."""
    s = sorted({0.0, wall.length, *(x for o in wall.openings for x in (o.s0, o.s1))})
    z = sorted({0.0, height, *(x for o in wall.openings for x in (o.z0, o.z1))})
    cells = []
    for (s0, s1), (z0, z1) in itertools.product(
        itertools.pairwise(s), itertools.pairwise(z)
    ):
        middle = (s0 + s1) / 2, (z0 + z1) / 2
        if not any(
            o.s0 < middle[0] < o.s1 and o.z0 < middle[1] < o.z1 for o in wall.openings
        ):
            cells.append(_flat((s0, 0.0, z0), (s1, 0.0, z1), (0, 2), (0, 1, 0), role))
    return join(cells)


def _baseboard(wall: Wall) -> list[Part]:
    doors = sorted(
        (o.s0 - 0.07, o.s1 + 0.07) for o in wall.openings if o.kind == "door"
    )
    ends = [0.0, *(x for door in doors for x in door), wall.length]
    return [
        box((a, 0, 0), (b, 0.01, 0.08), "baseboard", without=("back", "bottom"))
        for a, b in zip(ends[::2], ends[1::2], strict=True)
        if b - a > 0.02
    ]


def _slab(plan: Plan, z: float, up: float, role: str) -> Part:
    """Return the room's outline filled, at one height."""
    xs, ys = (sorted(set(plan.corners[:, axis].tolist())) for axis in (0, 1))
    cells = []
    for (x0, x1), (y0, y1) in itertools.product(
        itertools.pairwise(xs), itertools.pairwise(ys)
    ):
        if plan.contains(np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))[0]:
            cells.append(_flat((x0, y0, z), (x1, y1, z), (0, 1), (0, 0, up), role))
    return join(cells)


def _flat(
    low: tuple[Number, Number, Number],
    high: tuple[Number, Number, Number],
    axes: tuple[int, int],
    normal: tuple[Number, Number, Number],
    role: str,
) -> Part:
    ends = np.array([low, high])
    corners = np.tile(ends[0], (4, 1))
    corners[:, axes[0]] = ends[[0, 1, 1, 0], axes[0]]
    corners[:, axes[1]] = ends[[0, 0, 1, 1], axes[1]]
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    uv = corners[:, list(axes)]
    return Part(corners, triangles, uv, np.tile(np.array(normal, float), (4, 1)), role)
