"""Mask2Former by Hugging Face's transformers."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

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
from gnesf_core.priors.segmenter import Segmenter, SegmenterPrior
from gnesf_core.shapes import UInt8

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import: nothing is ever downloaded

import transformers  # noqa: E402
from transformers import (  # noqa: E402
    Mask2FormerForUniversalSegmentation,
    PreTrainedConfig,
)

Settings = Mask2FormerConfig
PACKAGES = ("transformers",)

_STAGES = ["stage1", "stage2", "stage3", "stage4"]


def open_prior(settings: Mask2FormerConfig, weights: Path | None, device: str) -> Prior:
    """Open the network with trained weights, wherever their training began.

    Of a folder only config.json is needed.
    """
    segmenter = _segmenter(settings, _from_config(settings))
    return SegmenterPrior(segmenter, settings, weights, torch.device(device))


def sources(settings: Mask2FormerConfig) -> list[Path]:
    """Return the files whose content decides where training starts."""
    files = start_files(settings)
    if settings.model:
        folder = Path(settings.model)
        files += [folder / "config.json", *sorted(folder.glob("*.safetensors*"))]
    return files


def build(settings: Mask2FormerConfig) -> Segmenter:
    """Build the network; weights are random where nothing is given for them."""
    if settings.model:
        network = _from_folder(Path(settings.model))
    else:
        network = _from_config(settings)
    if settings.start_from:
        encoder = "model.pixel_level_module.encoder."
        start_from(network, Path(settings.start_from), backbone=encoder)
    return _segmenter(settings, network)


def _segmenter(
    settings: Mask2FormerConfig, network: Mask2FormerForUniversalSegmentation
) -> Segmenter:
    _freeze_unused(network)
    return TransformersMask2Former(settings, network, network.config.num_queries)


class TransformersMask2Former(Mask2Former):
    """A Mask2FormerForUniversalSegmentation, without its own losses."""

    def layers(self, pictures: UInt8[Tensor, "b 3 h w"]) -> list[Prediction]:
        """Return what each layer of the decoder predicts, the final one last."""
        output = self.network(normalize(pictures), output_auxiliary_logits=True)
        earlier = [
            Prediction(logits["class_queries_logits"], logits["masks_queries_logits"])
            for logits in output.auxiliary_logits
        ]
        final = Prediction(output.class_queries_logits, output.masks_queries_logits)
        return [*earlier, final]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return what may learn at a slower rate because it is pretrained."""
        return list(self.network.model.pixel_level_module.encoder.parameters())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from doubting backbones other than Swin."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def _freeze_unused(network: Mask2FormerForUniversalSegmentation) -> None:
    """Freeze the last norm of a Swin classifier, which its use as a backbone skips.

    Several processes that train together wait for a gradient of every parameter.
    """
    swin = getattr(network.model.pixel_level_module.encoder, "swin", None)
    if swin is not None:
        swin.layernorm.requires_grad_(False)


def _from_config(settings: Mask2FormerConfig) -> Mask2FormerForUniversalSegmentation:
    """Build a network with random weights."""
    if not settings.model:
        with _quiet():
            return Mask2FormerForUniversalSegmentation(_model(settings))
    folder = Path(settings.model)
    with _quiet(), _refusing(folder):
        return Mask2FormerForUniversalSegmentation(_folder_config(folder))


def _from_folder(folder: Path) -> Mask2FormerForUniversalSegmentation:
    """Load a folder written by `save_pretrained`; heads of other sizes start anew."""
    transformers.logging.disable_progress_bar()
    with _refusing(folder):
        return Mask2FormerForUniversalSegmentation.from_pretrained(
            folder,
            config=_folder_config(folder),
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
        )


def _folder_config(folder: Path) -> transformers.Mask2FormerConfig:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError("no config.json there")
    return transformers.Mask2FormerConfig.from_pretrained(
        folder, local_files_only=True, num_labels=len(CLASS_NAMES)
    )


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Say what is wrong: files of a stranger fail in every way there is."""
    try:
        yield
    except Exception as error:
        raise BadInput(
            folder,
            "model",
            expected="a folder with a Mask2Former's config.json and model.safetensors",
            found=error,
            remedy="save the model there with transformers' save_pretrained",
        ) from None


def _model(settings: Mask2FormerConfig) -> transformers.Mask2FormerConfig:
    """Return a model of the sizes in the settings."""
    check_sizes(settings)
    return transformers.Mask2FormerConfig(
        backbone_config=_backbone(settings),
        feature_size=settings.hidden,
        hidden_dim=settings.hidden,
        mask_feature_size=settings.mask_channels,
        encoder_feedforward_dim=settings.feedforward,
        dim_feedforward=settings.feedforward,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers + 1,  # counts the queries themselves
        num_attention_heads=settings.heads,
        num_queries=settings.queries,
        num_labels=len(CLASS_NAMES),
    )


def _backbone(settings: Mask2FormerConfig) -> PreTrainedConfig:
    if settings.backbone == "resnet":
        width = settings.backbone_width
        return transformers.ResNetConfig(
            embedding_size=width,
            hidden_sizes=[width * 2**stage for stage in range(4)],
            depths=settings.backbone_depths,
            layer_type="basic",
            out_features=_STAGES,
        )
    return transformers.SwinConfig(
        image_size=[settings.image_height, settings.image_width],
        embed_dim=settings.backbone_width,
        depths=settings.backbone_depths,
        num_heads=settings.backbone_heads,
        window_size=settings.window,
        drop_path_rate=settings.drop_path,
        out_features=_STAGES,
    )
