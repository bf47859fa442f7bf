"""A network that segments pictures, and its use as a prior."""

import contextlib
import itertools
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gnesf_core.config import Mask2FormerConfig
from gnesf_core.data.publish import sha256_of
from gnesf_core.data.store import Frames
from gnesf_core.errors import BadInput
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.nets.pictures import resize_picture
from gnesf_core.shapes import Float, Float32, UInt8
from gnesf_core.training.weights import load_into

STRIDE = 4  # Mask2Former has masks at a quarter of its input's size


class Segmenter(nn.Module, ABC):
    """A network from pictures to class scores, with the losses it is trained by.

    Pictures are RGB, 0..255; the network normalises them itself. `network` is the
    library's own module: weights are stored under the library's own names, so that its
    users' checkpoints fit.
    """

    network: nn.Module

    @abstractmethod
    def class_scores(
        self, pictures: UInt8[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b classes h4 w4"]:
        """Return scores >= 0 at a quarter of the size; void has no channel."""

    @abstractmethod
    def losses(
        self, pictures: UInt8[Tensor, "b 3 h w"], labels: UInt8[Tensor, "b h w"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return weighted losses, to be added; pixels of `IGNORE` take no part."""

    @abstractmethod
    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return what may learn at a slower rate because it is pretrained."""


class SegmenterPrior:
    """A trained segmenter as a prior."""

    def __init__(
        self,
        segmenter: Segmenter,
        settings: Mask2FormerConfig,
        weights: Path,
        device: torch.device,
    ) -> None:
        _check_classes(weights, load_into(segmenter.network, weights))
        self._segmenter = segmenter.to(device).eval()
        self._settings = settings
        self._device = device
        self._weights_sha256 = sha256_of(weights)

    def map_size(self, frames: Frames) -> tuple[int, int]:
        """Return the size of the network's masks."""
        width, height = self._settings.image_width, self._settings.image_height
        return width // STRIDE, height // STRIDE

    def inputs(self, frames: Frames) -> dict[str, str]:
        """Return the digest of the weights."""
        return {"weights": self._weights_sha256}

    def scores(
        self, frames: Frames, start: int
    ) -> Iterator[Float32[np.ndarray, "classes h w"]]:
        """Yield class scores, batch by batch, while later frames are being decoded."""
        pictures = self._pictures(frames, start)
        while batch := list(itertools.islice(pictures, self._settings.batch)):
            yield from self._class_scores(torch.stack(batch))

    def segment(
        self, picture: UInt8[np.ndarray, "h w 3"]
    ) -> Float32[np.ndarray, "classes mh mw"]:
        """Return the class scores of any picture, such as a rendered one."""
        size = self._settings.image_width, self._settings.image_height
        return self._class_scores(resize_picture(picture, *size)[None])[0]

    def _class_scores(
        self, pictures: UInt8[Tensor, "b 3 h w"]
    ) -> Float32[np.ndarray, "b classes mh mw"]:
        pictures = pictures.to(self._device, non_blocking=True)
        with torch.inference_mode(), self._mixed_precision():
            scores = self._segmenter.class_scores(pictures)
        return scores.float().cpu().numpy()

    def _mixed_precision(self) -> torch.autocast:
        """Compute in bf16 on GPUs that have it, and never on a CPU."""
        on_gpu = self._device.type == "cuda"
        able = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.autocast(self._device.type, torch.bfloat16, enabled=able)

    def _pictures(self, frames: Frames, start: int) -> Iterator[UInt8[Tensor, "3 h w"]]:
        size = self._settings.image_width, self._settings.image_height

        def picture(position: int) -> UInt8[Tensor, "3 h w"]:
            return resize_picture(frames.color(position), *size)

        positions = iter(range(start, len(frames)))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            first = itertools.islice(positions, 2 * self._settings.batch)
            ahead = deque(pool.submit(picture, position) for position in first)
            while ahead:
                yield ahead.popleft().result()
                for position in itertools.islice(positions, 1):
                    ahead.append(pool.submit(picture, position))


def _check_classes(weights: Path, metadata: Mapping[str, str]) -> None:
    """Refuse weights that say they are for other classes, or in another order."""
    found = metadata.get("class_names")
    with contextlib.suppress(TypeError, ValueError):
        found = json.loads(found)
    if found not in (None, list(CLASS_NAMES)):
        raise BadInput(
            weights,
            "class_names",
            expected=", ".join(CLASS_NAMES),
            found=found,
            remedy="take weights that were trained for these classes",
        )
