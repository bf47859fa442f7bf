"""The floor plan of a room: walls, openings, and finding free places for furniture.

Plans are drawn in the room frame: the floor is z = 0 and walls follow x and y. Walls
run counter-clockwise, so that a wall's own frame (x along it, y into the room) is the
frame that furniture is built in.
"""

from dataclasses import dataclass, field

import numpy as np

from gnesf_core.shapes import Bool, Float64
from gnesf_core.synthrooms.shapes import place
from gnesf_core.synthrooms.things import Furniture, Thing

WALL_GAP_M = 0.012  # furniture never touches the wall that it stands at
TRIES = 60


@dataclass(frozen=True)
class Opening:
    """A door or window in a wall; s runs along the wall, z up."""

    kind: str
    s0: float
    s1: float
    z0: float
    z1: float


@dataclass
class Wall:
    """A straight wall with its openings and what stands or hangs at it."""

    start: Float64[np.ndarray, " 2"]
    end: Float64[np.ndarray, " 2"]
    openings: list[Opening] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    @property
    def length(self) -> float:
        """Length in metres."""
        return float(np.linalg.norm(self.end - self.start))

    def frame(self, s: float, y: float = 0.0, z: float = 0.0) -> np.ndarray:
        """Return room_from_item for an item whose origin is at (s, y, z)."""
        along = (self.end - self.start) / self.length
        x0, y0 = self.start + s * along + y * np.array([-along[1], along[0]])
        return place(x0, y0, z, np.degrees(np.arctan2(along[1], along[0])))

    def is_free(self, s0: float, s1: float, z0: float, z1: float) -> bool:
        """Tell whether nothing stands, hangs or opens in a rectangle of the wall."""
        openings = [(o.s0 - 0.1, o.s1 + 0.1, o.z0 - 0.05, o.z1) for o in self.openings]
        return (
            s0 >= 0.02
            and s1 <= self.length - 0.02
            and not any(
                s0 < b and a < s1 and z0 < d and c < z1
                for a, b, c, d in [*self.taken, *openings]
            )
        )


