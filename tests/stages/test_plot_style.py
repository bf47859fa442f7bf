"""Figures as files: small, and the same to the eye."""

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFilter import MaxFilter, MinFilter

from gnesf_core.labels import CLASS_NAMES
from gnesf_core.viz.picture import class_colors
from stages.plot_style import plt, write_figure


def draw():
    """Return a figure of a class map with names, beside a photograph of sorts."""
    rng = np.random.default_rng(0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4))
    labels = np.kron(np.arange(20, dtype=np.uint8).reshape(4, 5), np.ones((30, 30)))
    left.imshow(class_colors(labels.astype(np.uint8)))
    for cell in range(20):
        left.text(30 * (cell % 5), 30 * (cell // 5) + 15, CLASS_NAMES[cell])
    grain = rng.normal(0, 12, (480, 640, 3)) + np.linspace(60, 200, 640)[:, None]
    right.imshow(np.clip(grain, 0, 255).astype(np.uint8))
    return figure


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    for end in ("jpg", "png", "svg"):
        write_figure(draw(), folder / f"a.{end}", 128)
    return folder


def test_a_jpeg_is_a_fraction_of_the_png_and_looks_like_it(written):
    jpeg, png = written / "a.jpg", written / "a.png"
    assert jpeg.stat().st_size < 0.4 * png.stat().st_size
    one, other = (np.asarray(Image.open(p).convert("RGB"), int) for p in (jpeg, png))
    assert one.shape == other.shape
    difference = np.abs(one - other)
    assert difference.mean() < 3
    # A colour that stands for a class stays what the legend says, away from edges.
    with Image.open(png) as picture:
        picture = picture.convert("RGB")
        ends = (picture.filter(kind(33)) for kind in (MinFilter, MaxFilter))
        low, high = (np.asarray(end) for end in ends)
    plain = (low == high).all(axis=-1) & (low != 255).any(axis=-1)
    assert plain.sum() > 5000
    assert difference[plain].max() <= 4


def test_equal_figures_are_equal_files_and_are_closed(written, tmp_path):
    open_before = set(plt.get_fignums())
    for end in ("jpg", "svg"):
        write_figure(draw(), tmp_path / f"a.{end}", 128)
        again = (tmp_path / f"a.{end}").read_bytes()
        assert again == (written / f"a.{end}").read_bytes()
    assert set(plt.get_fignums()) == open_before
