"""Mask2Former by OpenMMLab: mmsegmentation's EncoderDecoder with mmdet's head."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gnesf_core.config import Mask2FormerConfig
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.nets.pictures import normalize
from gnesf_core.priors.criterion import Prediction
from gnesf_core.priors.interface import Prior
from gnesf_core.priors.mask2former import (
    Mask2Former,
    check_sizes,
    start_files,
    start_from,
)
from gnesf_core.priors.mmcv_lite import use_plain_torch_ops, without_transformers
from gnesf_core.priors.segmenter import Segmenter, SegmenterPrior
from gnesf_core.shapes import UInt8

with without_transformers():
    use_plain_torch_ops()  # before anything imports mmcv.ops
    import mmdet.models  # noqa: F401  registers the pixel decoder

import mmseg  # noqa: E402
from mmengine.config import Config, ConfigDict  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmseg.models.backbones import ResNet  # noqa: E402
from mmseg.models.backbones.resnet import BasicBlock  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402

Settings = Mask2FormerConfig
PACKAGES = ("mmsegmentation", "mmdet", "mmengine", "mmcv", "mmcv-lite")

# mmdet's grid of reference points is written for an older torch.
warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)

_ZOO = Path(mmseg.__file__).parent / ".mim" / "configs" / "mask2former"


def open_prior(settings: Mask2FormerConfig, weights: Path | None, device: str) -> Prior:
    """Open the network with trained weights, wherever their training began."""
    segmenter = build(replace(settings, start_from=""))
    return SegmenterPrior(segmenter, settings, weights, torch.device(device))


def sources(settings: Mask2FormerConfig) -> list[Path]:
    """Return the files whose content decides where training starts."""
    return start_files(settings)


def build(settings: Mask2FormerConfig) -> Segmenter:
    """Build the network; weights are random where `start_from` has none for them."""
    config = _zoo_model(settings) if settings.model else _model(settings)
    with _quiet():
        network = MODELS.build(config)
        network.init_weights()
    if settings.start_from:
        start_from(network, Path(settings.start_from), backbone="backbone.")
    return MmsegMask2Former(settings, network, network.decode_head.num_queries)


class MmsegMask2Former(Mask2Former):
    """An EncoderDecoder whose head is a Mask2FormerHead."""

    def layers(self, pictures: UInt8[Tensor, "b 3 h w"]) -> list[Prediction]:
        """Return what each layer of the decoder predicts, the final one last."""
        features = self.network.extract_feat(normalize(pictures))
        outputs = zip(*self.network.decode_head(features, None), strict=True)
        return [Prediction(classes, masks) for classes, masks in outputs]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return what may learn at a slower rate because it is pretrained."""
        return list(self.network.backbone.parameters())


class BasicResNet(ResNet):
    """A ResNet of basic blocks with any number of them per stage."""

    def __init__(self, blocks: list[int], width: int) -> None:
        self.arch_settings = {0: (BasicBlock, tuple(blocks))}
        super().__init__(depth=0, stem_channels=width, base_channels=width)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep mmengine from listing every parameter that it initialises."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _zoo_model(settings: Mask2FormerConfig) -> ConfigDict:
    """Return a model of the library's zoo, for our classes and without downloads.

    Only names are accepted: a config is Python code, and a path could lead anywhere.
    """
    names = sorted(path.stem for path in _ZOO.glob("*.py"))
    if settings.model not in names:
        raise BadInput(
            "settings",
            "model",
            expected=f"a Mask2Former of mmsegmentation: {', '.join(names)}",
            found=repr(settings.model),
            remedy="name one of them; weights from a file go to start_from",
        )
    model = Config.fromfile(_ZOO / f"{settings.model}.py").model
    model.data_preprocessor = None
    model.decode_head.num_classes = len(CLASS_NAMES)
    model.decode_head.train_cfg = None  # matching and sampling are ours
    model.decode_head.loss_cls.class_weight = _class_weights(settings)
    _make_local(model)
    return model


def _make_local(config: Any) -> None:
    """Drop downloads of weights, and norms that need several processes."""
    for item in config if isinstance(config, list | tuple) else []:
        _make_local(item)
    if not isinstance(config, dict):
        return
    config.pop("pretrained", None)
    if "Pretrained" in str(config.get("init_cfg")):
        config.pop("init_cfg")
    if config.get("type") == "SyncBN":
        config["type"] = "BN"
    for value in config.values():
        _make_local(value)


def _class_weights(settings: Mask2FormerConfig) -> list[float]:
    return [1.0] * len(CLASS_NAMES) + [settings.no_object_weight]


def _model(settings: Mask2FormerConfig) -> ConfigDict:
    """Return a model of the sizes in the settings."""
    check_sizes(settings)
    channels = [settings.backbone_width * 2**stage for stage in range(4)]
    return ConfigDict(
        type="EncoderDecoder",
        backbone=_backbone(settings),
        decode_head=_head(settings, channels),
    )


def _backbone(settings: Mask2FormerConfig) -> dict[str, Any]:
    if settings.backbone == "resnet":
        return {
            "type": BasicResNet,
            "blocks": settings.backbone_depths,
            "width": settings.backbone_width,
        }
    return {
        "type": "SwinTransformer",
        "embed_dims": settings.backbone_width,
        "depths": settings.backbone_depths,
        "num_heads": settings.backbone_heads,
        "window_size": settings.window,
        "drop_path_rate": settings.drop_path,
    }


def _head(settings: Mask2FormerConfig, channels: list[int]) -> dict[str, Any]:
    """Return the pixel decoder and the transformer decoder as they are published."""
    hidden = settings.hidden
    attention = {"embed_dims": hidden, "num_heads": settings.heads, "batch_first": True}
    feedforward = {
        "embed_dims": hidden,
        "feedforward_channels": settings.feedforward,
        "num_fcs": 2,
        "act_cfg": {"type": "ReLU", "inplace": True},
    }
    positions = {"num_feats": hidden // 2, "normalize": True}
    encoder = {
        "num_layers": settings.encoder_layers,
        "layer_cfg": {
            "self_attn_cfg": attention | {"num_levels": 3, "dropout": 0.0},
            "ffn_cfg": feedforward,
        },
    }
    decoder = {
        "return_intermediate": True,
        "num_layers": settings.decoder_layers,
        "layer_cfg": {
            "self_attn_cfg": attention,
            "cross_attn_cfg": attention,
            "ffn_cfg": feedforward,
        },
    }
    return {
        "type": "Mask2FormerHead",
        "in_channels": channels,
        "strides": [4, 8, 16, 32],
        "feat_channels": hidden,
        "out_channels": settings.mask_channels,
        "num_classes": len(CLASS_NAMES),
        "num_queries": settings.queries,
        "num_transformer_feat_level": 3,
        "pixel_decoder": {
            "type": "mmdet.MSDeformAttnPixelDecoder",
            "num_outs": 3,
            "norm_cfg": {"type": "GN", "num_groups": 32},
            "encoder": encoder,
            "positional_encoding": positions,
        },
        "positional_encoding": positions,
        "transformer_decoder": decoder,
        "loss_cls": {
            "type": "mmdet.CrossEntropyLoss",
            "class_weight": _class_weights(settings),
        },
    }
