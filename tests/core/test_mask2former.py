import dataclasses
import importlib
import itertools
import json
import logging
import math
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from gnesf_core.config import Mask2FormerConfig
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES, IGNORE
from gnesf_core.priors import (
    criterion,
    mask2former_mmseg,
    mask2former_transformers,
    mmcv_lite,
)
from gnesf_core.priors.criterion import Prediction
from gnesf_core.training.weights import read_weights, write_weights

TINY = Mask2FormerConfig(
    model="",
    start_from="",
    image_width=64,
    image_height=64,
    backbone="resnet",
    backbone_width=8,
    backbone_depths=[1, 1, 1, 1],
    backbone_heads=[1, 1, 2, 2],
    window=4,
    drop_path=0.0,
    hidden=32,
    mask_channels=16,
    heads=2,
    feedforward=32,
    encoder_layers=1,
    decoder_layers=2,
    queries=20,
    points=64,
    matching="class",
    class_weight=2.0,
    mask_weight=5.0,
    dice_weight=3.0,
    no_object_weight=0.1,
    pixel_weight=1.0,
    batch=2,
    logits=False,
)
CPU = "cpu"
BACKENDS = [mask2former_mmseg, mask2former_transformers]
WALL, FLOOR, CHAIR, BATHTUB = 0, 1, 4, 18

backends = pytest.mark.parametrize("backend", BACKENDS, ids=["mmseg", "transformers"])


def changed(**settings):
    return dataclasses.replace(TINY, **settings)


def built(backend, settings=TINY, seed=0):
    torch.manual_seed(seed)
    return backend.build(settings)


def pictures(count=2, height=64, width=64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = count, 3, height, width
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def two_rooms():
    """Return labels of two pictures; the second shows one class less."""
    labels = torch.full((2, 64, 64), WALL, dtype=torch.uint8)
    labels[:, 40:] = FLOOR
    labels[0, 30:50, 8:30] = CHAIR
    return labels


def seeded_losses(segmenter, labels, seed=2):
    torch.manual_seed(seed)
    return segmenter.losses(pictures(), labels)


# What a backend promises, whichever it is.


@backends
@pytest.mark.parametrize("backbone", ["resnet", "swin"])
def test_scores_cover_the_picture_at_a_quarter_of_its_size(backend, backbone):
    segmenter = built(backend, changed(backbone=backbone)).eval()

    with torch.no_grad():
        scores = segmenter.class_scores(pictures(3, 64, 96))

    assert scores.shape == (3, len(CLASS_NAMES), 16, 24)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert (scores >= 0).all()


@backends
def test_scores_stay_close_in_half_precision(backend):
    segmenter = built(backend).eval()

    with torch.no_grad():
        exact = segmenter.class_scores(pictures())
        with torch.autocast("cpu", torch.bfloat16):
            rough = segmenter.class_scores(pictures())

    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.02 * exact.mean()


def test_scores_are_those_of_the_library_mmseg():
    segmenter = built(mask2former_mmseg).eval()
    network = segmenter.network
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]

    with torch.no_grad():
        scores = segmenter.class_scores(pictures())
        # EncoderDecoder's own inference; a "padded" shape of a quarter spares resizing.
        library = network.encode_decode(
            (pictures() - mean) / std, [{"pad_shape": (16, 16)}] * 2
        )

    torch.testing.assert_close(scores, library)


def test_scores_are_those_of_the_formula_transformers():
    segmenter = built(mask2former_transformers).eval()
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]

    with torch.no_grad():
        scores = segmenter.class_scores(pictures())
        output = segmenter.network((pictures() - mean) / std)

    expected = torch.zeros_like(scores)
    for query in range(TINY.queries):
        share = output.class_queries_logits[:, query].exp()
        share = share / share.sum(dim=1, keepdim=True)
        mask = 1 / (1 + (-output.masks_queries_logits[:, query]).exp())
        expected += share[:, :-1, None, None] * mask[:, None]
    torch.testing.assert_close(scores, expected)


