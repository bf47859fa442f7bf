"""Picture what a field makes of its prior, and how views vote where they disagree."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import SubFigure
from matplotlib.patches import Patch, Rectangle

from gnesf_core.config import NeuconConfig
from gnesf_core.data import store
from gnesf_core.data.meshes import LabelledMesh, expect_input, read_mesh
from gnesf_core.data.scannet import read_mesh_labels
from gnesf_core.evaluation import prior as scoring
from gnesf_core.evaluation.geometry import nearest_points
from gnesf_core.fields.gnesf import ViewVote
from gnesf_core.fields.interface import Field, SceneInputs
from gnesf_core.geometry.raycast import Caster, make_caster
from gnesf_core.labels import CLASS_NAMES, IGNORE, train_ids_from_nyu40
from gnesf_core.spread import spread
from gnesf_core.viz import votes
from gnesf_core.viz.picture import class_colors
from stages.cli import device_named, run
from stages.plot_style import DPI, WIDTH_INCHES, class_legend, plt, write_figure
from stages.scene_inputs import open_field, scene_inputs

TITLES = ("picture", "prior", "field", "ground truth", "verdict", "confidence")
ROWS, CROPS = 4, 8
MOST_PIXELS_WIDE = 640  # of a frame; cells are far smaller
VERDICTS = {
    votes.UNJUDGED: ("no true class", "#ffffff"),
    votes.BOTH_RIGHT: ("both right", "#dcdcdc"),
    votes.CORRECTED: ("corrected: only the field is right", "#0072B2"),
    votes.SPOILT: ("spoilt: only the prior is right", "#D55E00"),
    votes.BOTH_WRONG: ("both wrong", "#5a5a5a"),
    votes.UNANSWERED: ("the field says nothing", "#F7F0A8"),
}
# Bright is sure, as doubt is bright in pictures of priors: the scale is another.
SURENESS = ScalarMappable(
    Normalize(0, 1), plt.get_cmap("viridis").with_extremes(bad="0.8")
)
MOST_POINTS = 2000  # among which the most disputed one is sought
LEAST_VIEWS = 5  # that see it
TRUTH_WITHIN_M = 0.05  # of a point, else it has no true class
CROP = 0.5  # of the picture's height
LUMINANCE, DARK = np.array([0.299, 0.587, 0.114]), 0.5


@dataclass(frozen=True)
class Disputed:
    """The point on which views disagree most."""

    votes: Sequence[ViewVote]  # the weightiest first
    label: int  # what the field says
    confidence: float
    truth: int


def main(
    frames: Path,
    volume: Path,
    prior: Path,
    mesh: Path,
    truth: Path,
    out: Path,
    field: str,
    module: str,
    recipe: str,
    features: Path | None = None,
    encoder: NeuconConfig | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Draw a few frames as prior and field see them, and the votes on one point.

    `mesh` is the field's, `truth` the raw labelled mesh; the rest is as for a mesh.
    """
    where = device_named(device)
    opened, config, _ = open_field(module, recipe, encoder, weights, where)
    labelled, about = read_mesh(mesh)
    opening = scene_inputs(frames, volume, prior, features, about["scene"])
    with opening as (scene, made_from):
        for role, fingerprint in (made_from | opened.inputs()).items():
            expect_input(mesh, about, role, fingerprint)
        disputed = _most_disputed(opened, config, scene, labelled, truth)
        _draw(scene, labelled, disputed, field, out)


def _most_disputed(
    field: Field, config: Any, scene: SceneInputs, mesh: LabelledMesh, truth: Path
) -> Disputed | None:
    """Return the most disputed of a subsample of vertices that have a true class."""
    explains = hasattr(field, "explain_each")
    if not explains or getattr(config, "vote", None) == "direct":
        return None
    points, _, nyu40 = read_mesh_labels(truth)
    if min(len(points), len(mesh.vertices_world)) == 0:
        return None
    nearest, distance_m = nearest_points(points, mesh.vertices_world)
    true_labels = train_ids_from_nyu40(nyu40)[nearest]
    judged = (true_labels != IGNORE) & (distance_m <= TRUTH_WITHIN_M)
    vertices = np.flatnonzero(judged)
    if len(vertices) == 0:
        return None
    vertices = vertices[spread(len(vertices), MOST_POINTS)]
    told = field.explain_each(mesh.vertices_world[vertices], scene)
    said = [_said(own) for own in told]
    place = votes.most_disputed(said, LEAST_VIEWS)
    if place is None:
        return None
    vertex = vertices[place]
    label, confidence = int(mesh.label[vertex]), float(mesh.confidence[vertex])
    return Disputed(told[place], label, confidence, int(true_labels[vertex]))


