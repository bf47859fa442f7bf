"""Depth maps fused into truncated signed distances on a pyramid of voxel grids.

The signed distance is projective: depth of the surface minus depth of the voxel, along
z of the camera, positive in free space. Divided by the truncation and clipped to
[-1, 1] it is averaged over the frames that see the voxel, or see past it.

`integrate` is the readable truth in Torch and runs on any device; `fuse` is what stages
call, and takes the faster twin of `tsdf_numba` on a CPU where numba is installed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from gnesf_core.config import TargetsConfig
from gnesf_core.geometry import camera
from gnesf_core.geometry.grid import Grid
from gnesf_core.shapes import AnyTensor, Float, Float32, Float64

MOST_VOXELS = 2**28  # 2 GiB at the finest level; 25 x 25 x 27 m at 4 cm
# The truth works on this many voxels at once, to bound its temporary arrays.
_SLAB_VOXELS = 2**20


@dataclass
class TsdfVolume:
    """The running mean of truncated signed distances and the number of its terms."""

    grid: Grid
    truncation_m: float
    # In [-1, 1], 1 where nothing was observed; and the number of frames that observed.
    tsdf: Float32[np.ndarray, "x y z"] | Float32[AnyTensor, "x y z"]
    weight: Float32[np.ndarray, "x y z"] | Float32[AnyTensor, "x y z"]

    @classmethod
    def empty(
        cls, grid: Grid, truncation_m: float, device: object = None
    ) -> "TsdfVolume":
        """Return a volume that nothing was integrated into.

        It holds arrays, or tensors on a device that is named.
        """
        if device is None:
            tsdf = np.ones(grid.shape, np.float32)
            return cls(grid, truncation_m, tsdf, np.zeros_like(tsdf))
        import torch

        tsdf = torch.ones(grid.shape, dtype=torch.float32, device=device)
        return cls(grid, truncation_m, tsdf, torch.zeros_like(tsdf))

    def arrays(
        self,
    ) -> tuple[Float32[np.ndarray, "x y z"], Float32[np.ndarray, "x y z"]]:
        """Return distances and weights as arrays, wherever they are."""
        both = self.tsdf, self.weight
        return tuple(
            values.cpu().numpy() if isinstance(values, AnyTensor) else values
            for values in both
        )


def pyramid_grids(
    lower_world: Float[np.ndarray, " 3"],
    upper_world: Float[np.ndarray, " 3"],
    config: TargetsConfig,
) -> list[Grid]:
    """Return the grids of all levels, finest first, around an axis-aligned box.

    All share one origin, a multiple of the coarsest voxel, so that voxel i of level l
    is voxel i * 2**l of the finest, and grids of overlapping boxes coincide. The finest
    shape is a multiple of 2**(levels - 1). The box is padded by the coarsest
    truncation: no level cuts off what lies behind a surface.
    """
    coarsest = 2 ** (config.levels - 1)
    coarsest_m = config.voxel_size_m * coarsest
    bounds = np.stack([lower_world, upper_world]).astype(np.float64)
    if not np.isfinite(bounds).all() or (bounds[0] > bounds[1]).any():
        raise ValueError(f"bounds of a volume must be finite and ordered, not {bounds}")
    lower = np.floor(bounds[0] / coarsest_m - config.truncation_voxels)
    upper = np.ceil(bounds[1] / coarsest_m + config.truncation_voxels)
    counts = upper - lower + 1
    if math.prod(counts.tolist()) * coarsest**3 > MOST_VOXELS:
        raise ValueError(
            f"a volume from {bounds[0]} to {bounds[1]} m has more than {MOST_VOXELS} "
            f"voxels of {config.voxel_size_m} m: check the poses, or coarsen the voxels"
        )
    grids = []
    for level in range(config.levels):
        fine = 2 ** (config.levels - 1 - level)
        shape = tuple(int(count) * fine for count in counts)
        size_m = config.voxel_size_m * 2**level
        grids.append(Grid(lower * coarsest_m, size_m, shape))
    return grids


def depth_bounds(
    depth_m: Float[np.ndarray, "h w"],
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
    max_depth_m: float,
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 3"]]:
    """Return the corners of the world box around the depth of one frame.

    Only depth that fusion will use counts. Without any the lower corner is +inf and the
    upper -inf, so that the bounds of several frames combine by minimum and maximum.
    """
    v, u = np.nonzero((depth_m > 0) & (depth_m <= max_depth_m))
    if len(v) == 0:
        return np.full(3, np.inf), np.full(3, -np.inf)
    depth = depth_m[v, u].astype(np.float64)
    rays = camera.pixel_rays(intrinsics, depth_m.shape[1], depth_m.shape[0])
    points = camera.transform(world_from_camera, rays[v, u] * depth[:, None])
    return points.min(0).astype(np.float64), points.max(0).astype(np.float64)


def pixel_from_voxel(
    grid: Grid,
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "frames 4 4"],
) -> Float64[np.ndarray, "frames 3 4"]:
    """Return the matrices that take (i, j, k, 1) to (u * z, v * z, z) in each frame."""
    world_from_voxel = np.diag([*[grid.voxel_size_m] * 3, 1.0])
    world_from_voxel[:3, 3] = grid.origin_world
    camera_from_world = camera.invert_rigid(world_from_camera.astype(np.float64))
    return intrinsics @ (camera_from_world @ world_from_voxel)[:, :3]


def integrate(
    volume: TsdfVolume,
    depth_m: Float[AnyTensor, "frames h w"] | Float[np.ndarray, "frames h w"],
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "frames 4 4"],
    max_depth_m: float,
) -> None:
    """Add frames to `volume` in place: the truth that faster twins are held to.

    Each voxel centre takes the depth of the pixel it falls on, with halves rounded up:
    pixel u covers [u - 0.5, u + 0.5). Voxels are left alone that are behind the camera,
    outside the image, without depth or with more than `max_depth_m` at their pixel, or
    further behind the surface than the truncation. Geometry is computed in float64.
    """
    import torch

    whole = torch.as_tensor(volume.tsdf), torch.as_tensor(volume.weight)
    device = whole[0].device
    # Depth is float32: 2.9 m as a double lies below the pixel that says 2.9 m.
    max_depth_m = float(np.float32(max_depth_m))
    matrices = pixel_from_voxel(volume.grid, intrinsics, world_from_camera)
    shape = volume.grid.shape
    step = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    axes = [torch.arange(n, device=device, dtype=torch.float64) for n in shape]
    for depth, matrix in zip(depth_m, matrices, strict=True):
        depth = torch.as_tensor(depth, device=device)
        projection = torch.as_tensor(matrix, device=device)
        for start in range(0, shape[0], step):
            slab = slice(start, start + step)
            i, j, k = torch.meshgrid(axes[0][slab], axes[1], axes[2], indexing="ij")
            ijk1 = torch.stack([i, j, k, torch.ones_like(i)])
            uz, vz, z = torch.einsum("rc,cxyz->rxyz", projection, ijk1)
            sdf, seen = _signed_distance(depth, uz, vz, z, max_depth_m)
            seen &= sdf >= -volume.truncation_m
            value = (sdf / volume.truncation_m).clamp(max=1.0)
            tsdf, weight = (values[slab] for values in whole)
            mean = (tsdf * weight + value) / (weight + 1)
            tsdf.copy_(torch.where(seen, mean.float(), tsdf))
            weight += seen


def _signed_distance(
    depth_m: Float[AnyTensor, "h w"],
    uz: Float64[AnyTensor, "x y z"],
    vz: Float64[AnyTensor, "x y z"],
    z: Float64[AnyTensor, "x y z"],
    max_depth_m: float,
) -> tuple[Float64[AnyTensor, "x y z"], AnyTensor]:
    """Return depth at the nearest pixel minus z, and where that means something."""
    import torch

    height, width = depth_m.shape
    in_front = z > 0
    divisor = torch.where(in_front, z, 1.0)
    u = torch.floor(uz / divisor + 0.5)
    v = torch.floor(vz / divisor + 0.5)
    seen = in_front & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    index = torch.where(seen, v * width + u, 0).long()
    surface = depth_m.flatten()[index].double()
    seen &= (surface > 0) & (surface <= max_depth_m)
    return surface - z, seen


def fuse(
    volumes: Sequence[TsdfVolume],
    depth_m: Float[np.ndarray, "frames h w"],
    intrinsics: Float[np.ndarray, "3 3"],
    world_from_camera: Float[np.ndarray, "frames 4 4"],
    max_depth_m: float,
) -> None:
    """Add frames to every volume in place, by the fastest means there is.

    The volumes of a pyramid share the preparation of the depth maps. On a CPU the work
    is spread over all threads that may be used; the result does not depend on it.
    """
    assert np.isfinite(world_from_camera).all() and np.isfinite(intrinsics).all()
    tensors = [v.tsdf for v in volumes if isinstance(v.tsdf, AnyTensor)]
    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
    if on_cpu and find_spec("numba") is not None:
        from gnesf_core.geometry import tsdf_numba

        tsdf_numba.integrate(
            volumes, depth_m, intrinsics, world_from_camera, max_depth_m
        )
        return
    for volume in volumes:
        integrate(volume, depth_m, intrinsics, world_from_camera, max_depth_m)
