"""What things are made of: palettes and patterns that a class usually has.

An object keeps its own look with probability `KEEPS_LOOK` and otherwise borrows that
of another one, so that colour is a good hint and never a proof.
"""

from dataclasses import dataclass

import numpy as np

KEEPS_LOOK = 0.85

Colors = tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """A pattern with the colours it may have."""

    pattern: str
    base: Colors  # six hexadecimal digits each
    accent: Colors = ()  # empty: the base, darkened
    scale_m: tuple[float, float] = (0.1, 0.2)
    contrast: float = 0.3
    gloss: float = 0.0
    turned: bool = False  # u and v swapped at random


@dataclass(frozen=True)
class Material:
    """A look with its choices made."""

    pattern: str
    colors: tuple[tuple[float, float, float], ...]  # three, linear, 0..1
    scale_m: float
    contrast: float
    gloss: float
    turned: bool
    offset: tuple[float, float]
    seed: float


WOOD_WARM = ("a8692f", "b5763c", "9c5a2b", "c08447")
WOOD_PALE = ("dcc39a", "d8bd92", "e3cfaa", "cdb48a")
WOOD_DARK = ("4a2f1f", "5a3a28", "3d2a20", "63412a")
WHITES = ("eeeeea", "e8e6df", "f4f4f2", "e2e5e6")
BOOKS = ("8c2f2f", "2f4f8c", "3f6f3f", "c9a227", "6b3f7a", "b5562a", "2b2b33")

