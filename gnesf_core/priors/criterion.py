"""Mask2Former's losses for semantic segmentation, shared by its backends.

A picture's ground truth is one mask per class that it shows. Each is matched with one
query; the rest learn to be no object. Masks are compared at sampled points, most of
them where the prediction is undecided, as published. Unlike in the libraries, where a
pixel of `IGNORE` counts as "not this class" in every mask, no point touches one, and a
picture that shows nothing else teaches nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gnesf_core.config import Mask2FormerConfig
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.shapes import Bool, Float, Int64, Integer, UInt8
from gnesf_core.training.distributed import mean_over_processes

OVERSAMPLE = 3.0  # candidates per point, as published
IMPORTANCE = 0.75  # share of points taken where the mask is least certain

_CLASSES = len(CLASS_NAMES)


@dataclass(frozen=True)
class Prediction:
    """What one layer of the decoder says of a batch of pictures."""

    class_logits: Float[Tensor, "b q logits"]  # the last is "no object"
    mask_logits: Float[Tensor, "b q h4 w4"]


def class_scores(prediction: Prediction) -> Float[Tensor, "b classes h4 w4"]:
    """Return the sum over queries of class probability times mask probability."""
    classes = prediction.class_logits.float().softmax(-1)[..., :-1]
    masks = prediction.mask_logits.float().sigmoid()
    with torch.autocast(masks.device.type, enabled=False):
        return torch.einsum("bqc,bqhw->bchw", classes, masks)


def losses(
    settings: Mask2FormerConfig,
    layers: Sequence[Prediction],
    labels: UInt8[Tensor, "b h w"],
) -> dict[str, Float[Tensor, ""]]:
    """Return the weighted losses, added over layers, and of the last one's class map.

    Each layer is matched and compared on its own. The pixel loss is there if it has a
    weight.
    """
    result: dict[str, Tensor] = {}
    shown = classes_present(labels)
    share = _share(shown.sum())
    with torch.autocast(labels.device.type, enabled=False):
        for layer in layers:
            parts = _layer_losses(settings, layer, labels, shown, share)
            for name, value in parts.items():
                result[name] = result.get(name, 0) + value
        if settings.pixel_weight > 0:
            scores = class_scores(layers[-1])
            result["pixel"] = settings.pixel_weight * pixel_loss(scores, labels)
    return result


def pixel_loss(
    scores: Float[Tensor, "b classes h4 w4"], labels: UInt8[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of scores shared out among classes, at their own size.

    A pixel of the small map answers for the label at its centre.
    """
    targets = functional.interpolate(
        labels[:, None], scores.shape[-2:], mode="nearest-exact"
    )[:, 0].long()
    scores = scores + 1e-6  # where no query claims a pixel there is no logarithm
    logs = (scores / scores.sum(dim=1, keepdim=True)).log()
    total = functional.nll_loss(logs, targets, ignore_index=IGNORE, reduction="sum")
    return total * _share((targets != IGNORE).sum())


def _share(count: Integer[Tensor, ""] | Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the share of each in the mean over all; 0 is shared by none."""
    return 1 / mean_over_processes(count.float()).clamp(min=1e-6)


def _layer_losses(
    settings: Mask2FormerConfig,
    layer: Prediction,
    labels: UInt8[Tensor, "b h w"],
    shown: Bool[Tensor, "b classes"],
    share: Float[Tensor, ""],
) -> dict[str, Float[Tensor, ""]]:
    """Return one layer's losses; each mask has a `share` in the sum over masks."""
    class_logits, mask_logits = layer.class_logits.float(), layer.mask_logits.float()
    picture, category = shown.nonzero(as_tuple=True)
    query = category
    if settings.matching != "class":
        with torch.no_grad():
            cost = _costs(settings, class_logits, mask_logits, labels)
        picture, category, query = _cheapest(cost, picture, category)

    targets = torch.full(class_logits.shape[:2], _CLASSES, device=labels.device)
    targets[picture, query] = category
    weights = torch.where(targets < _CLASSES, 1.0, settings.no_object_weight)
    weights = weights * shown.any(dim=1, keepdim=True)
    entropy = functional.cross_entropy(class_logits.mT, targets, reduction="none")
    entropy = (weights * entropy).sum() * _share(weights.sum())

    masks = mask_logits[picture, query]
    mask, dice = _mask_losses(settings.points, masks, labels, picture, category)
    return {
        "class": settings.class_weight * entropy,
        "mask": settings.mask_weight * mask.sum() * share,
        "dice": settings.dice_weight * dice.sum() * share,
    }


def classes_present(labels: UInt8[Tensor, "b h w"]) -> Bool[Tensor, "b classes"]:
    """Tell which classes each picture shows."""
    counts = labels.new_zeros((len(labels), 256), dtype=torch.int32)
    flat = labels.flatten(1).long()
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.int32))
    return counts[:, :_CLASSES] > 0


