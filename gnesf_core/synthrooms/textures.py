"""Procedural patterns: the albedo of a surface point from its material and `uv`."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gnesf_core.shapes import Float
from gnesf_core.synthrooms.looks import Material

NOISE_TEXELS = 512  # the noise repeats after so many
NOISE_SEED = 20240607  # the texture of noise itself is the same in all scenes


class Textures:
    """The materials of a scene as tables on a device."""

    def __init__(self, materials: Sequence[Material], device: torch.device) -> None:
        def table(rows: list) -> Tensor:
            return torch.tensor(rows, dtype=torch.float32, device=device)

        names = sorted(PATTERNS)
        self.names = names
        self.pattern = torch.tensor(
            [names.index(m.pattern) for m in materials], device=device
        )
        self.colors = table([m.colors for m in materials])
        self.numbers = table(
            [
                (m.scale_m, m.contrast, float(m.turned), *m.offset, m.seed)
                for m in materials
            ]
        )
        self.gloss = table([m.gloss for m in materials])
        self.glows = torch.tensor(
            [m.pattern in ("glow", "outlook", "screen") for m in materials],
            device=device,
        )
        self.noise = _noise_image().to(device)

    def albedo(
        self,
        material: Tensor,
        uv: Float[Tensor, "n 2"],
        footprint_m: Float[Tensor, " n"],
    ) -> Float[Tensor, "n 3"]:
        """Return linear colours.

        Args:
            material: index of each point's material.
            uv: texture coordinates.
            footprint_m: width of a pixel at the point; details smaller than it fade.
        """
        result = torch.zeros((len(material), 3), device=uv.device)
        kind = self.pattern.index_select(0, material)
        for index, name in enumerate(self.names):
            chosen = torch.nonzero(kind == index).flatten()
            if len(chosen):
                which = material.index_select(0, chosen)
                patch = _Patch(
                    self,
                    which,
                    uv.index_select(0, chosen),
                    footprint_m.index_select(0, chosen),
                )
                result.index_copy_(0, chosen, PATTERNS[name](patch))
        return result.clamp(0.0, 1.0)

    def sample(self, u: Tensor, v: Tensor) -> Tensor:
        """Return fractal noise in 0..1 (mean 0.5), smooth over one unit."""
        u, v = u * 8, v * 8
        column, row = torch.floor(u), torch.floor(v)
        x, y = u - column, v - row
        mask = NOISE_TEXELS - 1
        column, row = column.long() & mask, row.long() & mask
        row, below = row * NOISE_TEXELS, ((row + 1) & mask) * NOISE_TEXELS
        right = (column + 1) & mask
        a, b, c, d = (
            self.noise.index_select(0, at)
            for at in (row + column, row + right, below + column, below + right)
        )
        return torch.lerp(torch.lerp(a, b, x), torch.lerp(c, d, x), y)


class _Patch:
    """Points that share a pattern, with their materials' numbers looked up."""

    def __init__(
        self, textures: Textures, material: Tensor, uv: Tensor, footprint_m: Tensor
    ) -> None:
        self.textures = textures
        colors = textures.colors.index_select(0, material)
        self.a, self.b, self.c = colors.unbind(1)
        numbers = textures.numbers.index_select(0, material).unbind(1)
        self.scale, self.contrast, turned, offset_u, offset_v, self.seed = numbers
        self.raw_u, self.raw_v = uv.unbind(1)
        swap = turned > 0.5
        self.u = torch.where(swap, self.raw_v, self.raw_u) + offset_u
        self.v = torch.where(swap, self.raw_u, self.raw_v) + offset_v
        self.footprint = footprint_m

    def noise(self, u: Tensor, v: Tensor) -> Tensor:
        return self.textures.sample(u, v)

    def fade(self, size: Tensor) -> Tensor:
        """Return how much of a detail of `size` metres is left at this distance."""
        return (size / (2 * self.footprint)).clamp(0.0, 1.0)

    def shaded(self, color: Tensor, amount: Tensor) -> Tensor:
        """Return a colour brightened or darkened by noise centred on one half."""
        return color * (1 + 2 * (amount - 0.5))[:, None]


