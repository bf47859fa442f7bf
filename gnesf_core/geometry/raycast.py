"""Find the first triangle that each ray of one origin meets.

Two engines find triangles: Open3D's (Embree) where it is installed, and plain torch
(`raycast_torch`), on any device. The distance is then computed from the triangle's
plane in double precision by code that both share, so that their answers agree but for
rays that pass exactly through an edge.
"""

import sys
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np

from gnesf_core.ops.threads import thread_count
from gnesf_core.shapes import (
    AnyTensor,
    Float,
    Float64,
    Int,
    Int64,
    Shaped,
    array_library,
)


@runtime_checkable
class Caster(Protocol):
    """Casts rays into a fixed triangle mesh; triangles are hit from both sides."""

    def cast(
        self, origin: Float[np.ndarray, " 3"], directions: Shaped[np.ndarray, "*rays 3"]
    ) -> tuple[Int64[np.ndarray, "*rays"], Float64[np.ndarray, "*rays"]]:
        """Return the triangle (-1 = none) and t with hit = origin + t * direction.

        Directions need not be normalised: for camera rays with z = 1, t is z-depth.
        Tensors are answered with tensors on the caster's device.
        """
        ...


def make_caster(
    vertices: Float[np.ndarray, "n 3"],
    triangles: Int[np.ndarray, "m 3"],
    engine: str = "auto",
    device: str = "cpu",
) -> Caster:
    """Prepare a mesh for casting.

    Args:
        vertices: positions in metres.
        triangles: vertex indices.
        engine: open3d, torch, or auto: Open3D on a CPU where it can be imported.
        device: where the torch engine computes.

    Returns:
        A caster whose answers do not depend on the engine.
    """
    if engine == "auto":
        engine = "open3d" if device == "cpu" and _open3d_works() else "torch"
    if engine == "open3d":
        return _Open3DCaster(vertices, triangles)
    if engine == "torch":
        from gnesf_core.geometry.raycast_torch import TorchCaster

        return TorchCaster(vertices, triangles, device)
    raise ValueError(f"unknown engine {engine!r}: auto, open3d or torch")


def _open3d_works() -> bool:
    try:
        _import_open3d()
    except (ImportError, OSError):
        return False
    return True


def _import_open3d() -> ModuleType:
    """Import Open3D without the web server and charts that it draws some pages with.

    They take longer than all the rest of it.
    """
    if "open3d" not in sys.modules:
        pages = ModuleType("open3d.visualization.draw_plotly")
        pages.get_plotly_fig = pages.draw_plotly = pages.draw_plotly_server = None
        sys.modules[pages.__name__] = pages
    import open3d

    return open3d


def corners_and_normals(
    vertices: Float[np.ndarray, "n 3"], triangles: Int[np.ndarray, "m 3"]
) -> tuple[Float64[np.ndarray, "m 3 3"], Float64[np.ndarray, "m 3"]]:
    """Return each triangle's corners, and a normal as long as twice its area."""
    corners = np.asarray(vertices, np.float64).reshape(-1, 3)
    corners = corners[np.asarray(triangles, np.int64).reshape(-1, 3)]
    edges = corners[:, 1:] - corners[:, :1]
    return corners, np.cross(edges[:, 0], edges[:, 1])


def plane_hits(
    corners: Shaped[np.ndarray, "m 3 3"] | Shaped[AnyTensor, "m 3 3"],
    normals: Shaped[np.ndarray, "m 3"] | Shaped[AnyTensor, "m 3"],
    origin: Shaped[np.ndarray, " 3"] | Shaped[AnyTensor, " 3"],
    rays: Shaped[np.ndarray, "*rays 3"] | Shaped[AnyTensor, "*rays 3"],
    triangle: Shaped[np.ndarray, "*rays"] | Shaped[AnyTensor, "*rays"],
) -> (
    tuple[Int64[np.ndarray, "*rays"], Float64[np.ndarray, "*rays"]]
    | tuple[Int64[AnyTensor, "*rays"], Float64[AnyTensor, "*rays"]]
):
    """Return where rays meet the planes of their triangles: triangle and t, or none."""
    library = array_library(rays)
    if len(corners) == 0:
        return triangle, library.full_like(triangle, library.inf, dtype=library.float64)
    height = _dot(corners[:, 0] - origin, normals)
    safe = (triangle * (triangle >= 0)).reshape(-1)
    rate = _dot(normals[safe], rays.reshape(-1, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (height[safe] / rate).reshape(triangle.shape)
    hit = (triangle >= 0) & library.isfinite(t) & (t > 0)
    return library.where(hit, triangle, -1), library.where(hit, t, library.inf)


def _dot(
    one: Shaped[np.ndarray, "n 3"] | Shaped[AnyTensor, "n 3"],
    other: Shaped[np.ndarray, "n 3"] | Shaped[AnyTensor, "n 3"],
) -> Shaped[np.ndarray, " n"] | Shaped[AnyTensor, " n"]:
    """Return scalar products; a sum over so short an axis would take twice as long."""
    product = one * other
    return product[:, 0] + product[:, 1] + product[:, 2]


class _Open3DCaster:
    """Embree's bounding volume hierarchy, on the CPU."""

    def __init__(
        self, vertices: Float[np.ndarray, "n 3"], triangles: Int[np.ndarray, "m 3"]
    ) -> None:
        open3d = _import_open3d()
        self._corners, self._normals = corners_and_normals(vertices, triangles)
        self._as_tensor = open3d.core.Tensor
        # Embree stores single precision: centred, a mesh far from zero loses nothing.
        flat = self._corners.reshape(-1, 3)
        self._centre = flat.mean(0) if len(flat) else np.zeros(3)
        self._scene = open3d.t.geometry.RaycastingScene()
        centred = (flat - self._centre).astype(np.float32)
        faces = np.arange(len(flat), dtype=np.uint32).reshape(-1, 3)
        self._scene.add_triangles(self._as_tensor(centred), self._as_tensor(faces))

    def cast(
        self, origin: np.ndarray | AnyTensor, directions: np.ndarray | AnyTensor
    ) -> tuple[np.ndarray, np.ndarray] | tuple[AnyTensor, AnyTensor]:
        """Return triangle and t of every ray; see `Caster.cast`."""
        if isinstance(directions, AnyTensor):
            import torch

            triangle, t = self.cast(np.asarray(origin), directions.numpy())
            return torch.from_numpy(triangle), torch.from_numpy(t)
        origin, rays = np.asarray(origin, np.float64), np.asarray(directions)
        triangle = np.full(rays.shape[:-1], -1)
        if len(self._corners) and rays.size:
            triangle = self._find(origin, rays)
        return plane_hits(self._corners, self._normals, origin, rays, triangle)

    def _find(
        self, origin: Float64[np.ndarray, " 3"], rays: Shaped[np.ndarray, "*rays 3"]
    ) -> Int64[np.ndarray, "*rays"]:
        bundle = np.empty((*rays.shape[:-1], 6), np.float32)
        bundle[..., :3] = origin - self._centre
        bundle[..., 3:] = rays
        answer = self._scene.cast_rays(self._as_tensor(bundle), nthreads=thread_count())
        found = answer["primitive_ids"].numpy().astype(np.int64)
        found[found == self._scene.INVALID_ID] = -1
        return found
