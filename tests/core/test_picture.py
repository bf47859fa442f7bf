import numpy as np
import pytest

from gnesf_core.geometry.camera import look_at
from gnesf_core.labels import IGNORE, PALETTE
from gnesf_core.viz.picture import (
    Viewpoint,
    class_colors,
    inside_viewpoint,
    render_mesh,
    top_viewpoint,
)

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)
# Corners of a unit square, counter-clockwise from above, and its two triangles.
SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
QUADS = np.array([[0, 1, 2], [0, 2, 3]])


def top_view(vertices, faces, colors, width, height):
    viewpoint = top_viewpoint(vertices, width, height)
    return render_mesh(vertices, faces, colors, viewpoint)


def inside_view(vertices, faces, colors, width, height):
    viewpoint = inside_viewpoint(vertices, faces, width, height)
    return render_mesh(vertices, faces, colors, viewpoint)


def quads(*parts):
    """Join (corners, colour) parts, each of two triangles, to one mesh."""
    vertices = np.concatenate([corners for corners, _ in parts])
    faces = np.concatenate([QUADS + 4 * index for index in range(len(parts))])
    colors = np.repeat(np.array([c for _, c in parts], np.uint8), 4, axis=0)
    return vertices, faces, colors


def room(width=5.0, length=4.0, height=2.6):
    """Return an empty room, seen from within: red ceiling, green floor, blue walls."""
    floor = SQUARE * [width, length, 0]
    ceiling = floor[::-1] + [0, 0, height]
    walls = []
    for a, b in zip(floor, np.roll(floor, -1, axis=0), strict=True):
        up = np.array([0, 0, height])
        walls.append((np.array([b, a, a + up, b + up]), BLUE))
    return quads((floor, GREEN), (ceiling, RED), *walls)


def share_of(picture, color):
    """Return the share of pixels whose brightest channel is that of `color` alone."""
    channel = int(np.argmax(color))
    others = np.delete(picture, channel, axis=2).max(axis=2)
    return float(((picture[..., channel] > 60) & (others < 30)).mean())


def test_classes_have_their_palette_colours_and_the_unlabelled_are_grey():
    labels = np.array([[0, 19], [4, IGNORE]], np.uint8)

    colors = class_colors(labels)

    assert colors.shape == (2, 2, 3)
    np.testing.assert_array_equal(colors[0, 0], PALETTE[0])
    np.testing.assert_array_equal(colors[0, 1], PALETTE[19])
    assert len(set(colors[1, 1].tolist())) == 1


def test_a_square_covers_the_pixels_that_it_projects_to():
    vertices, faces, colors = quads((SQUARE, RED))
    pose = look_at((0.5, 0.5, 2.0), (0.5, 0.5, 0.0))
    intrinsics = np.array([[40.0, 0, 19.5], [0, 40.0, 19.5], [0, 0, 1]])

    picture = render_mesh(vertices, faces, colors, Viewpoint(pose, intrinsics, 40, 40))

    # 1 m at 2 m under a focal length of 40 pixels is 20 pixels, centred.
    covered = (picture != 255).any(axis=2)
    assert covered[10:30, 10:30].all()
    assert covered.sum() == 20 * 20
    assert (picture[~covered] == 255).all()


def test_an_edge_through_a_pixel_is_smoothed():
    vertices, faces, colors = quads((SQUARE, (0, 0, 0)))
    pose = look_at((0.5, 0.5, 2.0), (0.5, 0.5, 0.0))
    intrinsics = np.array([[41.0, 0, 19.5], [0, 41.0, 19.5], [0, 0, 1]])

    picture = render_mesh(vertices, faces, colors, Viewpoint(pose, intrinsics, 40, 40))

    # The square reaches from 9.25 to 29.75: half of the pixels 9 and 30 is covered.
    assert picture[20, 20, 0] == 0
    assert 0 < picture[20, 9, 0] < 255
    assert 0 < picture[20, 30, 0] < 255
    assert picture[20, 8, 0] == picture[20, 31, 0] == 255


def test_a_triangle_of_two_classes_never_mixes_their_colours():
    vertices = SQUARE[[0, 1, 3]]
    colors = np.array([RED, RED, GREEN], np.uint8)
    pose = look_at((0.3, 0.3, 2.0), (0.3, 0.3, 0.0))
    intrinsics = np.array([[80.0, 0, 19.5], [0, 80.0, 19.5], [0, 0, 1]])
    viewpoint = Viewpoint(pose, intrinsics, 40, 40)

    picture = render_mesh(vertices, np.array([[0, 1, 2]]), colors, viewpoint)

    pure = share_of(picture, RED) + share_of(picture, GREEN)
    white = float((picture == 255).all(axis=2).mean())
    assert share_of(picture, RED) > share_of(picture, GREEN) > 0.02
    assert pure + white > 0.9  # the rest are pixels that an edge runs through


