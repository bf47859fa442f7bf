"""What a field made of its prior, pixel by pixel, and where views are split."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from gnesf_core.data.meshes import LabelledMesh
from gnesf_core.geometry.camera import look_at, pixel_rays
from gnesf_core.geometry.raycast import make_caster
from gnesf_core.labels import IGNORE
from gnesf_core.viz import votes

SIZE = (40, 30)
INTRINSICS = np.array([[30.0, 0, 19.5], [0, 30.0, 14.5], [0, 0, 1]])


def test_every_case_has_its_verdict():
    cases = [  # truth, prior, field
        ((3, 3, 3), votes.BOTH_RIGHT),
        ((3, 7, 3), votes.CORRECTED),
        ((3, IGNORE, 3), votes.CORRECTED),
        ((3, 3, 7), votes.SPOILT),
        ((3, 7, 7), votes.BOTH_WRONG),
        ((3, 7, 8), votes.BOTH_WRONG),
        ((3, 3, IGNORE), votes.UNANSWERED),
        ((3, 7, IGNORE), votes.UNANSWERED),
        ((3, IGNORE, IGNORE), votes.UNANSWERED),
        ((IGNORE, 3, 7), votes.UNJUDGED),
        ((IGNORE, IGNORE, IGNORE), votes.UNJUDGED),
    ]
    triples = np.array([labels for labels, _ in cases], np.uint8)
    expected = [verdict for _, verdict in cases]
    assert votes.verdicts(*triples.T).tolist() == expected


def sure_of(*labels):
    return np.eye(20, dtype=np.float32)[list(labels)]


def test_views_disagree_by_what_they_contradict_each_other():
    unsure = np.full((6, 20), 0.05)
    assert votes.disagreement(unsure) == pytest.approx(0, abs=1e-12)
    assert votes.disagreement(sure_of(4, 4, 4)) == 0
    assert votes.disagreement(sure_of(4, 9)) == pytest.approx(np.log(2))
    assert votes.disagreement(sure_of(*range(7))) == pytest.approx(np.log(7))


def test_disagreement_of_two_views_is_the_jensen_shannon_divergence():
    rng = np.random.default_rng(0)
    for pair in rng.dirichlet(np.full(20, 0.3), (10, 2)):
        assert votes.disagreement(pair) == pytest.approx(jensenshannon(*pair) ** 2)


def test_the_most_disputed_point_is_seen_by_enough_views():
    nobody = np.zeros((0, 20), np.float32)
    few, split, calm = sure_of(1, 2, 3, 4), sure_of(1, 1, 1, 2, 2), sure_of(*[5] * 9)
    said = [nobody, few, calm, split, split[::-1]]
    assert votes.most_disputed(said, 5) == 3  # the first of two that are equal
    assert votes.most_disputed(said, 4) == 1
    assert votes.most_disputed(said, 10) is None
    assert votes.most_disputed([], 5) is None


@pytest.fixture(scope="module")
def triangle():
    """Hold up one triangle, whose corners have classes, in the camera's plane z = 2."""
    pose = look_at((1.0, 2.0, 1.5), (4.0, 1.0, 0.5))
    corners = np.array([[-1.0, -0.8, 2], [1.1, -0.5, 2], [0.1, 0.9, 2]])
    world = (corners @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32)
    mesh = LabelledMesh(
        world,
        np.array([[0, 1, 2]], np.int32),
        np.array([2, IGNORE, 11], np.uint8),
        np.array([0.3, 0.0, 0.9], np.float32),
        np.zeros((3, 3), np.uint8),
    )
    return mesh, pose, corners


def seen(mesh, pose, step=1):
    caster = make_caster(mesh.vertices_world, mesh.faces)
    return votes.seen_on_mesh(mesh, caster, pose, INTRINSICS, SIZE, step)


def test_a_pixel_sees_the_corner_nearest_to_where_its_ray_hits(triangle):
    mesh, pose, corners = triangle
    class_id, confidence = seen(mesh, pose)

    hits = 2 * pixel_rays(INTRINSICS, *SIZE)
    sides = np.roll(corners, -1, axis=0) - corners
    outward = np.cross(hits[:, :, None] - corners, sides)[..., 2]
    inside = (outward < -1e-6).all(-1) | (outward > 1e-6).all(-1)
    distance = np.linalg.norm(hits[:, :, None] - corners, axis=-1)
    nearest = distance.argmin(-1)
    assert 0.1 < inside.mean() < 0.9
    np.testing.assert_array_equal(class_id[inside], mesh.label[nearest[inside]])
    expected = mesh.confidence[nearest[inside]]
    np.testing.assert_array_equal(confidence[inside], expected)
    assert set(class_id[inside].tolist()) == {2, 11, IGNORE}


def test_a_ray_that_hits_nothing_sees_no_class(triangle):
    mesh, pose, _ = triangle
    away = pose @ np.diag([-1.0, 1, -1, 1])  # turned around
    class_id, confidence = seen(mesh, away)
    assert (class_id == IGNORE).all() and np.isnan(confidence).all()


def test_coarser_steps_look_at_fewer_of_the_same_pixels(triangle):
    mesh, pose, _ = triangle
    for fine, coarse in zip(seen(mesh, pose), seen(mesh, pose, 3), strict=True):
        np.testing.assert_array_equal(coarse, fine[::3, ::3])