def test_backends_of_equal_settings_have_equally_many_parameters():
    counts = [
        sum(parameter.numel() for parameter in built(backend).parameters())
        for backend in BACKENDS
    ]

    assert counts[0] == counts[1]


@backends
def test_the_seed_decides_weights_and_losses(backend):
    first, second, other = (built(backend, seed=seed) for seed in (0, 0, 1))

    weights = [model.state_dict() for model in (first, second, other)]
    losses = [seeded_losses(model, two_rooms()) for model in (first, second)]

    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert any(not torch.equal(v, weights[2][name]) for name, v in weights[0].items())
    assert losses[0] == losses[1]


@backends
@pytest.mark.parametrize("backbone", ["resnet", "swin"])
@pytest.mark.parametrize("matching", ["class", "hungarian"])
def test_every_parameter_learns_even_from_void_alone(backend, backbone, matching):
    # Processes that train together wait for the gradient of every parameter.
    segmenter = built(backend, changed(backbone=backbone, matching=matching))

    losses = seeded_losses(segmenter, torch.full_like(two_rooms(), IGNORE))
    sum(losses.values()).backward()

    assert all(value.isfinite() for value in losses.values())
    for name, parameter in segmenter.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@backends
def test_losses_are_named_alike(backend):
    losses = seeded_losses(built(backend), two_rooms())

    assert set(losses) == {"class", "mask", "dice", "pixel"}


@backends
@pytest.mark.slow
def test_two_pictures_are_learned_by_heart(backend):
    segmenter = built(backend).train()
    optimizer = torch.optim.AdamW(segmenter.parameters(), 3e-3)
    labels = two_rooms()
    sums = []

    for _ in range(40):
        total = sum(segmenter.losses(pictures(), labels).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        sums.append(total.item())

    assert sums[-1] < 0.35 * sums[0]
    found = segmenter.class_scores(pictures()).argmax(dim=1)
    assert (found == labels[:, 2::4, 2::4]).float().mean() > 0.85


@backends
def test_the_backbone_is_a_part_of_the_parameters(backend):
    segmenter = built(backend)

    every = {id(parameter) for parameter in segmenter.parameters()}
    backbone = {id(parameter) for parameter in segmenter.backbone_parameters()}

    assert backbone < every
    first_layer = next(segmenter.network.parameters())
    assert id(first_layer) in backbone


@backends
def test_pictures_of_void_alone_teach_nothing(backend):
    segmenter = built(backend)

    losses = seeded_losses(segmenter, torch.full_like(two_rooms(), IGNORE))
    sum(losses.values()).backward()

    assert all(value == 0 for value in losses.values())
    learned = [p for p in segmenter.parameters() if p.requires_grad]
    assert all((parameter.grad == 0).all() for parameter in learned)


@backends
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 30}, r"queries: expected 20 for matching: class, found 30"),
        ({"hidden": 48}, r"hidden: expected a multiple of 32 .*, found 48"),
        ({"heads": 3}, r"heads: expected a divisor of hidden, 32, found 3"),
        (
            {"backbone": "swin", "backbone_heads": [1, 1, 3, 2]},
            r"backbone_heads: expected divisors .*\[8, 16, 32, 64\], found \[1, 1",
        ),
    ],
)
def test_impossible_sizes_are_refused(backend, settings, message):
    with pytest.raises(BadInput, match=f"settings: {message}"):
        backend.build(changed(**settings))


@backends
def test_any_heads_do_for_a_backbone_without_attention(backend):
    settings = changed(backbone="resnet", backbone_heads=[3, 3, 3, 3])
    assert backend.build(settings).backbone_parameters()


# The losses, against those of both libraries and their definition.


