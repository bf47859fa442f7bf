"""Film a flight through one scene, as a method of view synthesis sees it."""

from pathlib import Path

import numpy as np
from PIL import Image

from gnesf_core.config import FlightConfig, SourceViewsConfig
from gnesf_core.data.publish import publish
from gnesf_core.data.rendered import View
from gnesf_core.evaluation.prior import decide
from gnesf_core.progress import Progress
from gnesf_core.shapes import UInt8
from gnesf_core.views.choice import HELD_OUT
from gnesf_core.views.rendering import flight_along, unwound
from gnesf_core.viz.picture import class_colors
from stages.cli import run
from stages.scene_inputs import Segmenter, open_renderer

SCALE = 3  # a small film is shown larger, pixel by pixel
_QUALITY = 80


def main(
    frames: Path,
    weights: Path,
    out: Path,
    module: str,
    recipe: str,
    sources: SourceViewsConfig,
    flight: FlightConfig,
    prior: Path | None = None,
    segmenter: str = "",
    segmenter_recipe: str = "",
    segmenter_weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Write an animated picture of colours beside classes, which browsers play."""
    after = Segmenter(segmenter, segmenter_recipe, segmenter_weights)
    with open_renderer(
        module, recipe, weights, sources, frames, prior, after, device, HELD_OUT
    ) as (renderer, *_):
        way = flight_along(renderer.frames, flight.frames)
        size, progress = (flight.width, flight.height), Progress("frames", len(way))
        pictures = []
        for done, pose in enumerate(way, 1):
            pictures.append(_picture(renderer.render_pose(pose, size)))
            progress.tell(done)
    first, *others = unwound(pictures)
    options = {"duration": 1000 / flight.frames_per_second, "quality": _QUALITY}
    with publish(out) as temporary:
        first.save(
            temporary, "WEBP", save_all=True, append_images=others, loop=0, **options
        )


def _picture(view: View) -> Image.Image:
    classes, _ = decide(view.probabilities, view.known.shape[::-1])
    both: UInt8[np.ndarray, "h w 3"] = np.hstack([view.color, class_colors(classes)])
    return Image.fromarray(both.repeat(SCALE, 0).repeat(SCALE, 1))


if __name__ == "__main__":
    run(main)
