"""Surfaces that furniture is made of: triangles with texture coordinates and normals.

A `Part` is a piece of surface of one material. Texture coordinates `uv` are in metres
along the surface, so that a pattern has one size whatever it is painted on. Normals
point outwards where the surface is closed; both sides of every surface are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gnesf_core.shapes import Float64, Int64

Number = float | int
Vector = Sequence[Number] | np.ndarray

# The faces of a box: axis of the outward normal, its sign, axes of u and v.
_BOX_FACES = {
    "left": (0, -1, 1, 2),
    "right": (0, 1, 1, 2),
    "back": (1, -1, 0, 2),
    "front": (1, 1, 0, 2),
    "bottom": (2, -1, 0, 1),
    "top": (2, 1, 0, 1),
}


@dataclass(frozen=True)
class Part:
    """A piece of surface with one material."""

    vertices: Float64[np.ndarray, "n 3"]
    triangles: Int64[np.ndarray, "m 3"]
    uv: Float64[np.ndarray, "n 2"]
    normals: Float64[np.ndarray, "n 3"]
    material: str

    def moved(self, target_from_part: Float64[np.ndarray, "4 4"]) -> "Part":
        """Return the part moved rigidly."""
        rotation, translation = target_from_part[:3, :3], target_from_part[:3, 3]
        return replace(
            self,
            vertices=self.vertices @ rotation.T + translation,
            normals=self.normals @ rotation.T,
        )

    def shifted(self, offset: Vector) -> "Part":
        """Return the part moved by `offset`."""
        return replace(self, vertices=self.vertices + np.asarray(offset, float))

    def turned(self, degrees: Number, axis: int = 2) -> "Part":
        """Return the part turned about a coordinate axis through the origin."""
        return self.moved(turn(degrees, axis))


def turn(degrees: Number, axis: int = 2) -> Float64[np.ndarray, "4 4"]:
    """Return the rotation about a coordinate axis, right-handed."""
    matrix = np.eye(4)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[[i, i, j, j], [i, j, i, j]] = cosine, -sine, sine, cosine
    return matrix


def place(
    x: Number, y: Number, z: Number, degrees: Number
) -> Float64[np.ndarray, "4 4"]:
    """Return the turn about z followed by a move to (x, y, z)."""
    matrix = turn(degrees)
    matrix[:3, 3] = x, y, z
    return matrix


def box(
    low: Vector,
    high: Vector,
    material: str,
    *,
    without: Sequence[str] = (),
    upright: bool = False,
) -> Part:
    """Return an axis-aligned box.

    Args:
        low: smallest corner in metres.
        high: largest corner.
        material: what all faces are made of.
        without: faces to leave out, where they would touch something: left, right,
            back, front, bottom, top (x-, x+, y-, y+, z-, z+).
        upright: lets u run along z, for a grain that stands.
    """
    ends = np.array([low, high], float)
    pieces = []
    for name, (axis, sign, across, along) in _BOX_FACES.items():
        if name in without:
            continue
        corners = np.tile(ends[int(sign > 0)], (4, 1))
        corners[:, across] = ends[[0, 1, 1, 0], across]
        corners[:, along] = ends[[0, 0, 1, 1], along]
        normal = np.zeros((4, 3))
        normal[:, axis] = sign
        u, v = (along, across) if upright else (across, along)
        # Different offsets keep the pattern from mirroring itself at edges.
        uv = corners[:, [u, v]] + ends[0, axis] + 0.37 * axis + 0.19 * sign
        pieces.append((corners, normal, uv))
    return _quads(pieces, material)


def panel(
    centre: Vector, width: Number, height: Number, normal: Vector, material: str
) -> Part:
    """Return an upright rectangle; uv runs over 0..1 from its upper left corner."""
    normal = np.asarray(normal, float) / np.linalg.norm(normal)
    right = np.cross([0.0, 0.0, 1.0], normal)
    right /= np.linalg.norm(right)
    up = np.cross(normal, right)
    signs = np.array([[-1, 1], [1, 1], [1, -1], [-1, -1]]) / 2
    corners = np.asarray(centre, float) + signs @ np.stack([width * right, height * up])
    uv = np.stack([signs[:, 0] + 0.5, 0.5 - signs[:, 1]], 1)
    return _quads([(corners, np.tile(normal, (4, 1)), uv)], material)


def loft(
    rings: Sequence[tuple[Number, ...]],
    material: str,
    *,
    segments: int = 14,
    power: Number = 2.0,
    smooth: bool = False,
    cap_low: bool = True,
    cap_high: bool = True,
) -> Part:
    """Return a surface through horizontal rings: cylinders, shades, bowls, cushions.

    Args:
        rings: (x, y, z, half width, half depth) of each ring in turn; going up the
            outside and down the inside makes a bowl.
        material: what it is made of.
        segments: corners of a ring.
        power: 2 makes ellipses, larger values ever squarer rectangles.
        smooth: shade rings into each other instead of as bands.
        cap_low: close the first ring.
        cap_high: close the last ring.
    """
    angle = (np.arange(segments + 1) + 0.5) * 2 * np.pi / segments
    outline = np.stack([np.cos(angle), np.sin(angle)], 1)
    outline = np.sign(outline) * np.abs(outline) ** (2 / power)
    table = np.asarray(rings, float)
    grid = np.empty((len(table), segments + 1, 3))
    grid[..., :2] = table[:, None, :2] + outline * table[:, None, 3:]
    grid[..., 2] = table[:, 2:3]
    surface = _grid_part(grid, material, smooth)
    ends = [(grid[0], -1.0)] * cap_low + [(grid[-1], 1.0)] * cap_high
    return join([surface, *(_cap(ring[:-1], side, material) for ring, side in ends)])


def cylinder(
    centre: Vector,
    radius: Number,
    low: Number,
    high: Number,
    material: str,
    *,
    segments: int = 12,
    top_radius: Number | None = None,
) -> Part:
    """Return an upright cylinder or cone stump about (x, y)."""
    x, y = centre[0], centre[1]
    top = radius if top_radius is None else top_radius
    rings = [(x, y, low, radius, radius), (x, y, high, top, top)]
    return loft(rings, material, segments=segments)


def cushion(low: Vector, high: Vector, material: str, *, bulge: Number = 0.35) -> Part:
    """Return a soft block that fills the box, rounded over `bulge` of its height."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    (x, y), (w, d) = ((low + high) / 2)[:2], ((high - low) / 2)[:2]
    height = high[2] - low[2]
    edge = min(bulge * height, 0.4 * min(w, d))
    rings = []
    for quarter, base, sign in ((0, low[2] + edge, -1), (1, high[2] - edge, 1)):
        steps = np.radians([75, 40, 0] if quarter == 0 else [0, 40, 75])
        for step in steps:
            inset = edge * (1 - np.cos(step))
            z = base + sign * edge * np.sin(step)
            rings.append((x, y, z, w - inset, d - inset))
    return loft(rings, material, segments=20, power=7.0, smooth=True)