def predictions(seed=3):
    torch.manual_seed(seed)
    logits = 2 * torch.randn(2, TINY.queries, 21)
    masks = 2 * torch.randn(2, TINY.queries, 16, 16)
    return Prediction(logits.requires_grad_(), masks.requires_grad_())


def binary_masks(labels):
    """Return each picture's classes and a mask of each, as the libraries want them."""
    for picture in labels:
        classes = picture.unique().long()
        yield classes, torch.stack([picture == value for value in classes]).long()


class EachClassItsQuery(nn.Module):
    def forward(self, masks, logits, mask_labels, class_labels):
        return [(classes, torch.arange(len(classes))) for classes in class_labels]


@pytest.mark.parametrize("matching", ["class", "hungarian"])
def test_losses_are_those_of_transformers_where_nothing_is_void(matching):
    settings = changed(matching=matching, pixel_weight=0.0)
    network = built(mask2former_transformers, settings).network
    library: Mask2FormerLoss = network.criterion
    library.num_points = library.matcher.num_points = settings.points
    library.matcher.cost_class = settings.class_weight
    library.matcher.cost_mask = settings.mask_weight
    library.matcher.cost_dice = settings.dice_weight
    if matching == "class":
        library.matcher = EachClassItsQuery()
    layer, labels = predictions(), two_rooms()
    classes, masks = zip(*binary_masks(labels), strict=True)

    torch.manual_seed(4)
    ours = criterion.losses(settings, [layer], labels)
    torch.manual_seed(4)
    masks = [mask.float() for mask in masks]
    theirs = library(layer.mask_logits, layer.class_logits, masks, classes)

    torch.testing.assert_close(ours["class"], 2 * theirs["loss_cross_entropy"])
    torch.testing.assert_close(ours["mask"], 5 * theirs["loss_mask"])
    torch.testing.assert_close(ours["dice"], 3 * theirs["loss_dice"])


def test_losses_are_those_of_mmdet_where_nothing_is_void():
    from mmdet.registry import TASK_UTILS
    from mmengine.structures import InstanceData

    settings = changed(matching="hungarian", pixel_weight=0.0)
    head = built(mask2former_mmseg, settings).network.decode_head
    costs = [
        {"type": "ClassificationCost", "weight": settings.class_weight},
        {
            "type": "CrossEntropyLossCost",
            "weight": settings.mask_weight,
            "use_sigmoid": True,
        },
        {
            "type": "DiceCost",
            "weight": settings.dice_weight,
            "pred_act": True,
            "eps": 1.0,
        },
    ]
    assigner = {"type": "HungarianAssigner", "match_costs": costs}
    head.assigner = TASK_UTILS.build(assigner)
    head.sampler = TASK_UTILS.build({"type": "MaskPseudoSampler"})
    head.num_points = settings.points
    head.oversample_ratio, head.importance_sample_ratio = 3.0, 0.75
    layer, labels = predictions(), two_rooms()
    truth = [InstanceData(labels=c, masks=m) for c, m in binary_masks(labels)]

    torch.manual_seed(4)
    ours = criterion.losses(settings, [layer], labels)
    torch.manual_seed(4)
    theirs = head._loss_by_feat_single(
        layer.class_logits, layer.mask_logits, truth, [{}, {}]
    )

    parts = head.loss_cls, head.loss_mask, head.loss_dice
    pairs = zip(theirs, parts, strict=True)
    found = [value.squeeze() / part.loss_weight for value, part in pairs]
    torch.testing.assert_close(ours["class"], 2 * found[0])
    torch.testing.assert_close(ours["mask"], 5 * found[1])
    torch.testing.assert_close(ours["dice"], 3 * found[2])


@pytest.mark.parametrize("matching", ["class", "hungarian"])
def test_masks_learn_nothing_where_labels_are_void(matching):
    settings = changed(matching=matching)
    layer, labels = predictions(), two_rooms()
    labels[:, :, 32:] = IGNORE

    losses = criterion.losses(settings, [layer], labels)
    sum(losses.values()).backward()

    gradient = layer.mask_logits.grad.abs().sum(dim=(0, 1, 2))
    # Cells of the mask are 4 pixels wide; interpolation reaches one cell beyond.
    assert (gradient[9:] == 0).all()
    assert (gradient[:8] > 0).all()


