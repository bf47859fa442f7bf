"""What stands in each kind of room, and how it is arranged.

`layout` draws the plan and where things stand, `rng` what they look like in detail.
"""

from collections.abc import Callable

import numpy as np

from gnesf_core.synthrooms import clutter, fixtures, furniture, seats
from gnesf_core.synthrooms.plan import Plan, Wall, draw_plan, overlap, rectangle
from gnesf_core.synthrooms.shapes import place
from gnesf_core.synthrooms.shell import cut_openings
from gnesf_core.synthrooms.things import Furniture, Rng, Thing


class NoRoom(Exception):
    """The furniture did not fit; another layout is drawn."""


def _must(placed: object) -> None:
    if placed is None or placed is False:
        raise NoRoom


def _topped(
    item: Furniture,
    rng: Rng,
    height: float,
    kinds: dict[str, Callable[[], Thing]],
    count: int,
) -> Furniture:
    """Return the furniture with small things standing on it, side by side."""
    slots = max(1, int((item.width - 0.1) / 0.34))
    chosen = rng.permutation(slots)[:count]
    things = []
    for slot in chosen:
        x = (
            -item.width / 2
            + (slot + 0.5) * item.width / slots
            + rng.uniform(-0.02, 0.02)
        )
        y = item.depth * rng.uniform(0.42, 0.58)
        name = list(kinds)[rng.integers(len(kinds))]
        things.append(
            kinds[name]().moved(place(x, y, height + 0.002, rng.uniform(-20, 20)))
        )
    return item.with_things(things)


def _small(rng: Rng) -> dict[str, Callable[[], Thing]]:
    return {
        "books": lambda: clutter.book_stack(rng),
        "trifle": lambda: clutter.trifle(rng),
        "bottle": lambda: clutter.bottle(rng),
    }


def _worktop(item: Furniture, rng: Rng) -> Furniture:
    """Return a desk with a screen, a keyboard and other things."""
    height = item.height
    slots = int(item.width / 0.3)
    middle = rng.uniform(-0.15, 0.15) * item.width
    screen = clutter.monitor(rng).shifted(middle, item.depth * 0.32, height + 0.002)
    keys = clutter.keyboard().moved(
        place(middle + 0.03, item.depth * 0.72, height + 0.002, rng.uniform(-8, 8))
    )
    things = [screen, keys]
    for x in np.linspace(-item.width / 2 + 0.16, item.width / 2 - 0.16, slots):
        if abs(x - middle) > 0.5 and rng.random() < 0.75:
            options = _small(rng) | {"lamp": lambda: clutter.table_lamp(rng)}
            thing = options[list(options)[rng.integers(4)]]()
            things.append(thing.shifted(x, item.depth * 0.4, height + 0.002))
    return item.with_things(things)


def _chairs_around(
    plan: Plan, matrix: np.ndarray, item: Furniture, rng: Rng, most: int
) -> int:
    """Push chairs under the sides of a table; return how many found room."""
    style = rng.integers(2**31)
    spots = []
    half, depth = item.width / 2, item.depth
    along = [0.0] if item.width < 1.25 else [-item.width / 4, item.width / 4]
    spots += [(x, 0.0, 0.0) for x in along] + [(x, depth, 180.0) for x in along]
    spots += [(-half, depth / 2, -90.0), (half, depth / 2, 90.0)]
    placed = 0
    for i in rng.permutation(len(spots)):
        if placed == most:
            break
        x, y, degrees = spots[i]
        seat = seats.chair(np.random.default_rng(style), "dining chairs")
        out = rng.uniform(0.08, 0.3) - 0.2
        degrees += rng.normal(0, 5)
        local = place(x, y, 0.0, degrees)
        # The chair's front points to the table; its back stands clear of the top.
        local[:2, 3] -= local[:2, 1] * (out + 0.27)
        target = matrix @ local
        behind = rectangle(target, seat.width, 0.0, 0.2)
        others = [f for f in plan.footprints if not _same(f, matrix, item)]
        whole = rectangle(target, seat.width, 0.0, seat.depth)
        if plan.contains(np.concatenate([behind, whole])).all() and not any(
            overlap(whole, other) for other in others
        ):
            plan.things += [thing.moved(target) for thing in seat.things]
            plan.footprints.append(whole)
            placed += 1
    return placed


def _same(footprint: np.ndarray, matrix: np.ndarray, item: Furniture) -> bool:
    return np.array_equal(footprint, rectangle(matrix, item.width, 0.0, item.depth))