@dataclass
class Plan:
    """A room being furnished."""

    corners: Float64[np.ndarray, "n 2"]
    height: float
    walls: list[Wall]
    footprints: list[Float64[np.ndarray, "4 2"]] = field(default_factory=list)
    reserved: list[Float64[np.ndarray, "4 2"]] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)

    def contains(self, points: Float64[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Tell which points are inside, by the even-odd rule."""
        inside = np.zeros(len(points), bool)
        x, y = points[:, 0], points[:, 1]
        for (x0, y0), (x1, y1) in zip(
            self.corners, np.roll(self.corners, -1, 0), strict=True
        ):
            if y0 == y1:
                continue
            crosses = (y0 > y) != (y1 > y)
            inside ^= crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        return inside

    def wall_distance(
        self, points: Float64[np.ndarray, "n 2"]
    ) -> Float64[np.ndarray, " n"]:
        """Return the distance to the nearest wall."""
        nearest = np.full(len(points), np.inf)
        for wall in self.walls:
            nearest = np.minimum(
                nearest, _segment_distance(points, wall.start, wall.end)
            )
        return nearest

    def at_wall(
        self,
        item: Furniture,
        rng: np.random.Generator,
        *,
        clear: float = 0.5,
        corner: float = 0.0,
    ) -> np.ndarray | None:
        """Stand an item with its back at a wall.

        Args:
            item: what to place.
            rng: draws places until one is free.
            clear: metres before the item that stay free of other furniture.
            corner: probability that a place in a corner is tried.

        Returns:
            room_from_item, or None if no free place was found.
        """
        lengths = np.array([wall.length for wall in self.walls])
        for _ in range(TRIES):
            wall = self.walls[rng.choice(len(self.walls), p=lengths / lengths.sum())]
            margin = item.width / 2 + 0.04
            if wall.length < 2 * margin:
                continue
            s = rng.uniform(margin, wall.length - margin)
            if rng.random() < corner:
                s = margin if rng.random() < 0.5 else wall.length - margin
            matrix = wall.frame(s, WALL_GAP_M)
            footprint = rectangle(matrix, item.width, 0.0, item.depth)
            front = rectangle(matrix, item.width, item.depth, item.depth + clear)
            span = (s - item.width / 2, s + item.width / 2, 0.0, item.height)
            if wall.is_free(*span) and self._fits(footprint, front):
                wall.taken.append(span)
                self._add(item, matrix, footprint, front)
                return matrix
        return None

    def on_wall(
        self, item: Furniture, rng: np.random.Generator, low: float, high: float
    ) -> bool:
        """Hang an item of `height` centred on z = 0 between two heights."""
        for _ in range(TRIES):
            wall = self.walls[rng.integers(len(self.walls))]
            margin = item.width / 2 + 0.1
            if wall.length < 2 * margin or high - low < item.height:
                continue
            s = rng.uniform(margin, wall.length - margin)
            z = rng.uniform(low + item.height / 2, high - item.height / 2)
            a, b = s - item.width / 2 - 0.05, s + item.width / 2 + 0.05
            if wall.is_free(a, b, z - item.height / 2, z + item.height / 2):
                wall.taken.append((a, b, z - item.height / 2, z + item.height / 2))
                matrix = wall.frame(s, 0.0, z)
                self.things += [thing.moved(matrix) for thing in item.things]
                return True
        return False

    def inside(
        self,
        item: Furniture,
        rng: np.random.Generator,
        *,
        clear: float = 0.45,
    ) -> np.ndarray | None:
        """Stand an item anywhere in the room, with free floor around it."""
        low, high = self.corners.min(0), self.corners.max(0)
        for _ in range(TRIES):
            x, y = rng.uniform(low, high)
            degrees = rng.choice([0.0, 90.0, 180.0, 270.0]) + rng.normal(0, 4)
            matrix = place(x, y, 0.0, degrees)
            matrix[:2, 3] -= matrix[:2, 1] * item.depth / 2
            if self.fixed(item, matrix, clear=clear):
                return matrix
        return None

    def fixed(
        self, item: Furniture, matrix: np.ndarray, *, clear: float = 0.02
    ) -> bool:
        """Stand an item at a given place if it is free."""
        footprint = rectangle(matrix, item.width, 0.0, item.depth)
        around = rectangle(matrix, item.width + 2 * clear, -clear, item.depth + clear)
        if not self._fits(footprint, around):
            return False
        self._add(item, matrix, footprint, None)
        return True

    def reserve(self, footprint: Float64[np.ndarray, "4 2"]) -> None:
        """Keep furniture off a part of the floor."""
        self.reserved.append(footprint)

    def _fits(self, footprint: np.ndarray, front: np.ndarray) -> bool:
        if not self._encloses(footprint):
            return False
        if any(overlap(footprint, other) for other in self.footprints + self.reserved):
            return False
        return not any(overlap(front, other) for other in self.footprints)

    def _encloses(self, footprint: np.ndarray) -> bool:
        """Tell whether a rectangle is inside and contains no corner of the room."""
        edges = np.concatenate([footprint, (footprint + np.roll(footprint, -1, 0)) / 2])
        if not self.contains(edges).all():
            return False
        shrunk = footprint.mean(0) + 0.999 * (footprint - footprint.mean(0))
        corners = self.corners
        return not any(_in_rectangle(corner, shrunk) for corner in corners)

    def _add(
        self,
        item: Furniture,
        matrix: np.ndarray,
        footprint: np.ndarray,
        front: np.ndarray | None,
    ) -> None:
        self.things += [thing.moved(matrix) for thing in item.things]
        self.footprints.append(footprint)
        if front is not None:
            self.reserved.append(front)


def rectangle(
    matrix: Float64[np.ndarray, "4 4"], width: float, near: float, far: float
) -> Float64[np.ndarray, "4 2"]:
    """Return the floor rectangle |x| <= width / 2, near <= y <= far of a frame."""
    x, y = width / 2, (near, far)
    local = np.array([[-x, y[0]], [x, y[0]], [x, y[1]], [-x, y[1]]])
    return local @ matrix[:2, :2].T + matrix[:2, 3]


def overlap(
    a: Float64[np.ndarray, "4 2"], b: Float64[np.ndarray, "4 2"], gap: float = 0.005
) -> bool:
    """Tell whether two rectangles are closer than a gap, by separating axes."""
    for first, second in ((a, b), (b, a)):
        edges = np.roll(first, -1, 0) - first
        normals = np.stack([edges[:2, 1], -edges[:2, 0]], 1)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        for normal in normals:
            p, q = first @ normal, second @ normal
            if p.max() + gap <= q.min() or q.max() + gap <= p.min():
                return False
    return True


def _in_rectangle(point: np.ndarray, rectangle: np.ndarray) -> bool:
    edges = np.roll(rectangle, -1, 0) - rectangle
    offset = point - rectangle
    side = edges[:, 0] * offset[:, 1] - edges[:, 1] * offset[:, 0]
    return bool((side > 0).all() or (side < 0).all())


def _segment_distance(
    points: np.ndarray, start: np.ndarray, end: np.ndarray
) -> np.ndarray:
    along = end - start
    t = np.clip((points - start) @ along / (along @ along), 0, 1)
    return np.linalg.norm(points - start - t[:, None] * along, axis=1)


def draw_plan(rng: np.random.Generator, low: float, high: float) -> Plan:
    """Return an empty room, rectangular or L-shaped, of sides between two lengths."""
    width, depth = rng.uniform(low, high), rng.uniform(low, high * 0.92)
    height = rng.uniform(2.4, 2.8)
    if min(width, depth) > 4.0 and rng.random() < 0.4:
        a, b = rng.uniform(0.22, 0.36) * width, rng.uniform(0.22, 0.36) * depth
        corners = np.array(
            [[0, 0], [width, 0], [width, depth - b], [width - a, depth - b],
             [width - a, depth], [0, depth]]
        )  # fmt: skip
    else:
        corners = np.array([[0, 0], [width, 0], [width, depth], [0, depth]])
    ends = np.roll(corners, -1, 0)
    walls = [Wall(start, end) for start, end in zip(corners, ends, strict=True)]
    return Plan(corners, height, walls)