def _mix(a: Tensor, b: Tensor, amount: Tensor) -> Tensor:
    return a + (b - a) * amount[:, None]


def _step(low: float, high: float, x: Tensor) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3 - 2 * t)


def _random(i: Tensor, j: Tensor, seed: Tensor) -> Tensor:
    """Return a number in 0..1 for each cell (i, j)."""
    value = torch.sin(i * 12.9898 + j * 78.233 + seed * 3.7) * 437.585
    return value - torch.floor(value)


def _plain(p: _Patch) -> Tensor:
    noise = p.noise(p.u * 2, p.v * 2) - 0.5
    return p.shaded(p.a, 0.5 + 0.5 * p.contrast * noise * 2)


def _plaster(p: _Patch) -> Tensor:
    broad = p.noise(p.u / p.scale * 0.5, p.v / p.scale * 0.5) - 0.5
    # Roughness at the size of a few pixels: stereo needs something to hold on to.
    rough = p.noise(p.u * 5, p.v * 5) - 0.5
    return p.shaded(p.a, 0.5 + p.contrast * (0.6 * broad + rough))


def _brushed(p: _Patch) -> Tensor:
    noise = p.noise(p.u * 0.7, p.v * 9) - 0.5
    return p.shaded(p.a, 0.5 + 0.25 * noise)


def _mottle(p: _Patch) -> Tensor:
    size = p.scale
    fine = p.noise(p.u / size, p.v / size)
    broad = p.noise(p.u * 0.7, p.v * 0.7)
    fine = 0.5 + (fine - 0.5) * p.fade(size)
    return _mix(p.a, p.b, (p.contrast * (1.4 * fine + 0.6 * broad - 0.5)).clamp(0, 1))


def _wood(p: _Patch) -> Tensor:
    size = p.scale
    warp = p.noise(p.u * 0.8 + p.seed, p.v * 2.5)
    rings = torch.sin((p.v / size + 3.5 * warp) * 2 * math.pi) * 0.5 + 0.5
    fibre = p.noise(p.u * 1.2, p.v / size * 3)
    amount = p.contrast * (0.55 * rings * p.fade(size) + 0.9 * (fibre - 0.25))
    return _mix(p.a, p.a * 0.45, amount.clamp(0, 1))


def _planks(p: _Patch) -> Tensor:
    row = torch.floor(p.v / p.scale)
    length = 7 * p.scale
    along = p.u / length + _random(row, row * 0, p.seed)
    column = torch.floor(along)
    tint = _random(row, column, p.seed)
    fibre = p.noise(p.u * 1.5 + 5 * tint, p.v * 22 + 9 * tint)
    color = p.shaded(
        p.a, 0.5 + p.contrast * (0.55 * (tint - 0.5) + 0.5 * (fibre - 0.5))
    )
    across = (p.v / p.scale - row - 0.5).abs() * p.scale
    ends = (along - column - 0.5).abs() * length
    gap = ((p.scale / 2 - across) < 0.003) | ((length / 2 - ends) < 0.003)
    return _mix(color, color * 0.4, gap * p.fade(torch.full_like(p.u, 0.012)))


def _tiles(p: _Patch) -> Tensor:
    i, j = torch.floor(p.u / p.scale), torch.floor(p.v / p.scale)
    tint = _random(i, j, p.seed)
    vein = p.noise(p.u * 3 + 7 * tint, p.v * 3)
    color = p.shaded(p.a, 0.5 + p.contrast * (0.6 * (tint - 0.5) + 0.7 * (vein - 0.5)))
    x = 0.5 - (p.u / p.scale - i - 0.5).abs()
    y = 0.5 - (p.v / p.scale - j - 0.5).abs()
    grout = torch.minimum(x, y) * p.scale < 0.004
    return _mix(color, p.b, grout * p.fade(torch.full_like(p.u, 0.012)))


