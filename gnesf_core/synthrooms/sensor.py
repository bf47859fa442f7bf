"""From clean renderings to what the sensors of a hand-held scanner deliver."""

from dataclasses import dataclass

import numpy as np

from gnesf_core.config import SynthRoomsConfig
from gnesf_core.geometry.camera import scale_intrinsics
from gnesf_core.shapes import Float32, Float64, UInt8, UInt16
from gnesf_core.synthrooms.render import Camera

# Median intrinsics of ScanNet's two cameras, at their full sizes.
COLOR_SIZE, DEPTH_SIZE = (1296, 968), (640, 480)
COLOR_FOCAL, COLOR_CENTRE = 1170.0, (647.0, 484.0)
DEPTH_FOCAL, DEPTH_CENTRE = 577.5, (319.0, 240.5)
TOO_FAR = 65535  # some frames hold a few of these, as ScanNet's do


def draw_cameras(
    config: SynthRoomsConfig, rng: np.random.Generator
) -> tuple[Camera, Camera]:
    """Return the colour and the depth camera of one scene's device."""
    cameras = []
    for full, focal, centre, size in (
        (COLOR_SIZE, COLOR_FOCAL, COLOR_CENTRE, _size(config, "color")),
        (DEPTH_SIZE, DEPTH_FOCAL, DEPTH_CENTRE, _size(config, "depth")),
    ):
        matrix = np.eye(3)
        matrix[0, 0], matrix[1, 1] = focal * rng.uniform(0.99, 1.01, 2)
        matrix[:2, 2] = np.array(centre) + rng.uniform(-6, 6, 2) * full[0] / 1296
        cameras.append(Camera(*size, scale_intrinsics(matrix, full, size)))
    return cameras[0], cameras[1]


def _size(config: SynthRoomsConfig, camera: str) -> tuple[int, int]:
    return getattr(config, f"{camera}_width"), getattr(config, f"{camera}_height")


