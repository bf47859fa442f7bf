"""What a field made of its prior: pixels it corrected or spoilt, and split votes."""

from collections.abc import Sequence

import numpy as np

from gnesf_core.data.meshes import LabelledMesh
from gnesf_core.geometry.camera import pixel_rays
from gnesf_core.geometry.raycast import Caster
from gnesf_core.labels import IGNORE
from gnesf_core.shapes import Float, Float32, Float64, UInt8

# What became of a pixel. Without a true class it is not judged. A prior that says
# nothing is wrong; a field that does, mostly for want of a surface, is neither.
UNJUDGED, BOTH_RIGHT, CORRECTED, SPOILT, BOTH_WRONG, UNANSWERED = range(6)


def verdicts(
    truth: UInt8[np.ndarray, "*pixels"],
    prior: UInt8[np.ndarray, "*pixels"],
    field: UInt8[np.ndarray, "*pixels"],
) -> UInt8[np.ndarray, "*pixels"]:
    """Return what became of each pixel between a prior and a field."""
    before, after = prior == truth, field == truth
    cases = {
        UNJUDGED: truth == IGNORE,
        UNANSWERED: field == IGNORE,
        BOTH_RIGHT: before & after,
        CORRECTED: after,
        SPOILT: before,
    }
    became = np.select(list(cases.values()), list(cases), BOTH_WRONG)
    return became.astype(np.uint8)


def seen_on_mesh(
    mesh: LabelledMesh,
    caster: Caster,
    world_from_camera: Float64[np.ndarray, "4 4"],
    intrinsics: Float64[np.ndarray, "3 3"],
    size: tuple[int, int],
    step: int,
) -> tuple[UInt8[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Return class and confidence of what every `step`-th pixel and row of it sees.

    Both are those of the nearest corner of the triangle that is hit, so that no class
    is made up between two others. A ray that hits nothing gets `IGNORE` and nan. The
    `caster` is that of the mesh.
    """
    rays = pixel_rays(intrinsics, *size)[::step, ::step]
    rays_world = rays @ world_from_camera[:3, :3].T
    eye_world = world_from_camera[:3, 3]
    triangle, t = caster.cast(eye_world, rays_world)
    hit = triangle >= 0
    points_world = eye_world + t[hit, None] * rays_world[hit]
    corners = mesh.faces[triangle[hit]]
    offsets = mesh.vertices_world[corners] - points_world[:, None]
    nearest = np.linalg.norm(offsets, axis=2).argmin(axis=1)
    vertex = corners[np.arange(len(corners)), nearest]
    class_id = np.full(hit.shape, IGNORE, np.uint8)
    confidence = np.full(hit.shape, np.nan, np.float32)
    class_id[hit], confidence[hit] = mesh.label[vertex], mesh.confidence[vertex]
    return class_id, confidence


def disagreement(said: Float[np.ndarray, "views classes"]) -> float:
    """Return by how much views contradict each other, in nats.

    It is the entropy of their mean less their mean entropy: views that are all unsure
    in the same way do not disagree.
    """
    of_mean = _entropies(said.mean(axis=0, keepdims=True))[0]
    return float(of_mean - _entropies(said).mean())


def most_disputed(
    said: Sequence[Float[np.ndarray, "_ classes"]], least_views: int
) -> int | None:
    """Return the point whose views disagree most, the first of equals.

    Points that fewer views speak of do not count; `None` if that leaves none.
    """
    enough = [k for k, views in enumerate(said) if len(views) >= least_views]
    return max(enough, key=lambda k: disagreement(said[k]), default=None)


def _entropies(
    said: Float[np.ndarray, "views classes"],
) -> Float[np.ndarray, " views"]:
    return -(said * np.log(np.where(said > 0, said, 1))).sum(axis=1)