def ball(centre: Vector, radii: Vector, material: str, *, segments: int = 12) -> Part:
    """Return an ellipsoid."""
    x, y, z = centre
    a, b, c = radii
    steps = np.radians([-72, -40, -10, 20, 50, 75])
    rings = [
        (x, y, z + c * np.sin(s), a * np.cos(s), b * np.cos(s)) for s in steps.tolist()
    ]
    return loft(rings, material, segments=segments, smooth=True)


def drape(
    start: Vector,
    end: Vector,
    low: Number,
    high: Number,
    material: str,
    *,
    waves: Number,
    depth: Number,
    phase: Number = 0.0,
) -> Part:
    """Return a hanging cloth in waves between two points of the floor plan.

    The waves are flatter at the top, where the cloth is held.
    """
    start, end = np.asarray(start[:2], float), np.asarray(end[:2], float)
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    across = np.array([-along[1], along[0]])
    s = np.linspace(0, 1, max(8, int(waves * 7)) + 1)
    heights = np.linspace(low, high, 4)
    sway = np.sin(2 * np.pi * (waves * s + phase)) + 0.3 * np.sin(5.1 * s + 7 * phase)
    grid = np.empty((len(heights), len(s), 3))
    for row, z in enumerate(heights):
        amplitude = depth * (1 - 0.45 * row / (len(heights) - 1))
        grid[row, :, :2] = start + np.outer(s, end - start)
        grid[row, :, :2] += np.outer(amplitude * sway, across)
        grid[row, :, 2] = z
    return _grid_part(grid, material, smooth=True)


