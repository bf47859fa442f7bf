"""Lenses of real cameras, and the one pinhole camera that all pictures are brought to.

Distortion is OpenCV's: polynomials of the squared radius (or, for a fisheye, of the
angle to the optical axis) and two tangential terms.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gnesf_core.geometry import camera
from gnesf_core.shapes import Float64

_FITS_PX = 0.25  # pictures of a lens that displaces no pixel further stay untouched
_GRID = 17  # points along each side of a picture at which lenses are compared
_MOST_ZOOM = 2.0
_WIDEST = 10.0  # tangent of the angle, 84 degrees, up to which lenses are looked at


@dataclass(frozen=True)
class Lens:
    """How one camera maps directions to the pixels of its pictures."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    radial: tuple[float, ...] = ()  # factors of r^2, r^4, ...
    tangential: tuple[float, float] = (0.0, 0.0)
    is_fisheye: bool = False

    @property
    def is_pinhole(self) -> bool:
        """Tell whether straight lines stay straight."""
        return not (self.is_fisheye or any(self.radial) or any(self.tangential))

    @property
    def intrinsics(self) -> Float64[np.ndarray, "3 3"]:
        """Return the matrix, without the distortion."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    def resized(self, width: int, height: int) -> "Lens":
        """Return the lens of the same pictures at another size."""
        sizes = (self.width, self.height), (width, height)
        matrix = camera.scale_intrinsics(self.intrinsics, *sizes)
        (fx, _, cx), (_, fy, cy), _ = matrix.tolist()
        return replace(self, width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy)

    def pixels(self, xy: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
        """Return where directions (x, y, 1) are seen; inf beyond the lens's reach."""
        squared = (xy**2).sum(1)
        bent = xy * (self._bent(np.sqrt(squared)))[:, None]
        p1, p2 = self.tangential
        product = xy[:, 0] * xy[:, 1]
        bent[:, 0] += 2 * p1 * product + p2 * (squared + 2 * xy[:, 0] ** 2)
        bent[:, 1] += p1 * (squared + 2 * xy[:, 1] ** 2) + 2 * p2 * product
        bent[squared > self._reach**2] = np.inf
        return bent * [self.fx, self.fy] + [self.cx, self.cy]

    def _bent(self, radius: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Return the factor by which a direction's radius changes."""
        argument = np.arctan(radius) if self.is_fisheye else radius
        factor = np.ones_like(argument)
        for order, coefficient in enumerate(self.radial, start=1):
            factor += coefficient * argument ** (2 * order)
        if self.is_fisheye:
            factor *= np.divide(
                argument, radius, out=np.ones_like(radius), where=radius > 0
            )
        return factor

    @cached_property
    def _reach(self) -> float:
        """Return the radius beyond which the polynomial folds the picture back."""
        radius = np.linspace(0, _WIDEST, 4001)
        grows = np.diff(radius * self._bent(radius)) > 0
        return _WIDEST if grows.all() else float(radius[grows.argmin()])


def rays_of(lens: Lens, uv: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Return the directions (x, y, 1) of pixels of a pinhole camera."""
    return (uv - [lens.cx, lens.cy]) / [lens.fx, lens.fy]


def fits(lens: Lens, pinhole: Lens) -> bool:
    """Tell whether pictures of a lens can pass for pictures of a pinhole camera."""
    if (lens.width, lens.height) != (pinhole.width, pinhole.height):
        return False
    uv = _grid(pinhole)
    return bool(np.abs(lens.pixels(rays_of(pinhole, uv)) - uv).max() <= _FITS_PX)


def covered(lens: Lens, pinhole: Lens) -> float:
    """Return the share of the pinhole camera's picture that a lens sees too."""
    uv = lens.pixels(rays_of(pinhole, _grid(pinhole)))
    return float(camera.in_image(uv, lens.width, lens.height).mean())


def common_pinhole(lenses: Sequence[Lens]) -> Lens:
    """Return the pinhole camera that all pictures of a scan are brought to.

    It is the one that most pictures were taken with, if there is such a one. Otherwise
    it has the commonest size and the median intrinsics, with the view narrowed until
    the pictures of that size fill it.
    """
    lens, count = Counter(lenses).most_common(1)[0]
    if lens.is_pinhole and 2 * count > len(lenses):
        return lens
    sizes = Counter((lens.width, lens.height) for lens in lenses)
    width, height = sizes.most_common(1)[0][0]
    group = [lens for lens in lenses if (lens.width, lens.height) == (width, height)]
    values = [(lens.fx, lens.fy, lens.cx, lens.cy) for lens in group]
    wide = Lens(width, height, *np.median(values, axis=0).tolist())
    distinct = set(group)
    if all(fits(lens, wide) for lens in distinct) or _filled(distinct, wide):
        return wide
    low, high = 1.0, _MOST_ZOOM
    while high - low > 1e-3:
        middle = (low + high) / 2
        filled = _filled(distinct, _zoomed(wide, middle))
        low, high = (low, middle) if filled else (middle, high)
    return _zoomed(wide, high)


def _zoomed(lens: Lens, factor: float) -> Lens:
    return replace(lens, fx=lens.fx * factor, fy=lens.fy * factor)


def _filled(lenses: set[Lens], pinhole: Lens) -> bool:
    """Tell whether every lens sees all that the pinhole camera sees."""
    return all(covered(lens, pinhole) == 1 for lens in lenses)


def _grid(lens: Lens) -> Float64[np.ndarray, "n 2"]:
    """Return pixels all over a picture, its outermost included."""
    u = np.linspace(0, lens.width - 1, _GRID)
    v = np.linspace(0, lens.height - 1, _GRID)
    return np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)