def _desk_with_chair(plan: Plan, rng: Rng) -> bool:
    item = _worktop(furniture.desk(rng), rng)
    matrix = plan.at_wall(item, rng, clear=0.75)
    if matrix is None:
        return False
    seat = seats.office_chair(rng, "office chairs" if rng.random() < 0.6 else "")
    x, y = rng.uniform(-0.12, 0.12), item.depth + rng.uniform(0.66, 0.76)
    local = place(x, y, 0.0, 180 + rng.uniform(-25, 25))
    footprint = rectangle(matrix @ local, seat.width, 0.0, seat.depth)
    if not plan.contains(footprint).all() or any(
        overlap(footprint, other) for other in plan.footprints
    ):
        return False
    plan.things += [thing.moved(matrix @ local) for thing in seat.things]
    plan.footprints.append(footprint)
    return True


def _decorate(plan: Plan, rng: Rng, pictures: int) -> None:
    """Hang pictures and put odds and ends at the walls."""
    _must(plan.on_wall(clutter.framed(rng, "picture"), rng, 1.15, 2.1))
    for _ in range(pictures - 1):
        plan.on_wall(clutter.framed(rng, "picture"), rng, 1.15, 2.1)
    if rng.random() < 0.8:
        plan.at_wall(clutter.trash_can(rng), rng, clear=0.1, corner=0.3)
    extras = [
        clutter.radiator,
        clutter.plant,
        clutter.box_pile,
        clutter.bag,
        clutter.box_pile,
        seats.ottoman,
    ]
    for index in rng.permutation(len(extras))[: int(rng.integers(2, 6))]:
        plan.at_wall(extras[index](rng), rng, clear=0.15, corner=0.4)


def _living(layout: Rng, rng: Rng) -> tuple[Plan, str, str]:
    plan = draw_plan(layout, 4.1, 5.4)
    cut_openings(plan, layout, int(layout.integers(1, 3)), 0.9)
    _must(plan.at_wall(furniture.bed(rng), layout, clear=0.4, corner=0.3))
    seat = seats.sofa(rng)
    matrix = plan.at_wall(seat, layout, clear=0.3)
    _must(matrix)
    low = _topped(furniture.coffee_table(rng), rng, 0.0, {}, 0)
    low = _topped(low, rng, low.height, _small(rng), 2)
    target = matrix @ place(0.0, seat.depth + rng.uniform(0.35, 0.5), 0.0, 0.0)
    fits = plan.contains(
        rectangle(target, low.width, 0.0, low.depth)
    ).all() and not any(
        overlap(rectangle(target, low.width, 0.0, low.depth), f)
        for f in plan.footprints
    )
    _must(fits)
    plan.things += [thing.moved(target) for thing in low.things]
    plan.footprints.append(rectangle(target, low.width, 0.0, low.depth))
    if rng.random() < 0.6:
        mat = clutter.rug(rng, low.width + 0.7, low.depth + 0.6)
        spot = target @ place(0.0, -0.3, 0.001, 0.0)
        if plan.contains(rectangle(spot, mat.width, 0.0, mat.depth)).all():
            plan.things += [thing.moved(spot) for thing in mat.things]
    _must(plan.at_wall(furniture.wardrobe(rng), layout, clear=0.5, corner=0.5))
    options = [
        furniture.tv_stand(rng),
        furniture.bookshelf(rng),
        _topped(
            chest := furniture.dresser(rng),
            rng,
            chest.height,
            {**_small(rng), "lamp": lambda: clutter.table_lamp(rng)},
            2,
        ),
        seats.armchair(rng),
        seats.ottoman(rng),
        clutter.floor_lamp(rng),
        _topped(
            night := furniture.nightstand(rng),
            rng,
            night.height,
            {"lamp": lambda: clutter.table_lamp(rng)},
            1,
        ),
        furniture.side_table(rng),
    ]
    for index in rng.permutation(len(options))[: int(rng.integers(5, 9))]:
        plan.at_wall(options[index], layout, clear=0.3, corner=0.3)
    if rng.random() < 0.3:
        _desk_with_chair(plan, rng)
    _decorate(plan, rng, int(rng.integers(2, 5)))
    floor = "floor_wood" if rng.random() < 0.6 else "floor_carpet"
    return plan, floor, "wallpaper" if rng.random() < 0.25 else "wall"


def _kitchen(layout: Rng, rng: Rng) -> tuple[Plan, str, str]:
    plan = draw_plan(layout, 3.5, 4.8)
    cut_openings(plan, layout, int(layout.integers(1, 3)), 0.55)
    run = fixtures.kitchen_run(rng, float(layout.uniform(1.9, 2.7)))
    _must(plan.at_wall(run, layout, clear=0.8, corner=0.7))
    _must(plan.at_wall(fixtures.refrigerator(rng), layout, clear=0.6, corner=0.6))
    item = furniture.table(rng)
    item = _topped(item, rng, item.height, _small(rng), int(rng.integers(1, 4)))
    matrix = plan.inside(item, layout, clear=0.55)
    _must(matrix)
    if _chairs_around(plan, matrix, item, rng, int(rng.integers(3, 7))) < 2:
        raise NoRoom
    options = [
        fixtures.stove(rng),
        _topped(board := furniture.cabinet(rng), rng, board.height, _small(rng), 2),
        furniture.bookshelf(rng),
        clutter.floor_lamp(rng),
        clutter.box_pile(rng),
    ]
    for index in rng.permutation(len(options))[: int(rng.integers(2, 5))]:
        plan.at_wall(options[index], layout, clear=0.4, corner=0.3)
    _decorate(plan, rng, int(rng.integers(1, 4)))
    floor = "floor_tiles" if rng.random() < 0.6 else "floor_wood"
    return plan, floor, "wall"


