"""What a builder of furniture returns, and small helpers that builders share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gnesf_core.shapes import Float64
from gnesf_core.synthrooms.shapes import Number, Part, box

Rng = np.random.Generator


@dataclass(frozen=True)
class Thing:
    """One annotated instance, or with an empty category something left unannotated."""

    category: str
    parts: tuple[Part, ...]
    looks: str = ""  # things with the same name here share their materials

    def moved(self, target_from_thing: Float64[np.ndarray, "4 4"]) -> "Thing":
        """Return the thing moved rigidly."""
        parts = tuple(part.moved(target_from_thing) for part in self.parts)
        return replace(self, parts=parts)

    def shifted(self, x: Number, y: Number, z: Number) -> "Thing":
        """Return the thing moved by an offset."""
        return replace(self, parts=tuple(p.shifted((x, y, z)) for p in self.parts))


@dataclass(frozen=True)
class Furniture:
    """Things that are placed together.

    The frame is the item's own: the middle of the back edge on the floor is the origin,
    x runs along the wall, y into the room, z up. Everything lies within the footprint.
    """

    things: tuple[Thing, ...]
    width: float  # metres along x
    depth: float  # along y, from 0
    height: float

    def with_things(self, things: Sequence[Thing]) -> "Furniture":
        """Return the furniture with more things on it."""
        return replace(self, things=(*self.things, *things))


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Return one of several names."""
    return options[rng.integers(len(options))]


def legs(
    width: float,
    depth: float,
    height: float,
    thickness: float,
    material: str,
    *,
    inset: float = 0.03,
) -> list[Part]:
    """Return four square legs under a rectangle that starts at y = 0."""
    half = width / 2 - inset
    corners = [
        (x, y) for x in (-half, half - thickness) for y in (inset, depth - inset)
    ]
    parts = []
    for x, y in corners:
        y = y if y == inset else y - thickness
        low, high = (x, y, 0.0), (x + thickness, y + thickness, height)
        parts.append(box(low, high, material, without=("bottom", "top"), upright=True))
    return parts


def fronts(
    width: float,
    y: float,
    low: float,
    high: float,
    columns: int,
    rows: int,
    material: str,
    handle: str = "metal",
) -> list[Part]:
    """Return a grid of door or drawer fronts with handles on the plane y, facing +y."""
    gap = 0.008
    parts = []
    for column in range(columns):
        x0 = -width / 2 + width * column / columns + gap
        x1 = -width / 2 + width * (column + 1) / columns - gap
        for row in range(rows):
            z0 = low + (high - low) * row / rows + gap
            z1 = low + (high - low) * (row + 1) / rows - gap
            parts.append(
                box((x0, y, z0), (x1, y + 0.018, z1), material, without=("back",))
            )
            wide = (x1 - x0) > (z1 - z0)
            x, z = (x0 + x1) / 2, z1 - 0.05
            if not wide:
                x = x1 - 0.05 if column % 2 == 0 else x0 + 0.05
                z = (z0 + z1) / 2
            a, b = (0.06, 0.008) if wide else (0.008, min(0.07, (z1 - z0) / 3))
            parts.append(
                box((x - a, y + 0.019, z - b), (x + a, y + 0.038, z + b), handle)
            )
    return parts