def _costs(
    settings: Mask2FormerConfig,
    class_logits: Float[Tensor, "b q logits"],
    mask_logits: Float[Tensor, "b q h4 w4"],
    labels: UInt8[Tensor, "b h w"],
) -> Float[Tensor, "b q classes"]:
    """Return what it costs to match each query with each class, as published."""
    batch = len(labels)
    points = torch.rand(batch, settings.points, 2, device=labels.device)
    around = _labels_around(points, labels, torch.arange(batch, device=labels.device))
    known = around.known.float()[:, None]
    true = torch.stack([around.share_of(c) for c in range(_CLASSES)], dim=2)
    true = true * known.mT  # [b, points, classes]
    logits = sample(mask_logits, points)
    found = logits.sigmoid() * known
    entropy = functional.softplus(-logits) @ true
    entropy += (functional.softplus(logits) * known) @ (known.mT - true)
    dice = 2 * found @ true + 1
    dice = 1 - dice / (found.sum(2)[:, :, None] + true.sum(1)[:, None] + 1)
    return (
        settings.mask_weight * entropy / known.sum(2, keepdim=True).clamp(min=1)
        + settings.dice_weight * dice
        - settings.class_weight * class_logits.softmax(-1)[..., :-1]
    )


def _cheapest(
    cost: Float[Tensor, "b q classes"],
    picture: Int64[Tensor, " masks"],
    category: Int64[Tensor, " masks"],
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Match queries with the classes that pictures show, at the least total cost."""
    from scipy.optimize import linear_sum_assignment

    found = []
    cost = cost.nan_to_num().cpu()  # once, for the whole batch
    for number in range(len(cost)):
        classes = category[picture == number].cpu()
        queries, order = linear_sum_assignment(cost[number][:, classes].numpy())
        pairs = classes[torch.from_numpy(order)], torch.from_numpy(queries)
        found.append(torch.stack([torch.full_like(pairs[0], number), *pairs]))
    return tuple(torch.cat(found, dim=1).to(picture.device))


def _mask_losses(
    count: int,
    masks: Float[Tensor, "masks h4 w4"],
    labels: UInt8[Tensor, "b h w"],
    picture: Int64[Tensor, " masks"],
    category: Int64[Tensor, " masks"],
) -> tuple[Float[Tensor, " masks"], Float[Tensor, " masks"]]:
    """Return binary cross-entropy and dice loss of each mask at its points."""
    with torch.no_grad():
        points = _uncertain_points(count, masks.detach(), labels, picture)
        around = _labels_around(points, labels, picture)
        targets = around.share_of(category[:, None, None])
    logits = sample(masks[:, None], points)[:, 0]
    known = around.known.float()
    entropy = functional.binary_cross_entropy_with_logits(
        logits, targets, known, reduction="none"
    )
    mask = entropy.sum(1) / known.sum(1).clamp(min=1)
    found, true = logits.sigmoid() * known, targets * known
    dice = 1 - (2 * (found * true).sum(1) + 1) / (found.sum(1) + true.sum(1) + 1)
    return mask, dice


def _uncertain_points(
    count: int,
    masks: Float[Tensor, "masks h4 w4"],
    labels: UInt8[Tensor, "b h w"],
    picture: Int64[Tensor, " masks"],
) -> Float[Tensor, "masks points 2"]:
    """Draw points (x, y) in [0, 1], most of them the least certain of many."""
    n = len(masks)
    candidates = torch.rand(n, int(count * OVERSAMPLE), 2, device=masks.device)
    certainty = sample(masks[:, None], candidates)[:, 0].abs()
    certainty[~_labels_around(candidates, labels, picture).known] = torch.inf
    chosen = certainty.topk(int(count * IMPORTANCE), dim=1, largest=False).indices
    uncertain = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    others = torch.rand(n, count - chosen.shape[1], 2, device=masks.device)
    return torch.cat([uncertain, others], dim=1)


def sample(
    maps: Float[Tensor, "n c h w"], points: Float[Tensor, "n points 2"]
) -> Float[Tensor, "n c points"]:
    """Read maps bilinearly at points (x, y) in [0, 1]; they are 0 outside."""
    grid = 2 * points[:, :, None] - 1
    return functional.grid_sample(maps, grid, align_corners=False)[..., 0]


@dataclass(frozen=True)
class _LabelsAround:
    """The four labels nearest to each point, and their bilinear weights."""

    labels: Int64[Tensor, "n points 4"]  # outside the picture neither a class nor void
    weights: Float[Tensor, "n points 4"]

    @property
    def known(self) -> Bool[Tensor, "n points"]:
        """Tell which points touch no void pixel."""
        return (self.labels != IGNORE).all(dim=-1)

    def share_of(
        self, category: int | Int64[Tensor, "n 1 1"]
    ) -> Float[Tensor, "n points"]:
        """Return what `sample` would read from the mask of a class."""
        return (self.weights * (self.labels == category)).sum(dim=-1)


_OUTSIDE = 254


def _labels_around(
    points: Float[Tensor, "n points 2"],
    labels: UInt8[Tensor, "b h w"],
    picture: Int64[Tensor, " n"],
) -> _LabelsAround:
    """Look up labels without making a mask of each class at full size."""
    height, width = labels.shape[-2:]
    place = points * points.new_tensor([width, height]) - 0.5
    low = place.floor()
    corner = points.new_tensor([(0, 0), (1, 0), (0, 1), (1, 1)])
    weights = (1 - corner - (place - low)[..., None, :]).abs().prod(dim=-1)
    x, y = (low[..., None, :] + corner).long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    rows, columns = y.clamp(0, height - 1), x.clamp(0, width - 1)
    found = labels[picture[:, None, None], rows, columns].long()
    return _LabelsAround(torch.where(inside, found, _OUTSIDE), weights)