def _bathroom(layout: Rng, rng: Rng) -> tuple[Plan, str, str]:
    plan = draw_plan(layout, 2.5, 3.4)
    cut_openings(plan, layout, 1, 0.2)
    _must(plan.at_wall(fixtures.bathtub(rng), layout, clear=0.5, corner=0.9))
    sink = fixtures.vanity(rng)
    matrix = plan.at_wall(sink, layout, clear=0.6)
    _must(matrix)
    glass = clutter.framed(rng, "mirror")
    over = matrix @ place(0.0, -0.012, 1.6, 0.0)
    wall = min(plan.walls, key=lambda w: _off_line(w, over[:2, 3]))
    s = float((over[:2, 3] - wall.start) @ (wall.end - wall.start) / wall.length)
    span = (s - glass.width / 2, s + glass.width / 2, 1.6 - glass.height / 2, 2.1)
    if wall.is_free(*span):
        wall.taken.append(span)
        plan.things += [thing.moved(over) for thing in glass.things]
    _must(plan.at_wall(fixtures.toilet(rng), layout, clear=0.5))
    _must(plan.on_wall(_rail(rng), layout, 0.6, 1.6))
    if rng.random() < 0.6:
        plan.at_wall(furniture.cabinet(rng), layout, clear=0.3, corner=0.4)
    if rng.random() < 0.5:
        plan.at_wall(clutter.radiator(rng), layout, clear=0.2)
    if rng.random() < 0.7:
        plan.at_wall(clutter.trash_can(rng), layout, clear=0.1)
    if rng.random() < 0.5:
        plan.on_wall(clutter.framed(rng, "picture"), rng, 1.2, 2.0)
    if rng.random() < 0.5:
        plan.inside(clutter.rug(rng, 0.8, 0.5), layout, clear=0.0)
        plan.footprints.pop()
    return plan, "floor_tiles", "wall_tiles" if rng.random() < 0.6 else "wall"


def _rail(rng: Rng) -> Furniture:
    rail = clutter.towel_rail(rng)
    middle = rail.height - 0.35
    things = tuple(thing.shifted(0, 0, -middle) for thing in rail.things)
    return Furniture(things, rail.width, rail.depth, 0.72)


def _off_line(wall: Wall, point: np.ndarray) -> float:
    along = (wall.end - wall.start) / wall.length
    offset = point - wall.start
    return abs(along[0] * offset[1] - along[1] * offset[0])


def _office(layout: Rng, rng: Rng) -> tuple[Plan, str, str]:
    plan = draw_plan(layout, 3.7, 5.1)
    cut_openings(plan, layout, int(layout.integers(1, 3)), 0.4)
    for index in range(int(rng.integers(2, 4))):
        placed = _desk_with_chair(plan, rng)
        if index < 1:
            _must(placed)
    _must(plan.at_wall(furniture.bookshelf(rng), layout, clear=0.5, corner=0.4))
    drawers = furniture.file_cabinet(rng)
    drawers = _topped(drawers, rng, drawers.height, _small(rng), 1)
    _must(plan.at_wall(drawers, layout, clear=0.4, corner=0.4))
    if rng.random() < 0.7:
        plan.on_wall(clutter.framed(rng, "whiteboard"), rng, 0.9, 2.1)
    options = [
        furniture.bookshelf(rng),
        _topped(board := furniture.cabinet(rng), rng, board.height, _small(rng), 2),
        seats.sofa(rng),
        seats.armchair(rng),
        furniture.side_table(rng),
        clutter.floor_lamp(rng),
        clutter.box_pile(rng),
    ]
    for index in rng.permutation(len(options))[: int(rng.integers(2, 5))]:
        plan.at_wall(options[index], layout, clear=0.4, corner=0.3)
    if rng.random() < 0.35:
        item = furniture.table(rng)
        item = _topped(item, rng, item.height, _small(rng), 2)
        matrix = plan.inside(item, layout, clear=0.6)
        if matrix is not None:
            _chairs_around(plan, matrix, item, rng, 4)
    _decorate(plan, rng, int(rng.integers(1, 4)))
    floor = "floor_carpet" if rng.random() < 0.7 else "floor_wood"
    return plan, floor, "wall"


FURNISH: dict[str, Callable[[Rng, Rng], tuple[Plan, str, str]]] = {
    "living": _living,
    "kitchen": _kitchen,
    "bathroom": _bathroom,
    "office": _office,
}