def test_what_a_network_says_of_void_changes_no_loss():
    first, labels = predictions(), two_rooms()
    labels[:, :, 32:] = IGNORE
    masks = first.mask_logits.detach().clone()
    masks[..., 9:] = -masks[..., 9:].flip(0)
    second = Prediction(first.class_logits, masks)
    losses = []

    for layer in (first, second):
        torch.manual_seed(5)
        losses.append(criterion.losses(TINY, [layer], labels))

    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name])


@pytest.mark.parametrize("matching", ["class", "hungarian"])
def test_a_picture_of_void_takes_no_part_beside_others(matching, monkeypatch):
    settings, points = changed(matching=matching), torch.rand(1, 64, 2)
    fixed = lambda _count, masks, *_: points.expand(len(masks), -1, -1)  # noqa: E731
    monkeypatch.setattr(criterion, "_uncertain_points", fixed)
    both, labels = predictions(), two_rooms()
    labels[1] = IGNORE
    first = Prediction(both.class_logits[:1], both.mask_logits[:1])

    torch.manual_seed(6)
    expected = criterion.losses(settings, [first], labels[:1])
    torch.manual_seed(6)
    found = criterion.losses(settings, [both], labels)

    torch.testing.assert_close(found, expected)


def test_halves_of_a_batch_teach_what_the_whole_does(monkeypatch):
    # Points are fixed, and `class` matches without drawing any: nothing is random.
    points = torch.rand(1, 64, 2, generator=torch.Generator().manual_seed(7))
    fixed = lambda _count, masks, *_: points.expand(len(masks), -1, -1)  # noqa: E731
    monkeypatch.setattr(criterion, "_uncertain_points", fixed)
    layer, labels = predictions(), two_rooms()
    labels[1] = WALL
    labels[1, :, 20:] = IGNORE

    def gradients(part, means):
        """Return one process's gradients where all agree on `means`, and its own."""
        own = []
        with monkeypatch.context() as patch:

            def mean(value):
                own.append(value)
                return means[len(own) - 1] if means else value

            patch.setattr(criterion, "mean_over_processes", mean)
            found = criterion.losses(
                TINY,
                [Prediction(layer.class_logits[part], layer.mask_logits[part])] * 2,
                labels[part],
            )
        inputs = layer.class_logits, layer.mask_logits
        result = {
            name: torch.autograd.grad(
                value, inputs, retain_graph=True, materialize_grads=True
            )
            for name, value in found.items()
        }
        return result, own

    halves = slice(0, 1), slice(1, 2)
    counts = [gradients(half, None)[1] for half in halves]
    assert counts[0] != counts[1]
    means = [(one + two) / 2 for one, two in zip(*counts, strict=True)]
    first, second = (gradients(half, means)[0] for half in halves)
    whole, _ = gradients(slice(0, 2), None)

    for name, expected in whole.items():
        for one, two, all_of_it in zip(
            first[name], second[name], expected, strict=True
        ):
            torch.testing.assert_close((one + two) / 2, all_of_it, msg=name)


def test_query_i_is_class_i():
    layer, labels = predictions(), two_rooms()

    losses = criterion.losses(changed(pixel_weight=0.0), [layer], labels)
    (losses["mask"] + losses["dice"]).backward()

    learning = layer.mask_logits.grad.abs().sum(dim=(2, 3)) > 0
    assert learning[0].nonzero().ravel().tolist() == [WALL, FLOOR, CHAIR]
    assert learning[1].nonzero().ravel().tolist() == [WALL, FLOOR]


