"""The engine for rays that needs nothing but torch, on any device.

It uses that all rays start at one point. With a triangle's vertices a, b, c relative to
that point, the ray d hits it in front if d.(b x c), d.(c x a) and d.(a x b) are all
positive once the triangle is turned to face the origin, and the three sum to d.N, the
rate at which the ray nears the triangle's plane.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gnesf_core.geometry.raycast import corners_and_normals, plane_hits
from gnesf_core.shapes import Bool, Float, Float64, Int, Int64

TILE = 8  # rays per side of a tile of an image
GROUP = 64  # tiles that are culled together
BUDGET_BYTES = 64 * 2**20
EDGE_ON = 1e-9  # height over size below which a triangle is seen from its edge
CULL_MARGIN = 1e-5  # single precision cannot be trusted closer than this


class TorchCaster:
    """Edge functions of all candidate triangles of a tile of neighbouring rays."""

    def __init__(
        self,
        vertices: Float[np.ndarray, "n 3"],
        triangles: Int[np.ndarray, "m 3"],
        device: str,
    ) -> None:
        corners, normals = corners_and_normals(vertices, triangles)
        self.device = torch.device(device)
        self._corners = torch.from_numpy(corners).to(self.device)
        self._normals = torch.from_numpy(normals).to(self.device)

    def cast(
        self, origin: np.ndarray | Tensor, directions: np.ndarray | Tensor
    ) -> tuple[np.ndarray, np.ndarray] | tuple[Tensor, Tensor]:
        """Return triangle and t of every ray; see `raycast.Caster.cast`."""
        rays = torch.as_tensor(directions, device=self.device)
        start = torch.as_tensor(origin, device=self.device, dtype=torch.float64)
        triangle = torch.full(rays.shape[:-1], -1, device=self.device)
        if len(self._corners) and rays.numel():
            triangle = self._find(start, rays)
        found = plane_hits(self._corners, self._normals, start, rays, triangle)
        if isinstance(directions, Tensor):
            return found
        return found[0].cpu().numpy(), found[1].cpu().numpy()

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
        height = (relative[:, 0] * self._normals).sum(-1)
        # In a triangle's own plane the height is rounding noise, its inverse is huge,
        # and rays along the plane would be lost to it.
        size = self._normals.norm(dim=-1) * relative.norm(dim=-1).amax(1)
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
