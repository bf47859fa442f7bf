"""Find the first triangle that each ray of one origin meets.

Two engines find triangles: Open3D's (Embree) where it is installed, and plain torch,
on any device. The distance is then computed from the triangle's plane in double
precision by code that both share, so that their answers agree but for rays that pass
exactly through an edge.

The torch engine uses that all rays start at one point. With a triangle's vertices a, b,
c relative to that point, the ray d hits it in front if d.(b x c), d.(c x a) and
d.(a x b) are all positive once the triangle is turned to face the origin, and the three
sum to d.N, the rate at which the ray nears the triangle's plane.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gnesf_core.shapes import Bool, Float, Float64, Int, Int64, Shaped

TILE = 8  # rays per side of a tile of an image
GROUP = 64  # tiles that are culled together
BUDGET_BYTES = 64 * 2**20
EDGE_ON = 1e-9  # height over size below which a triangle is seen from its edge
CULL_MARGIN = 1e-5  # single precision cannot be trusted closer than this


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
        engine = "open3d" if torch.device(device).type == "cpu" else "torch"
        engine = engine if engine == "torch" or _open3d_works() else "torch"
    if engine not in ("open3d", "torch"):
        raise ValueError(f"unknown engine {engine!r}: auto, open3d or torch")
    if engine == "open3d":
        return _Open3DCaster(vertices, triangles)
    return _TorchCaster(vertices, triangles, torch.device(device))


def _open3d_works() -> bool:
    try:
        import open3d  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


class _PlaneCaster:
    """Shared half of both engines: shapes in and out, and t from the planes."""

    def __init__(
        self,
        vertices: Float[np.ndarray, "n 3"],
        triangles: Int[np.ndarray, "m 3"],
        device: torch.device,
    ) -> None:
        corners = np.asarray(vertices, np.float64).reshape(-1, 3)
        corners = corners[np.asarray(triangles, np.int64).reshape(-1, 3)]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self.device = device
        self._corners = torch.from_numpy(corners).to(device)
        self._normal = torch.from_numpy(normal).to(device)

    def cast(
        self, origin: np.ndarray | Tensor, directions: np.ndarray | Tensor
    ) -> tuple[np.ndarray, np.ndarray] | tuple[Tensor, Tensor]:
        """Return triangle and t of every ray; see `Caster.cast`."""
        rays = torch.as_tensor(directions, device=self.device)
        start = torch.as_tensor(origin, device=self.device, dtype=torch.float64)
        if len(self._corners) == 0 or rays.numel() == 0:
            triangle = torch.full(rays.shape[:-1], -1, device=self.device)
        else:
            triangle = self._find(start, rays)
        triangle, t = self._plane_t(start, rays, triangle)
        if isinstance(directions, Tensor):
            return triangle, t
        return triangle.cpu().numpy(), t.cpu().numpy()

    def _find(
        self, origin: Float64[Tensor, " 3"], rays: Float[Tensor, "*rays 3"]
    ) -> Int64[Tensor, "*rays"]:
        raise NotImplementedError

    def _plane_t(
        self,
        origin: Float64[Tensor, " 3"],
        rays: Float[Tensor, "*rays 3"],
        triangle: Int64[Tensor, "*rays"],
    ) -> tuple[Int64[Tensor, "*rays"], Float64[Tensor, "*rays"]]:
        if len(self._corners) == 0:
            return triangle, torch.full_like(triangle, torch.inf, dtype=torch.float64)
        height = ((self._corners[:, 0] - origin) * self._normal).sum(-1)
        safe = triangle.clamp(min=0).reshape(-1)
        normal = self._normal.index_select(0, safe)
        rate = torch.einsum("nc,nc->n", normal, rays.reshape(-1, 3).to(normal))
        t = (height.index_select(0, safe) / rate).reshape(triangle.shape)
        hit = (triangle >= 0) & torch.isfinite(t) & (t > 0)
        return torch.where(hit, triangle, -1), torch.where(hit, t, torch.inf)


class _Open3DCaster(_PlaneCaster):
    """Embree's bounding volume hierarchy, on the CPU."""

    def __init__(
        self, vertices: Float[np.ndarray, "n 3"], triangles: Int[np.ndarray, "m 3"]
    ) -> None:
        import open3d

        super().__init__(vertices, triangles, torch.device("cpu"))
        self._as_tensor = open3d.core.Tensor
        # Embree stores single precision: centred, a mesh far from zero loses nothing.
        flat = self._corners.reshape(-1, 3)
        self._centre = flat.mean(0) if len(flat) else flat.new_zeros(3)
        self._scene = open3d.t.geometry.RaycastingScene()
        centred = (flat - self._centre).to(torch.float32).numpy()
        faces = np.arange(len(flat), dtype=np.uint32).reshape(-1, 3)
        self._scene.add_triangles(self._as_tensor(centred), self._as_tensor(faces))

    def _find(
        self, origin: Float64[Tensor, " 3"], rays: Float[Tensor, "*rays 3"]
    ) -> Int64[Tensor, "*rays"]:
        bundle = torch.empty((*rays.shape[:-1], 6), dtype=torch.float32)
        bundle[..., :3] = (origin - self._centre).to(torch.float32)
        bundle[..., 3:] = rays
        answer = self._scene.cast_rays(
            self._as_tensor(bundle.numpy()), nthreads=torch.get_num_threads()
        )
        found = answer["primitive_ids"].numpy().astype(np.int64)
        found[found == self._scene.INVALID_ID] = -1
        return torch.from_numpy(found)