def test_a_perfect_prediction_costs_next_to_nothing():
    labels = two_rooms()
    shares = nn.functional.one_hot(labels[:, 2::4, 2::4].long(), 20)
    shown = shares.any(dim=1).any(dim=1)
    logits = torch.full((2, 20, 21), -20.0)
    for picture, query in itertools.product(range(2), range(20)):
        logits[picture, query, query if shown[picture, query] else 20] = 20
    perfect = Prediction(logits, 40.0 * shares.permute(0, 3, 1, 2) - 20)
    wrong = Prediction(logits.roll(1, dims=2), -perfect.mask_logits)

    losses, most = (criterion.losses(TINY, [p], labels) for p in (perfect, wrong))

    assert losses["class"] < 1e-6
    assert losses["pixel"] < 1e-2
    assert sum(losses.values()) < 0.05 * sum(most.values())


def test_the_pixel_loss_is_the_cross_entropy_of_known_pixels():
    scores = torch.rand(1, 20, 2, 2)
    labels = torch.full((1, 8, 8), IGNORE, dtype=torch.uint8)
    labels[0, :4, :4] = CHAIR
    labels[0, 4:, 4:] = BATHTUB

    loss = criterion.pixel_loss(scores, labels)

    shares = scores[0] / scores[0].sum(dim=0)
    expected = -(shares[CHAIR, 0, 0].log() + shares[BATHTUB, 1, 1].log()) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_hungarian_matching_finds_the_cheapest_pairs():
    cost = torch.rand(1, 5, 20)
    picture, category = torch.zeros(3, dtype=torch.long), torch.tensor([2, 7, 11])

    _, classes, queries = criterion._cheapest(cost, picture, category)

    found = cost[0, queries, classes].sum()
    every = torch.tensor(list(itertools.permutations(range(5), 3)))
    cheapest = cost[0][every, torch.tensor([2, 7, 11])].sum(dim=1).min()
    assert sorted(classes.tolist()) == [2, 7, 11]
    assert found.item() == pytest.approx(cheapest.item())


# Where weights come from.


@backends
def test_a_checkpoint_for_other_classes_is_taken_without_its_head(
    backend, tmp_path, caplog
):
    pretrained = built(backend, seed=7).network.state_dict()
    head = {
        mask2former_mmseg: "decode_head.cls_embed.weight",
        mask2former_transformers: "class_predictor.weight",
    }[backend]
    pretrained[head] = torch.zeros(151, TINY.hidden)
    bias = head.replace("weight", "bias")
    pretrained[bias] = torch.ones(21)  # fits, but is of no use without its weights
    path = tmp_path / "ade20k.pth"
    # mmengine's layout
    torch.save({"state_dict": pretrained, "meta": {"epoch": 3}}, path)

    with caplog.at_level(logging.WARNING):
        network = built(backend, changed(start_from=str(path))).network

    for name, value in network.state_dict().items():
        assert torch.equal(value, pretrained[name]) == (name not in (head, bias)), name
    assert f"{head} is [151, 32], not [21, 32]" in caplog.text
    assert f"{bias}, {head} start at random" in caplog.text


def test_half_a_module_is_not_taken_but_counters_may_be_missing(tmp_path, caplog):
    pretrained = built(mask2former_mmseg, seed=7).network.state_dict()
    half = "decode_head.mask_embed.0"
    pretrained[f"{half}.bias"] = torch.ones(TINY.hidden)
    del pretrained[f"{half}.weight"], pretrained["backbone.bn1.num_batches_tracked"]
    pretrained["backbone.bn1.weight"] = torch.full((8,), 7.0)
    path = tmp_path / "old.pth"
    torch.save(pretrained, path)

    with caplog.at_level(logging.WARNING):
        network = built(mask2former_mmseg, changed(start_from=str(path))).network

    assert (network.backbone.bn1.weight == 7).all()
    assert not (network.decode_head.mask_embed[0].bias == 1).any()
    assert f"{half}.bias, {half}.weight start at random" in caplog.text