def _stripes(p: _Patch) -> Tensor:
    x = p.raw_u / p.scale + p.seed
    phase = x - torch.floor(x)
    band = _step(0.42, 0.48, phase) * _step(1.0, 0.94, phase)
    line = _step(0.18, 0.2, phase) * _step(0.27, 0.25, phase)
    weave = p.noise(p.u * 6, p.v * 6)
    color = _mix(p.a, p.b, (band + 0.6 * line) * p.contrast.clamp(max=1.0))
    return p.shaded(color, 0.5 + 0.2 * (weave - 0.5))


def _checker(p: _Patch) -> Tensor:
    cell = torch.floor(p.u / p.scale) + torch.floor(p.v / p.scale)
    odd = torch.remainder(cell, 2.0)
    weave = p.noise(p.u * 6, p.v * 6)
    color = _mix(p.a, p.b, odd * p.contrast.clamp(max=1.0))
    return p.shaded(color, 0.5 + 0.15 * (weave - 0.5))


def _weave(p: _Patch) -> Tensor:
    turns = 2 * math.pi / p.scale
    threads = torch.sin(p.u * turns) * torch.sin(p.v * turns) * p.fade(p.scale / 2)
    cloth = p.noise(p.u * 1.5, p.v * 1.5) - 0.5
    fine = p.noise(p.u * 12, p.v * 12) - 0.5
    return p.shaded(p.a, 0.5 + p.contrast * (0.25 * threads + 0.7 * cloth + 0.4 * fine))


def _patches(p: _Patch) -> Tensor:
    x, y = p.u / p.scale, p.v / p.scale
    shape = p.noise(x * 0.6, y * 0.6)
    color = _mix(p.a, p.b, _step(0.5, 0.54, shape))
    spots = p.noise(x * 1.1 + 3.3, y * 1.1 + 1.7)
    color = _mix(color, p.c, _step(0.63, 0.67, spots))
    return p.shaded(color, 0.5 + 0.12 * (p.noise(p.u * 9, p.v * 9) - 0.5))


def _dots(p: _Patch) -> Tensor:
    row = torch.floor(p.v / p.scale)
    x = p.u / p.scale + 0.5 * torch.remainder(row, 2.0)
    x, y = x - torch.floor(x) - 0.5, p.v / p.scale - row - 0.5
    inside = _step(0.34, 0.28, torch.hypot(x, y))
    return _mix(p.a, p.b, inside * p.contrast.clamp(max=1.0))


def _speckle(p: _Patch) -> Tensor:
    grain = p.noise(p.u / p.scale * 0.5, p.v / p.scale * 0.5)
    other = p.noise(p.u / p.scale * 0.37 + 5, p.v / p.scale * 0.37 + 2)
    left = p.fade(2 * p.scale)
    color = _mix(p.a, p.b, _step(0.56, 0.62, grain) * left)
    return _mix(color, p.c, _step(0.6, 0.66, other) * left)


def _spines(p: _Patch) -> Tensor:
    x = p.raw_u / p.scale
    x = x + 0.35 * torch.sin(2.1 * x + p.seed)
    book = torch.floor(x)
    pick = _random(book, book * 0, p.seed)
    color = _mix(p.a, p.b, (pick > 0.4).float())
    color = _mix(color, p.c, (pick > 0.75).float())
    color = p.shaded(color, 0.5 + 0.5 * (_random(book, book * 0 + 3, p.seed) - 0.5))
    edge = (x - book - 0.5).abs() > 0.44
    band = (torch.remainder(p.raw_v * 9 + 3 * pick, 2.0) - 1).abs() < 0.15
    color = _mix(color, 0.5 * color + 0.4, (band & ~edge).float())
    return _mix(color, color * 0.3, edge.float() * p.fade(p.scale))