def _said(own: Sequence[ViewVote]) -> np.ndarray:
    shares = np.array([vote.probabilities for vote in own], np.float32)
    return shares.reshape(-1, len(CLASS_NAMES))


def _draw(
    scene: SceneInputs,
    mesh: LabelledMesh,
    disputed: Disputed | None,
    name: str,
    out: Path,
) -> None:
    kept = scene.frames
    keys = np.flatnonzero(kept.is_key if kept.is_key.any() else kept.is_view)
    positions = keys[spread(len(keys), ROWS)].tolist()
    above, below = _parts(len(positions), kept.color_size, disputed is not None)
    caster = make_caster(mesh.vertices_world, mesh.faces)
    cells = _grid(above, len(positions))
    shown = [
        _draw_frame(row, scene, mesh, caster, position)
        for row, position in zip(cells, positions, strict=True)
    ]
    _draw_sureness(above, cells[-1, -1])
    above.legend(handles=_verdict_legend(), loc="outside lower center", ncols=6)
    if disputed is not None:
        shown.append(_draw_votes(below, kept, disputed))
    figure, present = above.figure, np.unique(np.concatenate(shown))
    title = f'{kept.scene}: what the field "{name}" makes of its prior'
    figure.suptitle(title, fontsize=12)
    figure.legend(handles=class_legend(present), loc="outside lower center", ncols=8)
    write_figure(figure, out, DPI)


def _parts(
    rows: int, picture_size: tuple[int, int], with_votes: bool
) -> tuple[SubFigure, SubFigure | None]:
    """Return a part of a figure for frames, and one for votes."""
    width, height = picture_size
    row_inches = WIDTH_INCHES / len(TITLES) * height / width
    heights = [rows * (row_inches + 0.2) + 0.7, 2.6][: 1 + with_votes]
    figure = plt.figure(figsize=(WIDTH_INCHES, sum(heights) + 0.9))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    shape = len(heights), 1
    parts = figure.subfigures(*shape, squeeze=False, height_ratios=heights)
    above, *below = parts[:, 0]
    return above, (below[0] if below else None)


def _grid(part: SubFigure, rows: int) -> np.ndarray:
    cells = part.subplots(rows, len(TITLES), squeeze=False)
    for cell in cells.flat:
        cell.set_axis_off()
    for cell, title in zip(cells[0], TITLES, strict=True):
        cell.set_title(title, fontsize=11)
    return cells


def _verdict_legend() -> list[Patch]:
    edge = {"edgecolor": "#888888", "linewidth": 0.5}
    return [Patch(facecolor=c, label=label, **edge) for label, c in VERDICTS.values()]


def _draw_frame(
    row: np.ndarray,
    scene: SceneInputs,
    mesh: LabelledMesh,
    caster: Caster,
    position: int,
) -> np.ndarray:
    """Fill a row of cells; return the classes that it shows."""
    kept = scene.frames
    step = -(-kept.color_size[0] // MOST_PIXELS_WIDE)
    pose, size = kept.world_from_camera[position], kept.color_size
    own, confidence = votes.seen_on_mesh(
        mesh, caster, pose, kept.color_intrinsics, size, step
    )
    before, _ = scoring.decide(scene.prior.probabilities(position), size)
    before, truth = before[::step, ::step], np.full_like(own, IGNORE)
    if kept.has_labels:
        truth = kept.labels(position)[::step, ::step]
    row[0].imshow(kept.color(position)[::step, ::step])
    for cell, labels in zip(row[1:4], (before, own, truth), strict=True):
        cell.imshow(class_colors(labels))
    _draw_verdict(row[4], votes.verdicts(truth, before, own))
    row[5].imshow(confidence, cmap=SURENESS.cmap, norm=SURENESS.norm)
    _below(row[0], f"frame {kept.index[position]}")
    return np.unique([before, own, truth])


def _draw_verdict(cell: Axes, verdict: np.ndarray) -> None:
    colors = np.array([to_rgb(color) for _, color in VERDICTS.values()])
    cell.imshow(colors[verdict])
    counts = np.bincount(verdict.ravel(), minlength=len(VERDICTS))[votes.BOTH_RIGHT :]
    if counts.sum() == 0:
        _below(cell, "no labels")
        return
    for place, share in enumerate(counts / counts.sum()):
        at = (place + 0.5) / len(counts), -0.1
        _chip(cell, at, f"{100 * share:.0f} %", colors[place + votes.BOTH_RIGHT])


def _draw_sureness(part: SubFigure, cell: Axes) -> None:
    """Say what the colours of confidence mean, below their column."""
    bar = cell.inset_axes((0.1, -0.09, 0.75, 0.05))
    part.colorbar(SURENESS, bar, orientation="horizontal")
    bar.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=8)


