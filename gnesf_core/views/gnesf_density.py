"""GNeSF's view synthesis, as the paper has it: densities, and source views that vote.

Features F of the source views fill a volume M before the target's camera (Eq. 1), of
which densities are made (Eq. 2). What the views say of the samples of a ray is added up
by votes (Eq. 3-4), and along the ray (Eq. 5, 7).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    conv2d,
    elu,
    grid_sample,
    interpolate,
    pad,
    softplus,
)

from gnesf_core.config import GnesfDensityConfig
from gnesf_core.fields.voting import SplitLinear, blend, mean_and_variance
from gnesf_core.geometry import camera as cameras
from gnesf_core.nets.mlp import mlp
from gnesf_core.nets.res_unet import STRIDE, ResUNet
from gnesf_core.rendering.compositing import composite, density_weights
from gnesf_core.rendering.directions import direction_differences
from gnesf_core.rendering.rays import Rays
from gnesf_core.rendering.samplers import first_places, importance, spaced
from gnesf_core.rendering.sources import (
    Pairs,
    Sources,
    pairs_in_view,
    said_by_prior,
    said_in_color,
    sample_maps,
)
from gnesf_core.shapes import Bool, Float, Float64, Int64
from gnesf_core.views.interface import (
    Camera,
    Method,
    Rendered,
)

Settings = GnesfDensityConfig
PACKAGES = ("safetensors",)

_THIN = -3.0  # before the softplus: 64 samples let about 4 % of the light through


def build(settings: GnesfDensityConfig) -> "GnesfDensity":
    """Return a method that has learned nothing yet."""
    return GnesfDensity(settings)


class Context(NamedTuple):
    """All that the rays of one camera are rendered from."""

    sources: Sources
    camera: Camera
    features: Float[Tensor, "views c h w"]  # F; pixel 0 is above the picture's
    volume: Float[Tensor, "1 m depths rows columns"]  # M


class GnesfDensity(Method):
    """F and M, which two passes share, and the passes, which are alike.

    M is the frustum of the target's camera, in planes of inverse depth: no sample of
    its rays is outside, and voxels are as fine as the target and the sources see. A box
    in the world would be coarse up close and empty at its corners. Its outermost voxels
    are on the picture's edges, which do not move with the picture's size.
    """

    needs = frozenset({"prior"})
    says = "probabilities"

    def __init__(self, settings: GnesfDensityConfig) -> None:
        super().__init__()
        self.settings = s = settings
        self.range_m = s.near_m, s.far_m
        sizes = s.encoder_blocks, s.encoder_widths, s.features
        self.encoder = ResUNet(*sizes, exact=True)
        self.aggregate = VolumeUNet(2 * s.features, s.volume_channels)
        self.coarse = Pass(s.features, s.volume_channels, s.widths)
        self.fine = Pass(s.features, s.volume_channels, s.widths)

    def encode(self, sources: Sources, camera: Camera) -> Context:
        """Return F and M."""
        # In full precision, whatever autocast says: variances are small differences.
        features = self.encoder(sources.pictures / 255).float()
        columns, rows, depths = self.settings.volume
        points_world = frustum(camera, self.range_m, (columns, rows, depths))
        pairs = pairs_in_view(sources, points_world, math.inf)
        seen = sample_features(features, pairs)
        statistics = mean_and_variance(seen, pairs.point, len(points_world))
        both = torch.cat(statistics, 1).T.reshape(1, -1, depths, rows, columns)
        return Context(sources, camera, features, self.aggregate(both).float())

    def render(self, context: Context, rays: Rays) -> list[Rendered]:
        """Return what the coarse and the fine pass see."""
        s = self.settings
        first = self.range_m, s.coarse_samples, "inverse-depth", self.training
        depth_m = first_places(rays, *first)
        coarse = self._render(self.coarse, context, rays, depth_m)
        chosen = coarse.weights, s.fine_samples, "inverse-depth", self.training
        depth_m = importance(depth_m, *chosen)
        return [coarse, self._render(self.fine, context, rays, depth_m)]

    def _render(
        self,
        network: "Pass",
        context: Context,
        rays: Rays,
        depth_m: Float64[Tensor, "rays samples"],
    ) -> Rendered:
        shape = depth_m.shape
        points_world = rays.at(depth_m).flatten(0, 1)
        encoding = sample_volume(context, points_world, self.range_m)
        told = network(look(context, points_world, encoding))
        seen = told.seen.reshape(shape)
        # Where no view looks, nothing is known: there is nothing.
        density = torch.where(seen, told.density.reshape(shape), 0.0)
        weights = density_weights(density)
        return Rendered(
            composite(weights, told.color.reshape(*shape, -1)),
            composite(weights, depth_m[..., None].float())[:, 0],
            composite(weights, told.semantic.reshape(*shape, -1)),
            weights,
            seen.any(1),
        )


class Sights(NamedTuple):
    """What views see of points, and M there: rows are pairs of a point and a view."""

    point: Int64[Tensor, " pairs"]
    features: Float[Tensor, "pairs c"]  # F of the view, at the point
    displacement: Float[Tensor, "pairs 3"]  # m, from the view's centre to the point
    direction: Float[Tensor, "pairs 4"]  # how differently the target looks
    color: Float[Tensor, "pairs 3"]  # 0..1
    said: Float[Tensor, "pairs classes"]  # probabilities
    known: Bool[Tensor, " pairs"]  # whether the prior says anything
    encoding: Float[Tensor, "n m"]  # M, of each point


class Told(NamedTuple):
    """What a pass says of points."""

    density: Float[Tensor, " n"]  # of a whole interval
    color: Float[Tensor, "n 3"]  # 0..1
    semantic: Float[Tensor, "n classes"]  # probabilities
    seen: Bool[Tensor, " n"]  # points that some view has in its picture


class Pass(nn.Module):
    """Densities from M, Eq. 2; scores of views from F', M and displacement, Eq. 3.

    Scores of colours depend on the direction that the target looks from as well.
    """

    def __init__(self, features: int, encoding: int, widths: Sequence[int]) -> None:
        super().__init__()
        first, second = widths
        self.first = SplitLinear(features, 2 * features, first)
        self.second = nn.Linear(first, second)  # F'
        self.semantic = Score(second + 3, encoding, second)
        self.color = Score(second + 3 + 4, encoding, second)
        self.density = mlp(encoding, second, 1)
        # At first light comes from all along a ray, not from its first samples.
        nn.init.constant_(self.density[-1].bias, _THIN)

    def forward(self, sights: Sights) -> Told:
        """Let views vote on points, Eq. 4."""
        point, encoding, known = sights.point, sights.encoding, sights.known
        count = len(encoding)
        statistics = torch.cat(mean_and_variance(sights.features, point, count), 1)
        new = elu(self.second(elu(self.first(sights.features, statistics, point))))
        own = torch.cat([new, sights.displacement], 1)
        scores = self.semantic(own, encoding, point)
        semantic, _ = blend(scores[known], sights.said[known], point[known], count)
        directed = torch.cat([own, sights.direction], 1)
        color_scores = self.color(directed, encoding, point)
        color, seen = blend(color_scores, sights.color, point, count)
        density = softplus(self.density(encoding)[:, 0].float())
        return Told(density, color, semantic, seen)


class Score(nn.Module):
    """How much what a view says of a point counts."""

    def __init__(self, of_pairs: int, of_points: int, width: int) -> None:
        super().__init__()
        self.hidden = SplitLinear(of_pairs, of_points, width)
        self.score = nn.Linear(width, 1, bias=False)
        # Before anything is learned all views count alike.
        nn.init.zeros_(self.score.weight)

    def forward(
        self,
        pairs: Float[Tensor, "pairs a"],
        points: Float[Tensor, "n b"],
        point: Int64[Tensor, " pairs"],
    ) -> Float[Tensor, " pairs"]:
        """Return one score for each pair."""
        return self.score(elu(self.hidden(pairs, points, point)))[:, 0].float()


class VolumeUNet(nn.Module):
    """H_g: means and variances -> M, by way of a half and a quarter of the voxels.

    Volumes have five voxels or more along some axis.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        half, quarter = 2 * channels, 4 * channels
        self.stem = _convolution(inputs, channels)
        self.down1 = _convolution(channels, half, stride=2)
        self.down2 = _convolution(half, quarter, stride=2)
        self.up1 = _convolution(quarter + half, half)
        self.up2 = _convolution(half + channels, channels)
        self.last = nn.Conv3d(channels, channels, 1)

    def forward(self, values: Float[Tensor, "1 c d h w"]) -> Float[Tensor, "1 m d h w"]:
        """Tell every voxel of its surroundings."""
        fine = self.stem(values)
        half = self.down1(fine)
        quarter = self.down2(half)
        half = self.up1(_join(quarter, half))
        return self.last(self.up2(_join(half, fine)))