def _poster(p: _Patch) -> Tensor:
    """Paint hills under a sky with a disc, or blocks of colour, by the seed."""
    u, v = p.raw_u, p.raw_v
    hill = 0.55 + 0.5 * (p.noise(u * 0.5 + p.seed, p.seed) - 0.5)
    sky = _mix(p.a, p.a * 0.5 + 0.4, v)
    land = p.shaded(p.b, 0.5 + 0.6 * (p.noise(u * 2 + p.seed, v * 3) - 0.5))
    scenery = _mix(sky, land, _step(-0.01, 0.01, v - hill))
    centre = 0.25 + 0.5 * _random(p.seed, p.seed, p.seed)
    disc = _step(0.14, 0.12, torch.hypot(u - centre, v - 0.3))
    scenery = _mix(scenery, p.c, disc)
    i, j = torch.floor(u * 3), torch.floor(v * 4)
    pick = _random(i, j, p.seed)
    blocks = _mix(p.a, p.b, (pick > 0.4).float())
    blocks = _mix(blocks, p.c, (pick > 0.75).float())
    picture = _mix(scenery, blocks, (torch.remainder(p.seed, 3.0) < 1).float())
    margin = torch.minimum(torch.minimum(u, 1 - u), torch.minimum(v, 1 - v))
    passepartout = torch.remainder(p.seed, 2.0) < 1
    white = (margin < 0.1) & passepartout
    return torch.where(white[:, None], torch.full_like(picture, 0.8), picture)


def _outlook(p: _Patch) -> Tensor:
    u, v = p.raw_u, p.raw_v
    cloud = _step(0.45, 0.7, p.noise(u * 0.7 + p.seed, v * 1.2))
    sky = _mix(p.a * 0.7 + 0.3, torch.ones_like(p.a), cloud)
    roof = 0.6 + 0.35 * (p.noise(u * 0.9 + p.seed, p.seed) - 0.4)
    tree = p.shaded(p.b, 0.5 + 0.8 * (p.noise(u * 4 + p.seed, v * 4) - 0.5))
    return _mix(sky, tree, _step(-0.02, 0.02, v - roof))


def _screen(p: _Patch) -> Tensor:
    u, v = p.raw_u, p.raw_v
    on = torch.remainder(p.seed, 2.0) < 1
    window = (u - 0.45).abs().lt(0.3) & (v - 0.5).abs().lt(0.32)
    lines = window & (torch.remainder(v * 24, 2.0) < 1)
    picture = _mix(p.b, p.b * 0 + 0.75, window.float())
    picture = _mix(picture, p.a, (lines & (u < 0.6)).float() * 0.7)
    return torch.where(on[:, None], picture, p.a * (1.2 - 0.4 * v)[:, None])


def _glow(p: _Patch) -> Tensor:
    return p.a.expand(len(p.u), 3)


PATTERNS: dict[str, Callable[[_Patch], Tensor]] = {
    "brushed": _brushed,
    "checker": _checker,
    "dots": _dots,
    "glow": _glow,
    "mottle": _mottle,
    "outlook": _outlook,
    "patches": _patches,
    "plain": _plain,
    "planks": _planks,
    "plaster": _plaster,
    "poster": _poster,
    "screen": _screen,
    "speckle": _speckle,
    "spines": _spines,
    "stripes": _stripes,
    "tiles": _tiles,
    "weave": _weave,
    "wood": _wood,
}


def _noise_image() -> Float[Tensor, " texels"]:
    """Return tiling fractal noise with an eighth of its grid as the coarsest cell."""
    rng = np.random.default_rng(NOISE_SEED)
    total = np.zeros((NOISE_TEXELS, NOISE_TEXELS))
    for octave, weight in enumerate((1.0, 0.6, 0.35, 0.2)):
        cells = NOISE_TEXELS // (8 >> octave)
        total += weight * _smooth_cells(rng.random((cells, cells)))
    low, high = np.percentile(total, [1, 99])
    noise = np.clip((total - low) / (high - low), 0, 1)
    return torch.from_numpy(noise.astype(np.float32).ravel())


def _smooth_cells(cells: np.ndarray) -> np.ndarray:
    """Return a periodic grid enlarged to the texture's size, eased between cells."""
    position = np.arange(NOISE_TEXELS) * len(cells) / NOISE_TEXELS
    start = np.floor(position).astype(int)
    t = position - start
    t = t * t * (3 - 2 * t)
    after = (start + 1) % len(cells)
    rows = cells[start] * (1 - t[:, None]) + cells[after] * t[:, None]
    return rows[:, start] * (1 - t) + rows[:, after] * t