@dataclass
class ColorSensor:
    """A camera with automatic exposure, a colour cast that wanders, blur and noise."""

    rng: np.random.Generator
    cast: Float64[np.ndarray, " 3"] | None = None

    def expose(
        self, linear: Float32[np.ndarray, "h w 3"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Return the picture that the camera takes of a scene's linear colours."""
        rng = self.rng
        wander = rng.normal(0, 0.035, 3)
        self.cast = wander if self.cast is None else 0.7 * self.cast + 0.7 * wander
        level = float(np.median(linear.mean(-1)))
        gain = (0.23 / max(level, 0.01)) ** 0.8 * np.exp(rng.normal(0, 0.16))
        image = linear * (gain * np.exp(self.cast)).astype(np.float32)
        image = _blurred(image, *self._motion(linear.shape[1]))
        image *= _vignette(*linear.shape[:2])[..., None]
        # A film-like shoulder keeps lamps and windows from clipping hard.
        image = np.where(image > 0.6, 1 - 0.4 * np.exp(-(image - 0.6) / 0.4), image)
        image = np.power(np.maximum(image, 0), 1 / 2.2, dtype=np.float32)
        grain = rng.standard_normal(linear.shape, dtype=np.float32)
        image += grain * np.float32(rng.uniform(0.006, 0.02) * min(gain, 3) ** 0.4)
        return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)

    def _motion(self, width: int) -> tuple[float, float]:
        """Return the image's motion during the exposure, in pixels."""
        length = min(self.rng.exponential(0.0045), 0.02) * width
        angle = self.rng.normal(0, 0.6) + np.pi * self.rng.integers(2)
        return length * np.cos(angle), length * np.sin(angle)


def _blurred(
    image: Float32[np.ndarray, "h w 3"], du: float, dv: float
) -> Float32[np.ndarray, "h w 3"]:
    """Return the mean of the image along a short line."""
    steps = int(np.hypot(du, dv)) + 1
    if steps == 1:
        return image
    height, width = image.shape[:2]
    reach = int(np.ceil(max(abs(du), abs(dv)) / 2)) + 1
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros_like(image)
    for share in np.linspace(-0.5, 0.5, steps):
        u, v = reach + round(share * du), reach + round(share * dv)
        total += padded[v : v + height, u : u + width]
    return total / np.float32(steps)


def _vignette(height: int, width: int) -> Float32[np.ndarray, "h w"]:
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    return 1 - np.float32(0.13) * (x * x + y * y)


@dataclass(frozen=True)
class DepthSensor:
    """A structured-light camera: noise grows with range, and some surfaces fail."""

    rng: np.random.Generator
    range_m: float

    def measure(
        self,
        depth_m: Float64[np.ndarray, "h w"],
        failing: Float32[np.ndarray, "h w"],
    ) -> UInt16[np.ndarray, "h w"]:
        """Return millimetres, 0 where nothing was measured.

        Args:
            depth_m: true depth, infinite where there is nothing.
            failing: how likely the surface at each pixel gives no answer: dark or shiny
                materials, glass, and grazing angles.
        """
        rng, shape = self.rng, depth_m.shape
        seen = np.isfinite(depth_m)
        true = np.where(seen, depth_m, 0.0)
        # Edges are ragged: every pixel measures up to one pixel beside itself.
        rows, columns = np.indices(shape)
        rows = np.clip(rows + np.rint(rng.normal(0, 0.35, shape)), 0, shape[0] - 1)
        columns = np.clip(
            columns + np.rint(rng.normal(0, 0.35, shape)), 0, shape[1] - 1
        )
        shifted = true[rows.astype(int), columns.astype(int)]
        ragged = np.abs(shifted - true) > 0.05 * true
        measured = np.where(ragged, shifted, true)
        sigma = 0.0012 + 0.0019 * np.maximum(measured - 0.4, 0) ** 2
        grain = 0.6 * rng.standard_normal(shape) + 0.8 * _blotches(shape, 3, rng)
        measured = measured + sigma * grain
        blotch = _share(_blotches(shape, 10, rng))
        gone = blotch < np.maximum(failing, 0.015)
        gone |= _edges(true) & (rng.random(shape) < 0.55)
        gone |= ~seen | (measured > self.range_m) | (shifted <= 0)
        millimetres = np.rint(measured * 1000).clip(1, 65534)
        result = np.where(gone, 0, millimetres).astype(np.uint16)
        if rng.random() < 0.25:
            holes = np.flatnonzero(result.ravel() == 0)
            result.ravel()[rng.permutation(holes)[:3]] = TOO_FAR
        return result


def _blotches(
    shape: tuple[int, int], cells: int, rng: np.random.Generator
) -> Float64[np.ndarray, "h w"]:
    """Return smooth noise of unit variance, `cells` pixels coarse at 160x120."""
    step = max(1.0, cells * shape[1] / 160)
    size = [int(np.ceil(n / step)) + 2 for n in shape]
    coarse = rng.standard_normal(size)
    ys, xs = (np.arange(n) / step for n in shape)
    y0, x0 = ys.astype(int), xs.astype(int)
    y, x = (ys - y0)[:, None], xs - x0
    rows = coarse[y0] * (1 - y) + coarse[y0 + 1] * y
    smooth = rows[:, x0] * (1 - x) + rows[:, x0 + 1] * x
    weight = np.sqrt(((1 - y) ** 2 + y**2) * ((1 - x) ** 2 + x**2))
    return smooth / weight


def _share(normal: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    """Return about uniform numbers in 0..1 from standard normal ones."""
    return 1 / (1 + np.exp(-1.702 * normal))


def _edges(depth_m: Float64[np.ndarray, "h w"]) -> np.ndarray:
    """Return pixels beside a jump in depth."""
    edge = np.zeros(depth_m.shape, bool)
    for axis in (0, 1):
        a = depth_m[1:] if axis == 0 else depth_m[:, 1:]
        b = depth_m[:-1] if axis == 0 else depth_m[:, :-1]
        jump = np.abs(a - b) > 0.06 * np.minimum(a, b)
        if axis == 0:
            edge[1:] |= jump
            edge[:-1] |= jump
        else:
            edge[:, 1:] |= jump
            edge[:, :-1] |= jump
    return edge
