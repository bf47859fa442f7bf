"""What cameras see by some method: classes, colours and depths, one file per scene."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gnesf_core.data.container import Container, ContainerWriter, write_container
from gnesf_core.data.store import Frames
from gnesf_core.labels import CLASS_NAMES
from gnesf_core.shapes import Bool, Float32, Int64, UInt8


class View(NamedTuple):
    """What is seen through the pixel centres of a picture."""

    probabilities: UInt8[np.ndarray, "classes h w"]  # in 1/255, as a prior's; 0 = none
    color: UInt8[np.ndarray, "h w 3"]
    depth_m: Float32[np.ndarray, "h w"]  # z of the camera; 0 = it sees nothing
    known: Bool[np.ndarray, "h w"]  # pixels of which the method says something
    sources: tuple[int, ...]  # positions of the frames that were looked at


class ViewsWriter:
    """Streams the rendered views of a scene into a `views` file."""

    def __init__(
        self, writer: ContainerWriter, count: int, size: tuple[int, int]
    ) -> None:
        rows = size[::-1]
        shapes = {
            "probabilities": ((len(CLASS_NAMES), *rows), "u1"),
            "color": ((*rows, 3), "u1"),
            "depth_m": (rows, "<f4"),
            "known": (rows, "u1"),
        }
        self._writer, self.written = writer, 0
        self._datasets = {
            name: writer.frames(name, count, *kind) for name, kind in shapes.items()
        }

    def add(self, view: View) -> None:
        """Append a view."""
        for name, dataset in self._datasets.items():
            self._writer.put(dataset, self.written, getattr(view, name))
        sources = np.array(view.sources, np.int64)
        self._writer.array(f"sources/{self.written}", sources)
        self.written += 1


@contextmanager
def write_views(
    path: Path,
    frames: Frames,
    positions: list[int],
    size: tuple[int, int],
    made_by: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Iterator[ViewsWriter]:
    """Publish a `views` file of frames' cameras; `about` says by whom, from what."""
    with write_container(path, "views", frames.scene, made_by) as writer:
        writer.array("positions", np.array(positions, np.int64))
        writer.file.create_group("about")
        writer.attributes("about", **about)
        views = ViewsWriter(writer, len(positions), size)
        yield views
        if views.written != len(positions):
            raise ValueError(f"{views.written} views of {len(positions)} are written")


class Views(Container):
    """Rendered views of one scene, in the order of `positions`, frames of `frames`."""

    def __init__(self, path: Path, frames: Frames) -> None:
        super().__init__(path, "views", frames.scene)
        self.expect_input("frames", frames.fingerprint)
        self.positions: Int64[np.ndarray, " n"] = self.array(
            "positions", "<i8", (None,)
        )
        count = len(self.positions)
        if not (np.isin(self.positions, np.arange(len(frames)))).all():
            self._refuse("positions", f"below {len(frames)}", self.positions.tolist())
        self._color = self.dataset("color", "u1", (count, None, None, 3))
        rows = self._color.shape[1:3]
        self._probabilities = self.dataset(
            "probabilities", "u1", (count, len(CLASS_NAMES), *rows)
        )
        self._depth_m = self.dataset("depth_m", "<f4", (count, *rows))
        self._known = self.dataset("known", "u1", (count, *rows))
        self.size: tuple[int, int] = rows[::-1]
        about = self.attributes("about")
        self.about: dict[str, int | str] = {
            name: value if isinstance(value, str) else int(value)
            for name, value in about.items()
        }

    def __len__(self) -> int:
        return len(self.positions)

    def view(self, number: int) -> View:
        """Return one of them."""
        return View(
            self.frame(self._probabilities, number),
            self.frame(self._color, number),
            self.frame(self._depth_m, number),
            self.frame(self._known, number).astype(bool),
            tuple(self.array(f"sources/{number}", "<i8", (None,)).tolist()),
        )