class _TorchCaster(_PlaneCaster):
    """Edge functions of all candidate triangles of a tile of neighbouring rays."""

    def _find(
        self, origin: Float64[Tensor, " 3"], rays: Float[Tensor, "*rays 3"]
    ) -> Int64[Tensor, "*rays"]:
        edges, inverse_height, kept = self._edge_planes(origin)
        tiles, order = _tiles(rays)
        found = torch.full(tiles.shape[:2], -1, device=self.device)
        if len(kept):
            for members, candidates in _cull(tiles, edges):
                best = _nearest(tiles[members], edges, inverse_height, candidates)
                found[members] = torch.where(best >= 0, kept[best.clamp(min=0)], -1)
        flat = torch.empty(order.shape[0], dtype=torch.int64, device=self.device)
        flat[order] = found.reshape(-1)
        return flat[: rays[..., 0].numel()].reshape(rays.shape[:-1])

    def _edge_planes(
        self, origin: Float64[Tensor, " 3"]
    ) -> tuple[
        Float[Tensor, "m edges=3 xyz=3"], Float[Tensor, " m"], Int64[Tensor, " m"]
    ]:
        """Return edge planes turned inwards, 1/(distance * |N|), and triangle ids."""
        relative = self._corners - origin
        height = (relative[:, 0] * self._normal).sum(-1)
        # In a triangle's own plane the height is rounding noise, its inverse is huge,
        # and rays along the plane would be lost to it.
        size = self._normal.norm(dim=-1) * relative.norm(dim=-1).amax(1)
        kept = torch.nonzero(height.abs() > EDGE_ON * size).flatten()
        relative, height = relative[kept], height[kept]
        # Neighbours share an edge's end points, so that their planes are exact
        # opposites and no ray slips between them.
        edges = torch.linalg.cross(relative.roll(-1, 1), relative.roll(-2, 1))
        edges = (edges * height.sign()[:, None, None]).to(torch.float32)
        return edges, height.abs().reciprocal().to(torch.float32), kept