LOOKS: dict[str, Look] = {
    "wall": Look(
        "plaster",
        ("e6dfcf", "d9e0e3", "e9e4dc", "cfd9c8", "e8d5b5", "d5cfe0", "c9d6dd"),
        scale_m=(0.5, 1.0),
        contrast=0.11,
    ),
    "wallpaper": Look(
        "stripes",
        ("dfd6c2", "c8d3d9", "d9c8c0", "cbd5c0"),
        ("efe9dc", "b4c2cc", "c7a99d", "b3c0a4"),
        (0.12, 0.3),
        0.5,
    ),
    "wall_tiles": Look(
        "tiles",
        ("dfe8ea", "e9e9e4", "c9dcdf", "d5e2d8"),
        ("a9b3b5", "bdb7ab"),
        (0.15, 0.25),
        0.12,
        0.3,
    ),
    "ceiling": Look("plaster", ("f3f2ee", "ecebe6"), scale_m=(0.6, 1.0), contrast=0.06),
    "baseboard": Look("plain", ("f0efe9", "7a5a3c", "d7d2c6"), contrast=0.1),
    "floor_wood": Look(
        "planks",
        ("a77b4f", "8d6238", "b98d5c", "6f4b2d"),
        scale_m=(0.09, 0.16),
        contrast=0.45,
        gloss=0.15,
        turned=True,
    ),
    "floor_carpet": Look(
        "mottle",
        ("8d8577", "6f7780", "9a8c78", "7c6a5c"),
        ("766f63", "5e656e", "83765f"),
        (0.04, 0.08),
        0.5,
    ),
    "floor_tiles": Look(
        "tiles",
        ("a8a296", "8f9699", "b8ab95", "7d8287"),
        ("6b675f", "55585a"),
        (0.3, 0.5),
        0.2,
        0.25,
    ),
    "cabinet": Look(
        "plain", ("d9d4c4", "e5e1d6", "c3c9c4", "b9c4c9"), contrast=0.12, gloss=0.1
    ),
    "cabinet_front": Look(
        "plain", ("e2ddd0", "ece9e1", "ccd3cf", "c3cfd5"), contrast=0.1, gloss=0.1
    ),
    "wardrobe": Look(
        "wood", ("c9b08a", "d6c6a8", "bfa27a"), scale_m=(0.06, 0.12), contrast=0.3
    ),
    "bed_frame": Look(
        "wood", (*WOOD_WARM, "7b4b2a"), scale_m=(0.05, 0.1), contrast=0.4
    ),
    "sheet": Look("mottle", ("e9e7e2", "dfe3ea"), ("d2d0cc",), (0.2, 0.4), 0.25),
    "blanket": Look(
        "patches",
        ("3f5f9a", "7f3f6f", "4f7fae", "8a4f86", "3c6f8c"),
        ("9db4dc", "d6a9c9", "c9d8ea", "e6d2e4"),
        (0.12, 0.3),
        1.0,
    ),
    "chair_seat": Look(
        "weave",
        ("b03a2e", "c0582b", "a92f3f", "d06a32"),
        scale_m=(0.02, 0.04),
        contrast=0.4,
    ),
    "chair_wood": Look(
        "wood", ("c98a4b", "b97a3e", "d39a5c"), scale_m=(0.03, 0.06), contrast=0.35
    ),
    "office_fabric": Look(
        "weave",
        ("22252b", "2a2f3a", "303036", "1f2d3f"),
        scale_m=(0.015, 0.03),
        contrast=0.35,
    ),
    "sofa": Look(
        "weave",
        ("6f7f4a", "5f7350", "7d8a58", "556b4c", "86875a"),
        scale_m=(0.02, 0.05),
        contrast=0.45,
    ),
    "table": Look(
        "wood", WOOD_WARM, scale_m=(0.05, 0.1), contrast=0.45, gloss=0.2, turned=True
    ),
    "desk": Look(
        "wood", WOOD_PALE, scale_m=(0.06, 0.1), contrast=0.3, gloss=0.15, turned=True
    ),
    "door": Look(
        "wood",
        ("7d5f45", "8b6a4c", "947456", "6d523d"),
        scale_m=(0.05, 0.09),
        contrast=0.3,
    ),
    "door_frame": Look("plain", ("cfc7b8", "a58a6c", "e6e2d8"), contrast=0.1),
    "window_frame": Look("plain", WHITES, contrast=0.06, gloss=0.2),
    "outlook": Look("outlook", ("8fb8de",), ("5f7f4f", "8a8f8a", "6f8f5f")),
    "bookshelf": Look(
        "wood", WOOD_DARK, scale_m=(0.05, 0.1), contrast=0.35, turned=True
    ),
    "books": Look("spines", BOOKS, (*BOOKS, "d8d2c0"), (0.022, 0.04), 0.6),
    "book_cover": Look("plain", (*BOOKS, "d9d4c8"), contrast=0.2, gloss=0.1),
    "poster": Look(
        "poster",
        ("d8a24a", "6fa0b8", "c9785a", "8fae74", "b89ac2"),
        ("2f3f55", "7a2f2a", "f0e6d0", "34503c"),
        (1.0, 1.0),
    ),
    "picture_frame": Look("plain", ("2a2420", "b08a3c", "6b4428"), contrast=0.2),
    "counter": Look(
        "speckle",
        ("5d5a58", "6f6862", "4f5356", "7d7268"),
        ("b8b0a6", "2d2c2c"),
        (0.015, 0.03),
        0.9,
        0.5,
    ),
    "curtain": Look(
        "stripes",
        ("a8506a", "8f5f86", "b5766a", "9a4f58"),
        ("d8a8b0", "c7a6c4", "e0bfa8"),
        (0.06, 0.2),
        0.6,
        turned=False,
    ),
    "curtain_rod": Look("plain", ("3a3633", "b5b5b5"), contrast=0.1, gloss=0.5),
    "refrigerator": Look(
        "brushed", ("c4c8cb", "b3b8bc", "d8dadb"), scale_m=(0.2, 0.3), gloss=0.7
    ),
    "shower_curtain": Look(
        "dots",
        ("dff1f2", "eef3f0", "d6ecf5"),
        ("3fa7b5", "4f8fc9", "58b58f"),
        (0.08, 0.16),
        1.0,
        0.2,
    ),
    "ceramic": Look("plain", ("f2f3f2", "f5f2ea", "eaf0f2"), contrast=0.05, gloss=0.8),
    "tub": Look("plain", ("e9eff0", "efe9dc", "dfe9ee"), contrast=0.05, gloss=0.8),
    "steel": Look("brushed", ("9fa5a8", "b0b4b6"), scale_m=(0.1, 0.2), gloss=0.9),
    "bin": Look(
        "plain", ("4f6f5f", "5f5f8f", "3f7f8f", "77777a"), contrast=0.2, gloss=0.2
    ),
    "ottoman": Look(
        "checker", ("c9a03c", "b98f4a"), ("8a5f2f", "e0c987"), (0.06, 0.12), 0.8
    ),
    "radiator": Look("plain", ("e9e7e0",), contrast=0.05, gloss=0.3),
    "lamp_shade": Look("glow", ("fff0cf", "ffe3b0", "f9efe2"), contrast=0.1),
    "metal": Look("plain", ("55585c", "8c8f92", "35373a"), contrast=0.15, gloss=0.6),
    "black": Look("plain", ("1c1d20", "26262b"), contrast=0.15, gloss=0.4),
    "screen": Look("screen", ("16181d",), ("3f5f9f", "6f8f5f", "20252e"), gloss=0.6),
    "pillow": Look(
        "stripes",
        ("d9cfb8", "c9b0a0", "e6e3dc", "b5c4cf"),
        ("a05f4f", "6f86a0", "cfc6b0", "f2f0ea"),
        (0.05, 0.15),
        0.6,
    ),
    "throw_pillow": Look(
        "dots",
        ("d9b23c", "c9683f", "4f8f9a", "e0d8c6"),
        ("f2e8d0", "7a3f2a", "d8e8e8"),
        (0.05, 0.12),
        0.9,
    ),
    "cardboard": Look("mottle", ("b58a56", "a77d4c"), ("97703f",), (0.1, 0.3), 0.3),
    "towel": Look(
        "stripes",
        ("5fa0a8", "c97f6f", "e6dcc9", "7f8fc0"),
        ("d9ecec", "f2dfd6", "b59f7a"),
        (0.05, 0.12),
        0.6,
    ),
    "bag": Look(
        "weave", ("3f3f5f", "6f3f2f", "2f4f4a"), scale_m=(0.03, 0.05), contrast=0.5
    ),
    "rug": Look(
        "patches",
        ("8f3f3f", "3f5f7f", "b58f5f", "6f5f7f"),
        ("d8c49a", "c9d3da", "5f2f2f"),
        (0.15, 0.35),
        1.0,
    ),
    "leaf": Look(
        "mottle", ("3f7f3f", "4f8f3a", "2f6f3f"), ("24552a",), (0.05, 0.1), 0.8
    ),
    "pot": Look("plain", ("a85f3f", "d8d3c8", "5f6f7a"), contrast=0.2),
    "mirror": Look("brushed", ("b8c6cc", "c6d2d6"), scale_m=(0.5, 0.8), gloss=1.0),
    "board": Look("plain", ("f4f6f6",), contrast=0.04, gloss=0.5),
    "paper": Look("plain", ("f2f0e8", "e8e8ee"), contrast=0.1),
    "cup": Look("plain", ("d84f3f", "3f7fd8", "f0f0f0", "e0b83f"), contrast=0.1),
}