@backends
def test_a_checkpoint_of_a_backbone_alone_is_taken(backend, tmp_path):
    source = built(backend, seed=7)
    backbone = {
        mask2former_mmseg: lambda network: network.backbone,
        mask2former_transformers: lambda n: n.model.pixel_level_module.encoder,
    }[backend]
    path = tmp_path / "backbone.safetensors"
    save_file(backbone(source.network).state_dict(), path)

    network = built(backend, changed(start_from=str(path))).network

    for name, value in backbone(source.network).state_dict().items():
        assert torch.equal(value, backbone(network).state_dict()[name]), name


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.zeros(3)}, path)

    with pytest.raises(BadInput, match=r"other\.safetensors.*backbone\.conv1"):
        built(mask2former_mmseg, changed(start_from=str(path)))


@backends
def test_weights_need_nothing_that_their_training_began_with(backend, tmp_path):
    path = tmp_path / "model.safetensors"
    trained = built(backend, seed=7).network.state_dict()
    write_weights(path, trained, {"class_names": json.dumps(CLASS_NAMES)})
    settings = changed(start_from=str(tmp_path / "missing.pth"))

    prior = backend.open_prior(settings, path, CPU)

    for name, value in prior._segmenter.network.state_dict().items():
        assert torch.equal(value, trained[name]), name
    with pytest.raises(BadInput, match=r"missing\.pth"):
        backend.build(settings)


@backends
def test_weights_for_other_classes_are_refused(backend, tmp_path):
    path = tmp_path / "model.safetensors"
    names = [CLASS_NAMES[1], CLASS_NAMES[0], *CLASS_NAMES[2:]]
    write_weights(
        path, built(backend).network.state_dict(), {"class_names": json.dumps(names)}
    )

    with pytest.raises(BadInput, match=r"model\.safetensors: class_names.*wall"):
        backend.open_prior(TINY, path, CPU)


@backends
def test_sources_are_the_files_that_training_starts_from(backend):
    assert backend.sources(TINY) == []
    assert backend.sources(changed(start_from="a/b.pth")) == [Path("a/b.pth")]


def test_a_checkpoint_with_nan_is_refused(tmp_path):
    path, tensors = tmp_path / "nan.pth", built(mask2former_mmseg).network.state_dict()
    tensors["backbone.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(tensors, path)

    with pytest.raises(
        BadInput, match=r"nan\.pth: backbone\.conv1\.weight.*not finite"
    ):
        mask2former_mmseg.build(changed(start_from=str(path)))


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@backends
def test_a_hostile_checkpoint_runs_nothing(backend, tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"state_dict": {"a": Hostile(trace)}}, path)

    with pytest.raises(BadInput, match="safetensors"):
        built(backend, changed(start_from=str(path)))

    assert not trace.exists()


@pytest.mark.parametrize(
    "model", ["mask2former_r50", "../mask2former/x", "/etc/passwd", "evil.py"]
)
def test_only_names_of_the_zoo_are_configs(model):
    with pytest.raises(BadInput, match="mask2former_r50_8xb2-160k_ade20k-512x512"):
        mask2former_mmseg.build(changed(model=model))


def refuse_connections(*_, **__):
    raise AssertionError("a connection to the network")


