"""Picture a scene's geometries beside its true surface, and how far apart they are."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gnesf_core.config import EvaluationConfig
from gnesf_core.data import store
from gnesf_core.data.publish import publish
from gnesf_core.evaluation.geometry import nearest_points
from gnesf_core.evaluation.tables import fixed
from gnesf_core.evaluation.volume import (
    Surface,
    read_truth,
    surface_of,
    surface_scores,
)
from gnesf_core.geometry.mesh import dense_points
from gnesf_core.viz import picture
from stages.cli import run
from stages.plot_style import plt

SIZE = (480, 360)
WIDTH_INCHES, DPI = 4.2, 110  # of a picture
ROWS = (
    "surface",
    "errors: distance to the truth",
    "missing: distance from the truth",
)
# Light is right, so that shading shows where a surface is good; brightness falls
# steadily, for eyes that tell no colours apart and in print.
WORST_CM = 10.0
DISTANCE = ScalarMappable(Normalize(0, WORST_CM), plt.get_cmap("magma_r"))
SPACING_M = 0.01  # of the points that colours measure distances to
PLASTER = np.array([228, 225, 219.0])
BRIGHTNESS = np.array([0.84, 0.7, 1.0])  # of what faces along each axis of the world


def main(
    volumes: list[Path],
    frames: Path,
    truth: Path,
    out: Path,
    geometries: list[str],
    config: EvaluationConfig,
) -> None:
    """Draw each surface, what is wrong about it, and what it misses of the truth."""
    true_surface = read_truth(truth)
    with store.Frames(frames) as kept:
        surfaces = [_read_surface(path, kept) for path in volumes]
        scores = [surface_scores(s, true_surface, kept, config) for s in surfaces]
        scene = kept.scene
    shown = [*surfaces, true_surface]
    # Points cannot hide a bad place to stand: a mesh decides where there is one.
    framed = max([true_surface, *surfaces], key=lambda surface: len(surface[1]) > 0)
    viewpoint = picture.inside_viewpoint(*framed, *SIZE)
    figure, cells = _grid(len(shown))
    for cell, surface in zip(cells[0], shown, strict=True):
        cell.imshow(picture.render_mesh(*_in_plaster(surface), viewpoint))
    for column, surface in zip(cells[1:].T, surfaces, strict=False):
        pairs = (surface, true_surface), (true_surface, surface)
        for cell, pair in zip(column, pairs, strict=True):
            cell.imshow(picture.render_mesh(*_by_distance(*pair), viewpoint))
    for cell, name, score in zip(cells[0], geometries, scores, strict=False):
        f_score = fixed(score["trimmed"]["f_score"])
        cell.set_title(f"{name}\nF-score {f_score}", fontsize=12)
    only_points = "" if len(true_surface[1]) else "\n(points only)"
    cells[0, -1].set_title(f"ground truth{only_points}", fontsize=12)
    _explain(figure, cells[1, -1], config)
    figure.suptitle(scene, fontsize=12)
    with publish(out) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _read_surface(path: Path, kept: store.Frames) -> Surface:
    with store.VolumeFile(path, kept) as file:
        return surface_of(file.volume().surface)


def _grid(columns: int) -> tuple[Figure, np.ndarray]:
    height_inches = WIDTH_INCHES * SIZE[1] / SIZE[0]
    size = WIDTH_INCHES * columns, len(ROWS) * height_inches + 0.9
    figure, cells = plt.subplots(len(ROWS), columns, squeeze=False, figsize=size)
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0, hspace=0)
    for cell in cells.flat:
        cell.set_axis_off()
    for cell, name in zip(cells[:, 0], ROWS, strict=True):
        cell.text(
            -0.02, 0.5, name, fontsize=11, rotation=90, ha="right", va="center",
            transform=cell.transAxes,
        )  # fmt: skip
    return figure, cells


def _in_plaster(surface: Surface) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give every triangle corners and a tone of its own, so that facets show."""
    vertices, faces = surface
    corners = np.asarray(vertices, np.float64)[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    squares = normal**2
    tone = squares @ BRIGHTNESS / np.maximum(squares.sum(axis=1), 1e-30)
    colors = np.repeat(np.rint(tone[:, None] * PLASTER).astype(np.uint8), 3, axis=0)
    own = np.arange(3 * len(faces)).reshape(-1, 3)
    return corners.reshape(-1, 3), own, colors


def _by_distance(
    surface: Surface, other: Surface
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour a surface by the distance of its vertices to another one."""
    vertices, faces = surface
    points = dense_points(*other, SPACING_M)
    distance_m = np.full(len(vertices), np.inf)
    if len(points):
        distance_m = nearest_points(points, vertices)[1]
    colors = DISTANCE.to_rgba(100 * distance_m, bytes=True)[:, :3]
    return vertices, faces, colors


def _explain(figure: Figure, cell: Axes, config: EvaluationConfig) -> None:
    """Say what colours and titles mean, in the cell that is left over."""
    bar = cell.inset_axes((0.1, 0.6, 0.8, 0.07))
    figure.colorbar(DISTANCE, bar, orientation="horizontal", extend="max")
    bar.set_xlabel("distance (cm)", fontsize=10)
    cell.text(
        0.1, 0.3,
        f"F-score: within {100 * config.threshold_m:g} cm,\n"
        "where the depth camera saw",
        fontsize=10, va="top", transform=cell.transAxes,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
