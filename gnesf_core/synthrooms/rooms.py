"""Rooms: a plan is drawn, furnished by its kind, and given looks, all from one seed.

Layout, objects, looks, camera path and sensor each have their own random stream, so
that changing how one of them draws leaves the others as they were.
"""

from dataclasses import dataclass, replace

import numpy as np

from gnesf_core.synthrooms.furnish import FURNISH, NoRoom
from gnesf_core.synthrooms.looks import Material, choose
from gnesf_core.synthrooms.plan import Plan
from gnesf_core.synthrooms.shell import shell_things
from gnesf_core.synthrooms.things import Rng, Thing

KINDS = ("living", "kitchen", "bathroom", "office")
SCENE_TYPES = {
    "living": "Bedroom / Hotel",
    "kitchen": "Kitchen",
    "bathroom": "Bathroom",
    "office": "Office",
}
LAYOUT_TRIES = 60
LEAST_FREE_M2 = 2.2  # floor on which a person with a camera can walk
WALK_CLEARANCE_M = 0.3
WALK_STEP_M = 0.1
# What annotators overlook most easily; nothing that the benchmark scores.
FORGETTABLE = ("bag", "books", "bottle", "box", "keyboard", "pillow", "plant", "towel")
FORGOTTEN_SHARE = 0.12
STREAMS = ("layout", "objects", "looks", "path", "sensor")


@dataclass(frozen=True)
class Room:
    """A furnished room in its own frame, with a material for every role of a thing."""

    kind: str
    plan: Plan
    things: tuple[Thing, ...]
    materials: tuple[dict[str, Material], ...]  # one for each thing: by role


def streams(seed: int, scene: int) -> dict[str, np.random.Generator]:
    """Return the scene's independent random streams."""
    root = np.random.SeedSequence([seed, scene])
    children = root.spawn(len(STREAMS))
    return {
        name: np.random.default_rng(child)
        for name, child in zip(STREAMS, children, strict=True)
    }


def build_room(kind: str, rngs: dict[str, np.random.Generator]) -> Room:
    """Return a furnished room of a kind; layouts are drawn until one holds it all."""
    for _ in range(LAYOUT_TRIES):
        layout, objects = (
            np.random.default_rng(rngs[name].integers(2**63))
            for name in ("layout", "objects")
        )
        try:
            plan, floor, walls = FURNISH[kind](layout, objects)
        except NoRoom:
            continue
        if len(walkable(plan)) * WALK_STEP_M**2 >= LEAST_FREE_M2:
            things = (
                *shell_things(plan, floor, walls, objects),
                *_forgotten(plan.things, objects),
            )
            return Room(kind, plan, things, _dress(things, rngs["looks"]))
    raise RuntimeError(f"no layout of a {kind} holds its furniture")


def walkable(plan: Plan, clearance: float = WALK_CLEARANCE_M) -> np.ndarray:
    """Return the floor points, on a grid, that are clear of walls and furniture."""
    low, high = plan.corners.min(0), plan.corners.max(0)
    axes = [np.arange(low[i] + 0.05, high[i], WALK_STEP_M) for i in range(2)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    points = points[plan.contains(points)]
    points = points[plan.wall_distance(points) > clearance + 0.1]
    for footprint in plan.footprints:
        points = points[_rectangle_distance(points, footprint) > clearance]
    return points


def _rectangle_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return the distance to a rectangle, 0 inside."""
    edges = np.roll(corners, -1, 0) - corners
    lengths = np.linalg.norm(edges[:2], axis=1)
    local = (points - corners.mean(0)) @ (edges[:2] / lengths[:, None]).T
    return np.linalg.norm(np.maximum(np.abs(local) - lengths / 2, 0), axis=1)


def _forgotten(things: list[Thing], rng: Rng) -> list[Thing]:
    """Return things without the annotation of some clutter, as annotators work."""
    small = [i for i, thing in enumerate(things) if thing.category in FORGETTABLE]
    lost = {i for i in small if rng.random() < FORGOTTEN_SHARE} | set(small[:1])
    return [
        replace(thing, category="") if i in lost else thing
        for i, thing in enumerate(things)
    ]


def _dress(things: tuple[Thing, ...], rng: Rng) -> tuple[dict[str, Material], ...]:
    """Choose materials; things of one `looks` group share theirs."""
    shared: dict[tuple[str, str], Material] = {}
    dressed = []
    for thing in things:
        own = {}
        for role in sorted({part.material for part in thing.parts}):
            material = choose(role, rng)
            if thing.looks:
                material = shared.setdefault((thing.looks, role), material)
            own[role] = material
        dressed.append(own)
    return tuple(dressed)