@pytest.mark.slow
def test_a_model_of_the_zoo_is_built_for_our_classes_without_a_network(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", refuse_connections)
    monkeypatch.setattr(socket.socket, "connect", refuse_connections)
    name = "mask2former_r50_8xb2-160k_ade20k-512x512"

    segmenter = built(mask2former_mmseg, changed(model=name, matching="hungarian"))

    losses = seeded_losses(segmenter, two_rooms())
    assert all(value.isfinite() for value in losses.values())
    with torch.no_grad():
        assert len(segmenter.layers(pictures())) == 10  # nine layers, and the queries
        assert segmenter.eval().class_scores(pictures()).shape == (2, 20, 16, 16)
    with pytest.raises(BadInput, match=r"settings: queries: .* 20 .*, found 100"):
        built(mask2former_mmseg, changed(model=name, matching="class"))


def test_a_local_folder_of_transformers_gives_model_and_weights(tmp_path):
    source = built(mask2former_transformers, changed(decoder_layers=1), seed=7).eval()
    source.network.save_pretrained(tmp_path)

    # The folder decides, not the sizes in the settings.
    settings = changed(model=str(tmp_path), backbone_width=16, mask_channels=8)
    segmenter = built(mask2former_transformers, settings).eval()

    with torch.no_grad():
        expected, found = (s.class_scores(pictures()) for s in (source, segmenter))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folder_in_half_precision_is_trained_in_float32(tmp_path, dtype):
    source = built(mask2former_transformers, seed=7).network.to(dtype)
    source.save_pretrained(tmp_path)

    network = built(mask2former_transformers, changed(model=str(tmp_path))).network

    found, expected = network.state_dict(), source.state_dict()
    for name, value in found.items():
        assert value.dtype in (torch.float32, torch.int64), name
        torch.testing.assert_close(value, expected[name].to(value.dtype))
    embedding = "model.transformer_module.queries_features.weight"
    assert expected[embedding].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_caching_needs_the_config_of_a_folder_alone(tmp_path, dtype):
    folder, path = tmp_path / "folder", tmp_path / "trained.safetensors"
    network = built(mask2former_transformers, changed(decoder_layers=1), 7).network
    write_weights(path, network.state_dict(), {})
    network.to(dtype).save_pretrained(folder)
    settings = changed(model=str(folder))
    config, weights = folder / "config.json", folder / "model.safetensors"
    assert mask2former_transformers.sources(settings) == [config, weights]
    weights.unlink()

    prior = mask2former_transformers.open_prior(settings, path, CPU)

    trained, _ = read_weights(path)
    for name, value in prior._segmenter.network.state_dict().items():
        assert value.dtype == trained[name].dtype, name
        assert torch.equal(value, trained[name]), name
    with pytest.raises(BadInput, match=r"model\.safetensors"):
        mask2former_transformers.build(settings)
    config.write_text("{")
    with pytest.raises(BadInput, match=r"folder: model: expected"):
        mask2former_transformers.open_prior(settings, path, CPU)


def test_a_local_folder_for_other_classes_gets_a_new_head(tmp_path):
    network = built(mask2former_transformers, seed=7).network
    network.class_predictor = nn.Linear(TINY.hidden, 151)
    network.criterion.empty_weight = nn.Buffer(torch.ones(151))
    network.config.num_labels = 150
    network.save_pretrained(tmp_path)

    settings = changed(model=str(tmp_path))
    segmenter = built(mask2former_transformers, settings).eval()

    with torch.no_grad():
        assert segmenter.class_scores(pictures()).shape[1] == len(CLASS_NAMES)
    embedding = "model.transformer_module.queries_features.weight"
    found, source = segmenter.network.state_dict(), network.state_dict()
    assert torch.equal(found[embedding], source[embedding])
    assert found["criterion.empty_weight"].shape == (21,)


@pytest.mark.parametrize("name", ["facebook/mask2former-swin-tiny", "nowhere"])
def test_a_name_that_is_no_folder_is_not_looked_up_anywhere(name, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", refuse_connections)

    with pytest.raises(BadInput, match="save_pretrained"):
        mask2former_transformers.build(changed(model=name))


def test_a_hostile_folder_runs_nothing(tmp_path):
    built(mask2former_transformers).network.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    trace = tmp_path / "trace"
    hostile = {"class_predictor.weight": Hostile(trace)}
    torch.save(hostile, tmp_path / "pytorch_model.bin")

    with pytest.raises(BadInput, match=r"model\.safetensors"):
        mask2former_transformers.build(changed(model=str(tmp_path)))

    assert not trace.exists()


# mmcv without compiled operations.


def bilinear(image, x, y):
    """Read [h, w, c] at (x, y) in [0, 1], zero outside, in loops."""
    height, width, channels = image.shape
    u, v = x * width - 0.5, y * height - 0.5
    total = np.zeros(channels)
    for column, row in itertools.product(
        (math.floor(u), math.floor(u) + 1), (math.floor(v), math.floor(v) + 1)
    ):
        if 0 <= column < width and 0 <= row < height:
            weight = (1 - abs(u - column)) * (1 - abs(v - row))
            total += weight * image[row, column]
    return total


def test_deformable_attention_is_a_weighted_sum_of_samples():
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    rng = np.random.default_rng(0)
    sizes, batch, heads, channels, queries, points = [(4, 6), (2, 3)], 2, 2, 3, 5, 4
    value = rng.normal(size=(batch, 30, heads, channels))
    places = rng.uniform(-0.2, 1.2, (batch, queries, heads, 2, points, 2))
    weights = rng.random((batch, queries, heads, 2, points))

    found = multi_scale_deformable_attn_pytorch(
        torch.from_numpy(value),
        torch.tensor(sizes),
        torch.from_numpy(places),
        torch.from_numpy(weights),
    )

    expected = np.zeros((batch, queries, heads, channels))
    for b, q, h, level, p in np.ndindex(batch, queries, heads, 2, points):
        start = [0, 24][level]
        height, width = sizes[level]
        image = value[b, start : start + height * width, h]
        image = image.reshape(height, width, channels)
        sample = bilinear(image, *places[b, q, h, level, p])
        expected[b, q, h] += weights[b, q, h, level, p] * sample
    np.testing.assert_allclose(found, expected.reshape(batch, queries, -1), atol=1e-12)


def test_an_operation_that_is_missing_says_so_when_called():
    import mmcv.ops

    if not isinstance(sys.modules["mmcv._ext"], mmcv_lite._MissingOperations):
        pytest.skip("mmcv has its compiled operations")

    with pytest.raises(NotImplementedError, match="nms"):
        mmcv.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    assert not hasattr(sys.modules["mmcv._ext"], "__path__")


def test_missing_operations_are_replaced_once(monkeypatch):
    stub = mmcv_lite._MissingOperations("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", stub)
    attention = sys.modules["mmcv.ops.multi_scale_deform_attn"]
    monkeypatch.setattr(attention, "IS_CUDA_AVAILABLE", True)

    mmcv_lite.use_plain_torch_ops()
    mmcv_lite.use_plain_torch_ops()

    assert sys.modules["mmcv._ext"] is stub
    assert attention.IS_CUDA_AVAILABLE is False


def test_compiled_operations_are_left_alone(monkeypatch):
    compiled = ModuleType("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    attention = sys.modules["mmcv.ops.multi_scale_deform_attn"]
    monkeypatch.setattr(attention, "IS_CUDA_AVAILABLE", True)

    mmcv_lite.use_plain_torch_ops()

    assert sys.modules["mmcv._ext"] is compiled
    assert attention.IS_CUDA_AVAILABLE is True


@pytest.mark.slow
def test_mmseg_is_not_kept_waiting_for_transformers():
    program = "import sys, gnesf_core.priors.mask2former_mmseg as _\n"
    program += "assert 'mmdet' in sys.modules and 'transformers' not in sys.modules"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True)

    assert done.returncode == 0, done.stderr.decode()


def test_transformers_can_be_imported_again_afterwards(monkeypatch):
    loaded = sys.modules["transformers"]
    with mmcv_lite.without_transformers():
        assert sys.modules["transformers"] is loaded

    monkeypatch.delitem(sys.modules, "transformers")
    with mmcv_lite.without_transformers(), pytest.raises(ImportError):
        importlib.import_module("transformers")
    assert "transformers" not in sys.modules