# Whose looks may be swapped: furniture and cloth, not lamps, glass or paper.
_BORROWABLE = (
    "cabinet_front", "wardrobe", "bed_frame", "blanket", "chair_seat", "chair_wood",
    "office_fabric", "sofa", "table", "desk", "door", "bookshelf", "curtain", "bin",
    "ottoman", "rug", "towel", "counter", "pillow", "shower_curtain",
)  # fmt: skip


def choose(role: str, rng: np.random.Generator) -> Material:
    """Return a material for a role, most often of the role's own look."""
    borrowed = rng.random() >= KEEPS_LOOK
    other = _BORROWABLE[rng.integers(len(_BORROWABLE))]
    look = LOOKS[other if borrowed and role in _BORROWABLE else role]
    base = _color(look.base[rng.integers(len(look.base))])
    jitter = rng.uniform(0.88, 1.12) * rng.uniform(0.95, 1.05, 3)
    first = np.clip(base * jitter, 0.005, 0.93)
    accents = [_color(code) for code in look.accent] or [first * 0.62]
    second = accents[rng.integers(len(accents))]
    third = accents[rng.integers(len(accents))]
    return Material(
        pattern=look.pattern,
        colors=tuple(tuple(color.tolist()) for color in (first, second, third)),
        scale_m=float(rng.uniform(*look.scale_m)),
        contrast=float(look.contrast * rng.uniform(0.7, 1.3)),
        gloss=float(look.gloss),
        turned=bool(look.turned and rng.random() < 0.5),
        offset=tuple(rng.uniform(0, 8, 2).tolist()),
        seed=float(rng.uniform(0, 100)),
    )


def _color(code: str) -> np.ndarray:
    """Return an sRGB colour in linear light."""
    srgb = np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    return srgb**2.2
