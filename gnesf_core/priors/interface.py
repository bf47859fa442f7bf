"""What the pipeline asks of a prior: class scores of a scene's kept frames.

A prior's module in this folder has `Settings` (a dataclass), `open_prior` as below, and
`PACKAGES`, the libraries whose versions its results should name. Modules of priors that
are trained also have `build(settings) -> Segmenter` and `sources(settings)`, the files
that training starts from. A recipe names its module; nothing imports them all.

    def open_prior(settings, weights: Path | None, device: str) -> Prior

`device` is a name, such as cpu: only priors that compute with torch wait for it.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from gnesf_core.data.store import Frames
from gnesf_core.shapes import Float32


@runtime_checkable
class Prior(Protocol):
    """Estimates, or knows, the classes in a scene's frames."""

    def map_size(self, frames: Frames) -> tuple[int, int]:
        """Return width and height of the maps; they cover the whole colour image."""
        ...

    def inputs(self, frames: Frames) -> dict[str, str]:
        """Return fingerprints of what else the maps are made of, such as weights."""
        ...

    def scores(
        self, frames: Frames, start: int
    ) -> Iterator[Float32[np.ndarray, "classes h w"]]:
        """Yield the maps of kept frames `start`, `start + 1`, ... to the last.

        Scores are >= 0; their share of a pixel's sum is the class's probability. A
        pixel of zeros says that nothing is known.
        """
        ...
