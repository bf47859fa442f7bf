"""Score rendered views of held-out frames against their 2D labels and pictures.

A class map is judged as a prior's is: brought to the size of the labels before
anything is decided. A ray that hits nothing, or only what no source view sees, has no
class and counts against the true one. Colours are compared at the rendered size, where
there are any.
"""

import math
from collections.abc import Mapping

import numpy as np

from gnesf_core.data.rendered import View
from gnesf_core.data.store import Frames
from gnesf_core.errors import BadInput
from gnesf_core.evaluation import prior, semantics
from gnesf_core.evaluation.image_quality import Distance, image_scores
from gnesf_core.geometry.camera import nearest_pixels
from gnesf_core.labels import IGNORE
from gnesf_core.nets.pictures import frame_picture
from gnesf_core.shapes import UInt8

_ROUNDING = 1 / 12  # mean square by which whole numbers miss what they stand for


def score_views(
    views: Mapping[int, View],
    frames: Frames,
    quality: str = "gnesf",
    lpips: Distance | None = None,
) -> dict[str, object]:
    """Score views, by position of their frames, as plain values ready for JSON.

    `quality` names the protocol by which pictures are compared.
    """
    if not frames.has_labels:
        raise BadInput(
            frames.path,
            "labels",
            expected="2D labels to score views against",
            found="none",
            remedy="score views of scenes that come with labels",
        )
    counts = np.zeros((semantics.CLASSES + 1,) * 2, np.int64)
    lines = []
    for position, view in views.items():
        own = semantics.confusion(frames.labels(position), classes_of(view, frames))
        counts += own
        line = {"index": int(frames.index[position])} | prior.image_scores(own)
        line |= _picture_scores(view, frames, position)
        lines.append(line | _image_scores(view, frames, position, quality, lpips))
    return {
        "frames": lines,
        "frames_without_truth": sum(line["pixels"] == 0 for line in lines),
        "confusion": counts.tolist(),
        "semantics": semantics.scannet_scores(counts),
        "rays": sum(line["rays"] for line in lines),
        "rays_rendered": sum(line["rays_rendered"] for line in lines),
    }


def classes_of(view: View, frames: Frames) -> UInt8[np.ndarray, "h w"]:
    """Return a view's classes at the size of the labels; `IGNORE` where it has none.

    Interpolated maps would cover gaps: a pixel in one that is not known has no class.
    """
    labels, _ = prior.decide(view.probabilities, frames.color_size)
    rows, columns = nearest_pixels(view.known.shape[::-1], frames.color_size)
    return np.where(view.known[rows[:, None], columns], labels, IGNORE)


def _picture_scores(view: View, frames: Frames, position: int) -> dict[str, object]:
    height, width = view.known.shape
    picture = frame_picture(frames, position, (width, height)).permute(1, 2, 0).numpy()
    return {
        "rays": int(view.known.size),
        "rays_rendered": int(np.count_nonzero(view.known)),
        "psnr_db": psnr_db(view.color[view.known], picture[view.known]),
        "sources": [int(frames.index[source]) for source in view.sources],
    }


def _image_scores(
    view: View, frames: Frames, position: int, quality: str, lpips: Distance | None
) -> dict[str, float | None]:
    """Compare all of a view's colours with the picture, unseen pixels and all."""
    height, width = view.known.shape
    truth = frame_picture(frames, position, (width, height)).permute(1, 2, 0).numpy()
    known = None
    if frames.has_depth:
        rows, columns = nearest_pixels(frames.depth_size, (width, height))
        known = frames.depth_m(position)[rows[:, None], columns] > 0
    color = view.color.astype(np.float32) / 255
    scores = image_scores(quality, color, truth, known, lpips)
    return {"full_psnr_db": scores.pop("psnr_db")} | scores


def psnr_db(
    color: UInt8[np.ndarray, "n 3"], truth: UInt8[np.ndarray, "n 3"]
) -> float | None:
    """Return the peak signal-to-noise ratio of pixels; `None` of no pixel.

    Equal bytes are no further apart than rounding leaves them, which is 58.9 dB.
    """
    if len(color) == 0:
        return None
    error = np.square(color.astype(np.float64) - truth).mean()
    return 10 * math.log10(255**2 / max(float(error), _ROUNDING))