def join(parts: Sequence[Part]) -> Part:
    """Return parts of one material as one part."""
    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    return Part(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([p.triangles + n for p, n in zip(parts, first, strict=False)]),
        np.concatenate([part.uv for part in parts]),
        np.concatenate([part.normals for part in parts]),
        parts[0].material,
    )


def _quads(
    pieces: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], material: str
) -> Part:
    corners, normals, uv = (np.concatenate(rows) for rows in zip(*pieces, strict=True))
    first = 4 * np.arange(len(pieces))[:, None, None]
    triangles = first + np.array([[0, 1, 2], [0, 2, 3]])
    return Part(corners, triangles.reshape(-1, 3), uv, normals, material)


def _grid_part(
    grid: Float64[np.ndarray, "rows columns 3"], material: str, smooth: bool
) -> Part:
    """Return the surface over a grid of points, shaded smoothly along the rows."""
    along = np.gradient(grid, axis=1)
    if np.allclose(grid[:, 0], grid[:, -1]):
        seam = (grid[:, 1] - grid[:, -2]) / 2
        along[:, 0] = along[:, -1] = seam
    if smooth:
        bands = [(grid, np.gradient(grid, axis=0), along)]
    else:
        pairs = zip(grid[:-1], grid[1:], along[:-1], along[1:], strict=True)
        bands = [
            (np.stack([a, b]), np.stack([b - a, b - a]), np.stack([t, s]))
            for a, b, t, s in pairs
        ]
    pieces = []
    v_start = 0.0
    for points, up, tangent in bands:
        normal = np.cross(tangent, up)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
        u = np.cumsum(np.linalg.norm(np.diff(points, axis=1), axis=-1).max(0))
        rise = np.linalg.norm(np.diff(points, axis=0), axis=-1).max(1)
        v = v_start + np.concatenate([[0.0], np.cumsum(rise)])
        v_start = v[-1]
        uv = np.stack(np.meshgrid(np.concatenate([[0.0], u]), v), -1)
        pieces.append(_triangulated(points, normal, uv, material))
    return join(pieces)


def _triangulated(
    points: np.ndarray, normal: np.ndarray, uv: np.ndarray, material: str
) -> Part:
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    c, d = index[1:, 1:].ravel(), index[1:, :-1].ravel()
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    flat = (array.reshape(-1, array.shape[-1]) for array in (points, uv, normal))
    vertices, uv, normals = flat
    corners = vertices[triangles]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    solid = np.linalg.norm(area, axis=1) > 1e-12
    return Part(vertices, triangles[solid], uv, normals, material)


def _cap(ring: Float64[np.ndarray, "n 3"], side: Number, material: str) -> Part:
    vertices = np.concatenate([ring, ring.mean(0, keepdims=True)])
    i = np.arange(len(ring))
    triangles = np.stack([i, (i + 1) % len(ring), np.full(len(ring), len(ring))], 1)
    normals = np.tile([0.0, 0.0, side], (len(vertices), 1))
    return Part(vertices, triangles, vertices[:, :2] + 0.11, normals, material)