def test_the_top_view_cuts_the_ceiling_away():
    vertices, faces, colors = room()

    picture = top_view(vertices, faces, colors, 100, 80)

    assert share_of(picture, RED) == 0.0
    assert share_of(picture, GREEN) > 0.6


def test_the_top_of_a_wardrobe_stays_where_the_ceiling_goes():
    vertices, faces, colors = room()
    top = SQUARE + [2.0, 1.5, 2.1]
    for corners, share in ((top, 0.02), (top[::-1], 0.0)):
        lid = quads((corners, GREY))
        mesh = (
            np.concatenate([vertices, lid[0]]),
            np.concatenate([faces, QUADS + len(vertices)]),
            np.concatenate([colors, lid[2]]),
        )

        picture = top_view(*mesh, 100, 80).astype(int)

        grey = (np.ptp(picture, axis=2) == 0) & (picture[..., 0] < 250)
        assert (grey.mean() > share) == (share > 0)


def test_the_top_view_shows_the_whole_scene_with_north_up():
    vertices, faces, colors = room()
    viewpoint = top_viewpoint(vertices, 100, 80)
    corner = quads((SQUARE * 0.5 + [4.4, 3.4, 0.01], RED))

    picture = render_mesh(
        np.concatenate([vertices, corner[0]]),
        np.concatenate([faces, QUADS + len(vertices)]),
        np.concatenate([colors, corner[2]]),
        viewpoint,
    )

    row, column = np.argwhere((picture[..., 0] > 100) & (picture[..., 1] < 30)).T
    assert row.max() < 30  # +y is up
    assert column.min() > 70  # +x is right
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (border == 255).all()


def test_the_inside_view_of_a_closed_room_shows_no_background():
    vertices, faces, colors = room()

    picture = inside_view(vertices, faces, colors, 80, 60)

    assert (picture != 255).any(axis=2).all()
    for color in (GREEN, BLUE):
        assert share_of(picture, color) > 0.1


def test_the_inside_view_avoids_a_corner_that_is_walled_off():
    vertices, faces, _ = room()
    blocked = []
    for x, y in ((0.0, 0.0), (5.0, 0.0), (5.0, 4.0)):
        # A screen across three of the four corners, from floor to ceiling.
        a = np.array([x + (1.8 if x == 0 else -1.8), y, 0])
        b = np.array([x, y + (1.8 if y == 0 else -1.8), 0])
        up = np.array([0, 0, 2.6])
        blocked.append(np.array([a, b, b + up, a + up]))
    vertices = np.concatenate([vertices, *blocked])
    faces = np.concatenate([faces, *[QUADS + 24 + 4 * k for k in range(3)]])

    eye = inside_viewpoint(vertices, faces, 80, 60).world_from_camera[:3, 3]

    assert eye[0] < 2.5
    assert eye[1] > 2.0
    assert 1.4 < eye[2] < 2.0


def test_what_is_too_near_is_left_out():
    screen = SQUARE - [0.5, 0.5, -1.9]
    vertices, faces, colors = quads((SQUARE * 4 - [2, 2, 0], GREEN), (screen, RED))
    pose = look_at((0.0, 0, 2.0), (0, 0, 0))
    intrinsics = np.array([[20.0, 0, 9.5], [0, 20.0, 9.5], [0, 0, 1]])

    near = render_mesh(vertices, faces, colors, Viewpoint(pose, intrinsics, 20, 20))
    clipped = render_mesh(
        vertices, faces, colors, Viewpoint(pose, intrinsics, 20, 20, near_m=0.2)
    )

    assert share_of(near, RED) == 1.0
    assert share_of(clipped, GREEN) == 1.0


def test_a_mesh_without_faces_is_a_white_picture():
    viewpoint = top_viewpoint(SQUARE, 30, 20)

    picture = render_mesh(
        np.zeros((0, 3)), np.zeros((0, 3), int), np.zeros((0, 3), np.uint8), viewpoint
    )

    assert picture.shape == (20, 30, 3)
    assert (picture == 255).all()


@pytest.mark.parametrize("stray", [[0, 0, 500.0], [-300.0, 0, 0]])
def test_a_stray_point_does_not_shrink_the_picture(stray):
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 50)] * 2), -1).reshape(-1, 2)
    vertices = np.column_stack([grid, np.zeros(len(grid))])

    alone = top_viewpoint(vertices, 40, 40)
    together = top_viewpoint(np.concatenate([vertices, [stray]]), 40, 40)

    assert together.intrinsics[0, 0] == pytest.approx(alone.intrinsics[0, 0], rel=0.05)
