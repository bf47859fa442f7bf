"""A segmenter is shown what was rendered, and its maps cover the picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gnesf_core.errors import BadInput
from gnesf_core.training.weights import load_into, write_weights
from gnesf_core.views import ibrnet, segment_rendered
from gnesf_core.views.interface import joined
from tests.core.test_ibrnet import (
    AHEAD,
    HEIGHT,
    POSES,
    SETTINGS,
    WIDTH,
    camera_at,
    rays_of,
    sources_at,
)


def method_and_whole():
    torch.manual_seed(0)
    method = segment_rendered.build(SETTINGS).eval()
    context = method.encode(sources_at(POSES), camera_at(AHEAD))
    rays = rays_of(AHEAD, step=1)
    with torch.no_grad():
        return method, context, joined([method.render(context, rays)[-1]])


@pytest.fixture(scope="module")
def whole_picture():
    return method_and_whole()


def test_the_segmenter_sees_the_rendered_picture(whole_picture):
    method, context, whole = whole_picture
    shown = []

    def segmenter(picture):
        shown.append(picture)
        return np.stack([picture[..., 0], 255.0 - picture[..., 0]])

    method.segmenter = segmenter
    answer = method.finish(context, whole)
    (picture,) = shown
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    for row, column in ((0, 0), (3, 17), (HEIGHT - 1, WIDTH - 1)):
        color = whole.color[row * WIDTH + column].numpy()
        assert np.abs(picture[row, column] / 255 - color).max() < 0.51 / 255
    # A segmenter with maps of the picture's size answers pixel by pixel.
    red = torch.from_numpy(picture[..., 0].reshape(-1) / 255.0).float()
    torch.testing.assert_close(answer.semantic, torch.stack([red, 1 - red], 1))
    for name in ("color", "depth_m", "usable"):
        assert torch.equal(getattr(answer, name), getattr(whole, name))


def test_small_maps_cover_the_picture_by_the_half_pixel_rule(whole_picture):
    """Scores that grow evenly over a map do so over the picture, its borders aside."""
    method, context, whole = whole_picture
    columns, rows = WIDTH // 4, HEIGHT // 4
    grows = np.tile((np.arange(columns) + 0.5) / columns, (rows, 1))
    scores = 7 * np.stack([grows, 1 - grows, 0 * grows])  # which sum up to 7
    method.segmenter = lambda picture: scores.astype(np.float32)
    semantic = method.finish(context, whole).semantic.reshape(HEIGHT, WIDTH, 3)
    expected = (torch.arange(WIDTH) + 0.5) / WIDTH
    inner = slice(2, WIDTH - 2)
    for row in semantic:
        torch.testing.assert_close(row[inner, 0], expected[inner])
    torch.testing.assert_close(semantic.sum(-1), torch.ones(HEIGHT, WIDTH))


def test_where_nothing_is_scored_nothing_is_said(whole_picture):
    method, context, whole = whole_picture
    scores = np.zeros((4, HEIGHT, WIDTH), np.float32)
    scores[2, :, 5:] = 0.3
    method.segmenter = lambda picture: scores
    semantic = method.finish(context, whole).semantic.reshape(HEIGHT, WIDTH, 4)
    assert (semantic[:, :5] == 0).all()
    assert (semantic[:, 5:] == torch.tensor([0.0, 0, 1, 0])).all()


def test_weights_are_an_ibrnets(tmp_path):
    torch.manual_seed(1)
    colors = ibrnet.build(SETTINGS)
    path = tmp_path / "ibrnet.safetensors"
    write_weights(path, colors.state_dict(), {})
    method = segment_rendered.build(SETTINGS)
    load_into(method, path)
    assert method.says == "probabilities"
    assert method.needs == {"segmenter"}
    rays, sources = rays_of(AHEAD), sources_at(POSES)
    one, other = (
        own.eval().render(own.encode(sources, camera_at(AHEAD)), rays)[-1]
        for own in (colors, method)
    )
    assert torch.equal(one.color, other.color)


def test_a_segmenter_must_be_set():
    method, context, whole = method_and_whole()
    with pytest.raises(ValueError, match="segmenter"):
        method.finish(context, whole)


def test_nothing_else_says_classes():
    with pytest.raises(BadInput, match="semantics"):
        segment_rendered.build(replace(SETTINGS, semantics="voted"))