def _draw_votes(part: SubFigure, kept: store.Frames, disputed: Disputed) -> np.ndarray:
    """Draw what views show and say of a point; return the classes that are named."""
    shape, ratios = (2, CROPS + 1), [1, 0.5]
    cells = part.subplots(*shape, height_ratios=ratios, squeeze=False)
    for cell in cells.flat:
        cell.set_axis_off()
    part.suptitle(
        "Votes on the point that views disagree on most, the weightiest first"
        " (upright line: its weight if all weighed alike)",
        fontsize=11,
    )
    alike = 1 / len(disputed.votes)
    scale = max(disputed.votes[0].weight, 2 * alike)
    for column, vote in zip(cells.T, disputed.votes[:CROPS], strict=False):
        _draw_crop(column[0], kept, vote)
        _draw_vote(column[1], vote, alike, scale)
    _conclude(cells[0, -1], disputed)
    others = disputed.votes[CROPS:]
    if others:
        weight = sum(vote.weight for vote in others)
        note = f"and {len(others)} more:\n{100 * weight:.0f} % of the weight"
        cells[1, -1].text(0.5, 0, note, fontsize=8, ha="center")
    top = [int(vote.probabilities.argmax()) for vote in disputed.votes[:CROPS]]
    return np.unique(np.array([*top, disputed.label, disputed.truth], np.uint8))


def _draw_crop(cell: Axes, kept: store.Frames, vote: ViewVote) -> None:
    """Draw the part of a view's picture that has the point in its middle."""
    u, v = vote.uv
    half = CROP * kept.color_size[1] / 2
    cell.imshow(kept.color(vote.position))
    cell.set_xlim(u - half, u + half)
    cell.set_ylim(v + half, v - half)
    for color, width in (("black", 3.5), ("white", 1.8)):
        ring = {"facecolors": "none", "edgecolors": color, "linewidths": width}
        cell.scatter(u, v, s=70, **ring)
    cell.set_title(f"frame {kept.index[vote.position]}", fontsize=8, pad=3)


def _draw_vote(cell: Axes, vote: ViewVote, alike: float, scale: float) -> None:
    """Draw what a view says, and its weight beside that of one of equals."""
    cell.set_xlim(0, 1)
    cell.set_ylim(0, 1)
    top = int(vote.probabilities.argmax())
    _name_class(cell, (0.5, 0.82), top, float(vote.probabilities[top]))
    cell.add_patch(Rectangle((0, 0.3), vote.weight / scale, 0.2, color="0.35"))
    cell.plot([alike / scale] * 2, [0.22, 0.58], color="black", linewidth=1)
    cell.text(0, 0.0, f"weight {100 * vote.weight:.0f} %", fontsize=8)


def _conclude(cell: Axes, disputed: Disputed) -> None:
    """Say what was decided, what the mean of all says, and the truth."""
    said = _said(disputed.votes).mean(axis=0)
    equal = int(said.argmax())
    lines = (
        ("decided", disputed.label, disputed.confidence),
        ("plain mean of all", equal, float(said[equal])),
        ("truth", disputed.truth, None),
    )
    cell.set_xlim(0, 1)
    cell.set_ylim(0, 1)
    for (title, label, share), y in zip(lines, (0.95, 0.6, 0.25), strict=True):
        cell.text(0.5, y, title, fontsize=8, ha="center", va="center")
        _name_class(cell, (0.5, y - 0.14), label, share)


def _name_class(
    cell: Axes, at: tuple[float, float], label: int, share: float | None
) -> None:
    name = "no class" if label == IGNORE else CLASS_NAMES[label]
    text = name if share is None else f"{name} {100 * share:.0f} %"
    _chip(cell, at, text, class_colors(np.uint8([label]))[0] / 255)


def _chip(cell: Axes, at: tuple[float, float], text: str, color: np.ndarray) -> None:
    """Write on a patch of colour, in black or white, whichever can be read."""
    dark = color @ LUMINANCE < DARK
    box = {"facecolor": color, "edgecolor": "none", "pad": 1.8}
    cell.text(
        *at, text, fontsize=7.5, ha="center", va="center",
        color="white" if dark else "black", transform=cell.transAxes, bbox=box,
    )  # fmt: skip


def _below(cell: Axes, text: str) -> None:
    place = {"ha": "center", "va": "top", "transform": cell.transAxes}
    cell.text(0.5, -0.03, text, fontsize=8, **place)


if __name__ == "__main__":
    run(main)
