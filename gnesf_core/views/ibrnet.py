"""IBRNet: colours and densities of points from what nearby source views show of them.

A network looks at samples of rays twice, the second time where the first saw something.
Of classes it says nothing, or predicts them, which the paper calls Predict Directly; or
its views vote with what the prior says, by the very weights that they have for colours,
which is the released two-dimensional GNeSF.

Modules have the names and shapes of the released code. Weights of a checkpoint of it
fit if they are named `{part}.{name}`, with the parts `net_coarse`, `net_fine` and
`feature_net` of the checkpoint, and if the settings say `mask: queries`.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gnesf_core.config import IbrnetConfig, TrainingConfig
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.nets.attention import SelfAttention, sinusoids, softmax_over
from gnesf_core.nets.mlp import mlp
from gnesf_core.nets.res_unet import ResUNet
from gnesf_core.rendering.compositing import composite, density_weights
from gnesf_core.rendering.directions import direction_differences
from gnesf_core.rendering.frame_samples import Truth
from gnesf_core.rendering.rays import Rays
from gnesf_core.rendering.samplers import first_places, importance
from gnesf_core.rendering.sources import (
    Pairs,
    Projected,
    Sources,
    project,
    said_by_prior,
    sample_views,
    spread_out,
)
from gnesf_core.shapes import Bool, Float, Float64
from gnesf_core.training.groups import parameter_groups
from gnesf_core.views.interface import (
    Camera,
    Method,
    Rendered,
    said_of_labelled,
)

Settings = IbrnetConfig
PACKAGES = ("safetensors",)

_SPACING = "inverse-depth"
_POINT = 16  # numbers about a point, on which its ray's points look at each other
_LEAST_EXCESS = 1e-6  # by which views look the way the camera does, or none does more
_LEAST_SEEN = 1 / 8  # as many samples as this part of the coarse ones teach something
_SAYS = {"nothing": "nothing", "predicted": "logits", "voted": "probabilities"}
_FIRST_DENSITY = 0.1  # of all points, before anything is learned
# Layers that the released code leaves as Torch initialises them.
_AS_THEY_ARE = ("ray_dir_fc", "ray_attention", "out_geometry_fc")


def build(settings: IbrnetConfig) -> "Ibrnet":
    """Return the method, which has learned nothing yet."""
    return Ibrnet(settings)


class Seen(NamedTuple):
    """What source views show of the samples of rays."""

    color: Float[Tensor, "rays samples views 3"]  # 0..1
    features: Float[Tensor, "rays samples views f"]
    directions: Float[Tensor, "rays samples views 4"]  # see `direction_differences`
    said: Float[Tensor, "rays samples views classes"]  # zeros where it says nothing
    inside: Bool[Tensor, "rays samples views"]  # the view's picture


class Points(NamedTuple):
    """What is known about the samples of rays."""

    color: Float[Tensor, "rays samples 3"]
    density: Float[Tensor, "rays samples"]  # of whole intervals
    semantic: Float[Tensor, "rays samples classes"]  # zeros where nobody votes


class Network(nn.Module):
    """IBRNet's network, of one pass."""

    def __init__(self, features: int, mask: str, semantics: str) -> None:
        super().__init__()
        self._semantics, self.mask = semantics, mask
        own, classes = features + 3, len(CLASS_NAMES)
        self.s = nn.Parameter(torch.tensor(0.2))
        self.ray_dir_fc = mlp(4, 16, own, last=nn.ELU())
        self.base_fc = mlp(3 * own, 64, 32, last=nn.ELU())
        self.vis_fc = mlp(32, 32, 33, last=nn.ELU())
        self.vis_fc2 = mlp(32, 32, 1, last=nn.Sigmoid())
        self.geometry_fc = mlp(2 * 32 + 1, 64, _POINT, last=nn.ELU())
        self.ray_attention = SelfAttention(_POINT, 4, 4, mask)
        self.out_geometry_fc = mlp(_POINT, 16, 1, last=nn.ReLU())
        self.rgb_fc = mlp(32 + 1 + 4, 16, 8, 1)
        if semantics == "predicted":
            self.sem_fc = mlp(_POINT, 16, classes)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith(_AS_THEY_ARE):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        # As Torch initialises this layer, every tenth network sees nothing anywhere:
        # behind a ReLU, it could not learn to.
        nn.init.zeros_(self.out_geometry_fc[2].weight)
        nn.init.constant_(self.out_geometry_fc[2].bias, _FIRST_DENSITY)

    def forward(self, seen: Seen) -> Points:
        """Return what the views' sights of rays' samples amount to."""
        inside = seen.inside[..., None]
        x, shares, visible = self._views(seen)
        views = inside.sum(2).clamp(min=1)
        if self.mask == "queries":  # as in the released code, which counts all
            views = torch.full_like(views, inside.shape[2])
        statistics = (*_mean_and_variance(x, shares), shares.sum(2) / views)
        known = self._points(torch.cat(statistics, -1), seen.inside)
        density = self.out_geometry_fc(known)[..., 0] * seen.inside.any(2)
        x = torch.cat([x, visible, seen.directions], -1)
        scores = self.rgb_fc(x)
        color = _blend(scores, seen.color, inside)
        semantic = color[..., :0]
        if self._semantics == "voted":
            speaks = inside & (seen.said.sum(-1, keepdim=True) > 0)
            semantic = _blend(scores, seen.said, speaks)
        elif self._semantics == "predicted":
            semantic = self.sem_fc(known).float()
        return Points(color, density.float(), semantic)

    def _views(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Return what each view is taken for, its share, and whether it sees at all.

        Views that look the way the camera does count most, and nothing the one that
        does least. In the released code that may be one that does not see the point.
        """
        inside = seen.inside[..., None]
        alike = (self.s.abs() * (seen.directions[..., 3:] - 1)).exp()
        if self.mask == "queries":
            excess = (alike - alike.amin(2, keepdim=True)) * inside
        else:
            least = alike.masked_fill(~inside, torch.inf).amin(2, keepdim=True)
            excess = (alike - least.nan_to_num(posinf=0.0)) * inside
            # A view that is alone, or all that look the same way, count alike.
            differ = excess.sum(2, keepdim=True) > _LEAST_EXCESS
            excess = torch.where(differ, excess, alike * inside)
        shares = _shares(excess)
        own = torch.cat([seen.color, seen.features], -1)
        own = own + self.ray_dir_fc(seen.directions)
        of_points = torch.cat(_mean_and_variance(own, shares), -1)
        x = self._base(of_points, own)
        change, visible = self.vis_fc(x * shares).tensor_split([32], -1)
        x = x + change
        visible = self.vis_fc2(x * (visible.sigmoid() * inside)) * inside
        return x, _shares(visible.float()), visible

    def _base(
        self,
        of_points: Float[Tensor, "rays samples a"],
        own: Float[Tensor, "rays samples views b"],
    ) -> Float[Tensor, "rays samples views 32"]:
        """Apply `base_fc` to both side by side, what points share computed once."""
        first, *others = self.base_fc
        shared, apart = first.weight.tensor_split([of_points.shape[-1]], 1)
        x = linear(own, apart) + linear(of_points, shared, first.bias)[:, :, None]
        for layer in others:
            x = layer(x)
        return x

    def _points(
        self,
        statistics: Float[Tensor, "rays samples a"],
        inside: Bool[Tensor, "rays samples views"],
    ) -> Float[Tensor, "rays samples 16"]:
        """Let the points of each ray look at each other, those known well enough."""
        known = self.geometry_fc(statistics)
        places = sinusoids(known.shape[1], known.shape[2], known.device)
        return self.ray_attention(known + places, well_seen(inside))


def well_seen(
    inside: Bool[Tensor, "rays samples views"],
) -> Bool[Tensor, "rays samples"]:
    """Tell which samples two views have in their pictures, or the only one that is."""
    return inside.sum(2) >= min(2, inside.shape[2])


class Context(NamedTuple):
    """What rays of a camera are rendered from."""

    sources: Sources
    camera: Camera
    pictures: Float[Tensor, "views 3 h w"]  # 0..1
    features: tuple[Tensor, Tensor]  # of the sources, for either pass


class Ibrnet(Method):
    """The method."""

    def __init__(self, settings: IbrnetConfig) -> None:
        super().__init__()
        s = self.settings = settings
        self.range_m = s.near_m, s.far_m
        self.says = _SAYS[s.semantics]
        if s.semantic_loss == "one-minus-probability" and s.semantics == "predicted":
            raise BadInput(
                "recipe",
                "semantic_loss",
                expected="cross-entropy, as classes are predicted by logits",
                found=s.semantic_loss,
                remedy="correct the method's settings",
            )
        self.needs = frozenset({"prior"} if s.semantics == "voted" else ())
        self.feature_net = ResUNet(s.encoder_blocks, s.encoder_widths, 2 * s.features)
        self.net_coarse = Network(s.features, s.mask, s.semantics)
        self.net_fine = Network(s.features, s.mask, s.semantics)

    def encode(self, sources: Sources, camera: Camera) -> Context:
        """Look at the source views."""
        pictures = sources.pictures.float() / 255
        # Maps in half precision would be sampled at places rounded to it.
        coarse, fine = self.feature_net(pictures).float().chunk(2, 1)
        return Context(sources, camera, pictures, (coarse, fine))

    def render(self, context: Context, rays: Rays) -> list[Rendered]:
        """Return what is seen by evenly spread samples, and by more where it counts."""
        s, by_chance = self.settings, self.training
        depth_m = first_places(
            rays, self.range_m, s.coarse_samples, _SPACING, by_chance
        )
        maps = context.features
        coarse = self._pass(self.net_coarse, context, maps[0], rays, depth_m)
        depth_m = importance(
            depth_m, coarse.weights, s.fine_samples, _SPACING, by_chance
        )
        return [coarse, self._pass(self.net_fine, context, maps[1], rays, depth_m)]

    def _pass(
        self,
        network: Network,
        context: Context,
        features: Float[Tensor, "views f h w"],
        rays: Rays,
        depth_m: Float64[Tensor, "rays samples"],
    ) -> Rendered:
        votes = self.settings.semantics == "voted"
        seen = look(context, features, rays.at(depth_m), votes)
        points = network(seen)
        weights = density_weights(points.density)
        return Rendered(
            composite(weights, points.color),
            composite(weights, depth_m[..., None].float())[:, 0],
            composite(weights, points.semantic),
            weights,
            self._enough(seen.inside),
        )

    def _enough(
        self, inside: Bool[Tensor, "rays samples views"]
    ) -> Bool[Tensor, " rays"]:
        """Tell which rays are known well enough to learn from, or else at all."""
        if self.training:
            # The fine pass, which has more samples, wants no more of them.
            least = _LEAST_SEEN * self.settings.coarse_samples
            return well_seen(inside).sum(1) > least
        return inside.any(2).any(1)

    def class_errors(
        self, rendered: Rendered, truth: Truth
    ) -> Float[Tensor, " labelled"]:
        """Return how wrong classes are: Eq. 6, or the released code's 1 - p."""
        if self.settings.semantic_loss == "cross-entropy":
            return super().class_errors(rendered, truth)
        said, label = said_of_labelled(rendered, truth)
        return 1 - said.gather(1, label)[:, 0]

    def parameter_groups(self, config: TrainingConfig) -> list[dict[str, Any]]:
        """Let the picture encoder learn at the rate of a backbone."""
        return parameter_groups(self, self.feature_net.parameters(), config)


def look(
    context: Context,
    features: Float[Tensor, "views f h w"],
    points_world: Float64[Tensor, "rays samples 3"],
    votes: bool,
) -> Seen:
    """Return what source views show of points, and what the prior says if it votes."""
    sources = context.sources
    flat = points_world.flatten(0, 1)
    projected = project(sources, flat, math.inf)
    centre = context.camera.world_from_camera[:3, 3]
    directions = direction_differences(flat, centre, sources.centres_world).float()
    views = (
        sample_views(context.pictures, projected.uv),
        sample_views(features, _aligned(projected.uv, context.pictures, features)),
        directions,
        _said(sources, projected) if votes else directions[..., :0],
        projected.inside,
    )
    return Seen(*(own.unflatten(0, points_world.shape[:2]) for own in views))


def _aligned(
    uv: Float[Tensor, "n views 2"],
    pictures: Float[Tensor, "views 3 h w"],
    features: Float[Tensor, "views f fh fw"],
) -> Float[Tensor, "n views 2"]:
    """Return where places are on maps whose corner pixels are those of the pictures."""
    own = torch.tensor(features.shape[:1:-1], device=uv.device)
    whole = torch.tensor(pictures.shape[:1:-1], device=uv.device)
    return uv * ((own - 1) / (whole - 1)).to(uv)


def _said(sources: Sources, projected: Projected) -> Float[Tensor, "n views classes"]:
    """Return what the prior says, wherever points are in pictures."""
    point, view = projected.inside.nonzero(as_tuple=True)
    uv, depth_m = projected.uv[point, view], projected.depth_m[point, view]
    pairs = Pairs(view, point, uv, depth_m)
    said, _ = said_by_prior(sources, pairs)
    return spread_out(pairs, said, *projected.inside.shape)


def _blend(
    scores: Float[Tensor, "rays samples views 1"],
    values: Float[Tensor, "rays samples views k"],
    counted: Bool[Tensor, "rays samples views 1"],
) -> Float[Tensor, "rays samples k"]:
    """Return the mean of what views that count say, by the softmax of their scores."""
    weights = softmax_over(scores[..., 0].float(), counted[..., 0])
    return (weights[..., None] * values).sum(2)


def _shares(
    weights: Float[Tensor, "rays samples views 1"],
) -> Float[Tensor, "rays samples views 1"]:
    return weights / (weights.sum(2, keepdim=True) + 1e-8)


def _mean_and_variance(
    values: Float[Tensor, "rays samples views c"],
    shares: Float[Tensor, "rays samples views 1"],
) -> tuple[Float[Tensor, "rays samples c"], Float[Tensor, "rays samples c"]]:
    mean = (shares * values).sum(2)
    return mean, (shares * (values - mean[:, :, None]).square()).sum(2)
