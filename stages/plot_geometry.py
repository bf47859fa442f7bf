"""Picture a scene's geometries beside its true surface, and how far apart they are."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gnesf_core.config import EvaluationConfig
from gnesf_core.data import store
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
from gnesf_core.viz.picture import Viewpoint
from stages.cli import run
from stages.plot_style import plt, write_figure

SIZE = (400, 300)  # hardly more than is shown
WIDTH_INCHES, DPI = 4.2, 84  # of a picture
ROWS = (
    "surface",
    "errors: distance to the truth",
    "missing: distance from the truth",
)
# Light is right, so that shading shows where a surface is good; brightness falls
# steadily, for eyes that tell no colours apart and in print.
WORST_CM = 10.0
DISTANCE = ScalarMappable(Normalize(0, WORST_CM), plt.get_cmap("magma_r"))
FACET_M = 0.08  # longer edges are cut
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
    # Points cannot hide a bad place to stand: a mesh decides where there is one.
    framed = max([true_surface, *surfaces], key=lambda surface: len(surface[1]) > 0)
    viewpoint = picture.inside_viewpoint(*framed, *SIZE)
    figure, cells = _grid(len(surfaces) + 1)
    true_facets = _facets(true_surface)
    _draw(cells[0, -1], true_facets, _in_plaster(true_facets), viewpoint)
    for column, surface in zip(cells.T, surfaces, strict=False):
        facets = _facets(surface)
        _draw(column[0], facets, _in_plaster(facets), viewpoint)
        _draw(column[1], facets, _by_distance(facets, true_surface), viewpoint)
        missing = _by_distance(true_facets, surface)
        _draw(column[2], true_facets, missing, viewpoint)
    titles = [
        f"{name}\nF-score {fixed(score['trimmed']['f_score'])}"
        for name, score in zip(geometries, scores, strict=True)
    ]
    titles.append("ground truth" if len(true_facets) else "ground truth: points only")
    for cell, title in zip(cells[0], titles, strict=True):
        cell.set_title(title, fontsize=12)
    _explain(figure, cells[1, -1], config)
    figure.suptitle(scene, fontsize=12)
    write_figure(figure, out, DPI)


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


def _facets(surface: Surface) -> np.ndarray:
    """Return the corners of every triangle, [n, 3, 3]; large ones are cut in four.

    A facet has one colour: those of a wall of two triangles would say nothing.
    """
    vertices, faces = surface
    corners = np.asarray(vertices, np.float64)[faces]
    done = []
    while len(corners):
        following = np.roll(corners, -1, axis=1)
        large = np.linalg.norm(following - corners, axis=2).max(axis=1) > FACET_M
        done.append(corners[~large])
        middles = (corners + following)[large] / 2
        a, b, c = corners[large].swapaxes(0, 1)
        ab, bc, ca = middles.swapaxes(0, 1)
        parts = (a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)
        corners = np.concatenate([np.stack(part, axis=1) for part in parts])
    return np.concatenate(done) if done else corners


def _in_plaster(facets: np.ndarray) -> np.ndarray:
    """Return a tone for each facet by where it faces, so that shape shows."""
    edges = facets[:, 1:] - facets[:, :1]
    squares = np.cross(edges[:, 0], edges[:, 1]) ** 2
    tone = squares @ BRIGHTNESS / np.maximum(squares.sum(axis=1), 1e-30)
    return np.rint(tone[:, None] * PLASTER).astype(np.uint8)


def _by_distance(facets: np.ndarray, other: Surface) -> np.ndarray:
    """Return a colour for each facet by its distance to another surface."""
    points = dense_points(*other, SPACING_M)
    distance_m = np.full(len(facets), np.inf)
    if len(points):
        distance_m = nearest_points(points, facets.mean(axis=1))[1]
    return DISTANCE.to_rgba(100 * distance_m, bytes=True)[:, :3]


def _draw(
    cell: Axes, facets: np.ndarray, colors: np.ndarray, viewpoint: Viewpoint
) -> None:
    own = np.arange(3 * len(facets)).reshape(-1, 3)
    colors = np.repeat(colors, 3, axis=0)
    cell.imshow(picture.render_mesh(facets.reshape(-1, 3), own, colors, viewpoint))


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