def _tiles(
    rays: Float[Tensor, "*rays 3"],
) -> tuple[Float[Tensor, "tiles rays_per_tile 3"], Int64[Tensor, " padded"]]:
    """Cut rays into blocks of neighbours: squares of an image, else consecutive rays.

    Returns:
        The blocks, and for each of their rays its place among all rays; blocks are
        filled up with repeated rays, whose places are past the end.
    """
    flat = rays.reshape(-1, 3).to(torch.float32)
    count = flat.shape[0]
    height, width = rays.shape[:2] if rays.ndim == 3 else (1, count)
    tall, wide = (TILE, TILE) if rays.ndim == 3 else (1, TILE**2)
    v = torch.arange(-(-height // tall) * tall, device=rays.device)
    u = torch.arange(-(-width // wide) * wide, device=rays.device)
    index = v.clamp(max=height - 1)[:, None] * width + u.clamp(max=width - 1)
    repeated = (v >= height)[:, None] | (u >= width)
    place = index.clone()
    place[repeated] = count + torch.arange(int(repeated.sum()), device=rays.device)
    index, place = (
        grid.reshape(len(v) // tall, tall, len(u) // wide, wide)
        .transpose(1, 2)
        .reshape(-1, TILE**2)
        for grid in (index, place)
    )
    return flat[index], place.reshape(-1)


def _cull(
    tiles: Float[Tensor, "tiles rays_per_tile 3"],
    edges: Float[Tensor, "m edges=3 xyz=3"],
) -> Iterator[tuple[Int64[Tensor, " t"], Int64[Tensor, "t k"]]]:
    """Yield groups of tiles with the triangles that their rays may meet.

    A tile's rays lie in a cone. A triangle is left out only if the whole cone is on
    the outer side of one of its edge planes. Rows are filled up with -1.
    """
    unit = torch.nn.functional.normalize(tiles, dim=-1)
    planes = torch.nn.functional.normalize(edges, dim=-1)
    for start in range(0, len(tiles), GROUP):
        members = torch.arange(
            start, min(start + GROUP, len(tiles)), device=tiles.device
        )
        whole = _inside(unit[members].reshape(1, -1, 3), planes)
        near = torch.nonzero(whole[0]).flatten()
        if len(near) == 0:
            continue
        inside = _inside(unit[members], planes[near])
        most = int(inside.sum(1).max())
        if most == 0:
            continue
        ranked, column = inside.to(torch.uint8).sort(dim=1, descending=True)
        yield members, torch.where(ranked[:, :most] > 0, near[column[:, :most]], -1)


def _inside(
    unit: Float[Tensor, "tiles rays 3"], planes: Float[Tensor, "m edges=3 xyz=3"]
) -> Bool[Tensor, "tiles m"]:
    """Return where a tile's cone is not beyond any one edge plane of a triangle."""
    axis = torch.nn.functional.normalize(unit.mean(1), dim=-1)
    cosine = (unit * axis[:, None]).sum(-1).amin(1)
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    limit = -torch.where(cosine > 0, sine, 1.0)[:, None] - CULL_MARGIN
    inside = axis @ planes[:, 0].T >= limit
    inside &= axis @ planes[:, 1].T >= limit
    return inside.logical_and_(axis @ planes[:, 2].T >= limit)


def _nearest(
    rays: Float[Tensor, "t r 3"],
    edges: Float[Tensor, "m edges=3 xyz=3"],
    inverse_height: Float[Tensor, " m"],
    candidates: Int64[Tensor, "t k"],
) -> Int64[Tensor, "t r"]:
    """Return each ray's nearest triangle among its tile's candidates, or -1."""
    best = torch.zeros(rays.shape[:2], device=rays.device)
    found = torch.full(rays.shape[:2], -1, device=rays.device)
    step = max(1, BUDGET_BYTES // (rays[..., 0].numel() * 4 * 6))
    for start in range(0, candidates.shape[1], step):
        some = candidates[:, start : start + step]
        planes = edges[some.clamp(min=0)]
        a, b, c = (rays @ planes[:, :, i].transpose(1, 2) for i in range(3))
        inside = torch.minimum(torch.minimum(a, b), c) >= 0
        inside &= (some >= 0)[:, None]
        nearness = a.add_(b).add_(c).mul_(inverse_height[some.clamp(min=0)][:, None])
        top, which = torch.where(inside, nearness, 0.0).max(-1)
        nearer = top > best
        best = torch.where(nearer, top, best)
        found = torch.where(nearer, some.gather(1, which), found)
    return found