class PlanewiseConv3d(nn.Conv3d):
    """A 3x3x3 convolution, on a CPU as convolutions of planes: several times as fast.

    There Torch has no fast kernel for single volumes of this size.
    """

    def forward(self, values: Float[Tensor, "1 c d h w"]) -> Float[Tensor, "1 m _ _ _"]:
        """Return what the layer makes of a volume."""
        if values.device.type != "cpu":
            return super().forward(values)
        step, depths = self.stride[0], values.shape[2]
        planes = pad(values[0], (0, 0, 0, 0, 1, 1)).transpose(0, 1)
        # Of each plane that is kept, the ones before it, itself and behind it.
        stacked = [planes[shift : shift + depths : step] for shift in range(3)]
        kernel = self.weight.transpose(1, 2).flatten(1, 2)
        made = conv2d(torch.cat(stacked, 1), kernel, None, self.stride[1:], padding=1)
        return made.transpose(0, 1)[None]


def _convolution(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        PlanewiseConv3d(inner, outer, 3, stride, padding=1, bias=False),
        nn.InstanceNorm3d(outer, affine=True),
        nn.ELU(),
    )


def _join(
    coarse: Float[Tensor, "1 a _ _ _"], fine: Float[Tensor, "1 b d h w"]
) -> Float[Tensor, "1 _ d h w"]:
    grown = interpolate(coarse, fine.shape[2:], mode="trilinear", align_corners=True)
    return torch.cat([grown, fine], 1)


def frustum(
    camera: Camera, range_m: tuple[float, float], counts: tuple[int, int, int]
) -> Float64[Tensor, "voxels 3"]:
    """Return the voxels before a camera, plane by plane and row by row.

    They are evenly spaced across, down and in inverse depth, the outermost of them on
    the edges of the picture and at the ends of the range.
    """
    device = camera.intrinsics.device
    whole = {"dtype": torch.float64, "device": device}
    u, v = (
        torch.linspace(-0.5, size - 0.5, count, **whole)
        for size, count in zip(camera.size, counts[:2], strict=True)
    )
    depth_m = spaced(range_m, counts[2], "inverse-depth", device)
    z, y, x = torch.meshgrid(depth_m, v, u, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
    points = pixels @ camera.intrinsics.inverse().T * z.reshape(-1, 1)
    return cameras.transform(camera.world_from_camera, points)


def sample_volume(
    context: Context,
    points_world: Float64[Tensor, "n 3"],
    range_m: tuple[float, float],
) -> Float[Tensor, "n m"]:
    """Return M(x), between the voxels of the target's frustum.

    Beyond its ends M goes on as it ends.
    """
    who = context.camera
    camera_from_world = cameras.invert_rigid(who.world_from_camera)
    points = cameras.transform(camera_from_world, points_world)
    uv, depth_m = cameras.project(points, who.intrinsics)
    size = torch.tensor(who.size, device=uv.device)
    near, far = range_m
    along = (1 / near - 1 / depth_m) / (1 / near - 1 / far)
    where = torch.cat([(uv + 0.5) / size, along[:, None]], 1)
    grid = (2 * where - 1).float()[None, None, None]
    # Voxels on the edges are its corners, as those of the frustum are.
    how = {"padding_mode": "border", "align_corners": True}
    return grid_sample(context.volume, grid, **how)[0, :, 0, 0].T


def sample_features(
    features: Float[Tensor, "views c h w"], pairs: Pairs
) -> Float[Tensor, "pairs c"]:
    """Return F where pairs are."""
    return sample_maps(features, pairs, pairs.uv / STRIDE)


def look(
    context: Context,
    points_world: Float64[Tensor, "n 3"],
    encoding: Float[Tensor, "n m"],
) -> Sights:
    """Return what source views see of points."""
    sources = context.sources
    pairs = pairs_in_view(sources, points_world, math.inf)
    said, known = said_by_prior(sources, pairs)
    centre_world = context.camera.world_from_camera[:3, 3]
    every = direction_differences(points_world, centre_world, sources.centres_world)
    own = points_world[pairs.point] - sources.centres_world[pairs.view]
    return Sights(
        pairs.point,
        sample_features(context.features, pairs),
        own.float(),
        every[pairs.point, pairs.view].float(),
        said_in_color(sources, pairs),
        said,
        known,
        encoding,
    )
