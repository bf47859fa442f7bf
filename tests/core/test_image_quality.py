import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from gnesf_core.evaluation import image_quality
from gnesf_core.evaluation.image_quality import PROTOCOLS, image_scores

NAMES = list(PROTOCOLS)


def noisy_pair(seed=0, height=40, width=56, noise=0.08):
    """Return a picture, whose bytes are whole, and a truth that it resembles."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(height)[:, None, None] / [5, 7, 11]) * np.cos(
        np.arange(width)[None, :, None] / [9, 4, 6]
    )
    truth = np.clip(128 + 100 * waves + rng.normal(0, 9, waves.shape), 0, 255)
    truth = truth.astype(np.uint8)
    picture = np.clip(truth / 255 + rng.normal(0, noise, truth.shape), 0, 1)
    return np.round(picture * 255) / 255, truth


def grey(level, size=(12, 13)):
    return np.full((*size, 3), level, np.float32)


def scores(protocol, picture, truth, known=None):
    if known is None:
        known = np.ones(truth.shape[:2], bool)
    return image_scores(protocol, picture, truth, known)


@pytest.mark.parametrize("name", NAMES)
def test_equal_pictures_have_the_highest_scores_there_are(name):
    _, truth = noisy_pair()
    got = scores(name, truth.astype(np.float32) / np.float32(255), truth)
    assert got["psnr_db"] == pytest.approx(60 if name == "gpnerf" else 100)
    assert got["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
def test_flat_pictures_score_by_their_difference_and_their_means_alone(name):
    truth = np.full((12, 13, 3), 51, np.uint8)  # 0.2
    got = scores(name, grey(0.6), truth)
    added = 1e-6 if name == "gpnerf" else 0
    assert got["psnr_db"] == pytest.approx(-10 * math.log10(0.4**2 + added), abs=1e-4)
    if name in ("sray", "gsnerf"):  # whole windows: no variance, so only the means
        alike = (2 * 0.6 * 0.2 + 1e-4) / (0.6**2 + 0.2**2 + 1e-4)
        assert got["ssim"] == pytest.approx(alike, abs=1e-6)


def test_noise_of_known_strength_gives_its_decibels():
    rng = np.random.default_rng(3)
    truth = np.full((200, 200, 3), 127, np.uint8)
    picture = truth / 255 + rng.normal(0, 0.05, truth.shape)
    for name in ("gnesf", "gsnerf"):
        got = scores(name, picture, truth)
        assert got["psnr_db"] == pytest.approx(-20 * math.log10(0.05), abs=0.05)


def test_bytes_are_cut_and_not_rounded():
    truth = np.full((12, 13, 3), 100, np.uint8)
    got = scores("sray", grey(101.99 / 255), truth)
    assert got["psnr_db"] == pytest.approx(20 * math.log10(255))
    assert scores("gnesf", grey(101.99 / 255), truth)["psnr_db"] < got["psnr_db"] - 5


def test_only_gp_nerf_and_gsnerf_are_charged_for_colours_that_cannot_be_shown():
    truth = np.full((12, 13, 3), 255, np.uint8)
    for name in NAMES:
        psnr = scores(name, grey(1.1), truth)["psnr_db"]
        assert (psnr < 21) == (name in ("gpnerf", "gsnerf"))


@pytest.mark.parametrize("size", [(40, 56), (11, 11), (25, 12)])
def test_ssim_of_bytes_is_scikit_images_with_eleven_pixels(size):
    picture, truth = noisy_pair(1, *size)
    expected = structural_similarity(
        truth, np.round(picture * 255).astype(np.uint8), win_size=11, channel_axis=2,
        data_range=255,
    )  # fmt: skip
    picture = picture.astype(np.float32)
    assert scores("sray", picture, truth)["ssim"] == pytest.approx(expected, abs=1e-9)


def test_scores_at_known_depth_are_those_of_pictures_black_elsewhere():
    picture, truth = noisy_pair(2)
    known = np.random.default_rng(4).random(truth.shape[:2]) < 0.7
    got = scores("gsnerf", picture, truth, known)
    black = picture * known[..., None], truth / 255 * known[..., None]
    expected = structural_similarity(*black, channel_axis=2, data_range=1)
    assert got["ssim"] == pytest.approx(expected, abs=1e-9)
    error = np.mean([(p - t) ** 2 for p, t in zip(
        picture[known], truth[known] / 255, strict=True)])  # fmt: skip
    assert got["psnr_db"] == pytest.approx(-10 * math.log10(error))


def test_where_depth_is_unknown_a_picture_may_show_anything():
    picture, truth = noisy_pair(5)
    known = np.ones(truth.shape[:2], bool)
    known[5:20, 8:30] = False
    other = np.where(known[..., None], picture, 0.9)
    for name in NAMES:
        same = scores(name, picture, truth, known) == scores(name, other, truth, known)
        assert same == (name == "gsnerf")


@pytest.mark.parametrize("known", [None, np.zeros((40, 56), bool)])
def test_without_depth_only_the_protocol_that_needs_it_has_no_score(known):
    picture, truth = noisy_pair()
    for name in NAMES:
        got = image_scores(name, picture, truth, known, lambda *_: 0.5)
        assert [value is None for value in got.values()] == [name == "gsnerf"] * 3


@pytest.mark.parametrize("name", ["gpnerf", "gnesf"])
def test_gaussian_ssim_is_its_definition_pixel_by_pixel(name):
    picture, truth = noisy_pair(6, 9, 14)
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for x, y in zip(picture.transpose(2, 0, 1), truth.transpose(2, 0, 1) / 255,
                    strict=True):  # fmt: skip
        x, y = np.pad(x, 5), np.pad(y, 5)  # black beyond the edges
        for row in range(9):
            for column in range(14):
                window = slice(row, row + 11), slice(column, column + 11)
                mx, my = ((weights * v[window]).sum() for v in (x, y))
                dx, dy = x[window] - mx, y[window] - my
                vx, vy, both = (
                    (weights * p).sum() for p in (dx * dx, dy * dy, dx * dy)
                )
                values.append(
                    (2 * mx * my + 1e-4) * (2 * both + 9e-4)
                    / ((mx * mx + my * my + 1e-4) * (vx + vy + 9e-4))
                )  # fmt: skip
    got = scores(name, picture, truth)["ssim"]
    assert got == pytest.approx(np.mean(values), abs=1e-12)


def test_lpips_is_shown_what_the_protocol_compares_in_its_range():
    picture, truth = noisy_pair(7)
    picture = picture + 0.0015  # beyond 1 in places, and between bytes
    known = np.random.default_rng(8).random(truth.shape[:2]) < 0.6
    seen = {}
    for name in NAMES:

        def distance(first, second, signed, name=name):
            seen[name] = first, second, signed
            return 0.25

        got = image_scores(name, picture, truth, known, distance)
        assert got["lpips"] == 0.25
    assert {name: given[2] for name, given in seen.items()} == {
        "sray": True, "gpnerf": False, "gsnerf": True, "gnesf": True,
    }  # fmt: skip
    np.testing.assert_array_equal(seen["gpnerf"][0], picture)
    assert (seen["gnesf"][0] == picture.clip(0, 1)).all() and picture.max() > 1
    levels = seen["sray"][0] * 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-9)
    assert not seen["gsnerf"][0][~known].any() and not seen["gsnerf"][1][~known].any()
    assert (seen["gsnerf"][0][known] == picture[known]).all()


@pytest.mark.parametrize("name", NAMES)
def test_words_name_what_is_compared_and_own_up_to_missing_weights(name):
    with_weights = image_quality.words(name, True)
    for said in ("PSNR", "SSIM", "window of", "LPIPS", "VGG16", "1"):
        assert said in with_weights
    assert "no weights given" not in with_weights
    assert "no weights given (config key" in image_quality.words(name, False)
    picture, truth = noisy_pair()
    assert scores(name, picture, truth)["lpips"] is None


def test_the_protocols_differ_where_their_words_say_so():
    picture, truth = noisy_pair(9)
    known = np.ones(truth.shape[:2], bool)
    known[:, :20] = False
    ssims = [scores(name, picture, truth, known)["ssim"] for name in NAMES]
    assert ssims[NAMES.index("gpnerf")] == ssims[NAMES.index("gnesf")]
    assert len({round(value, 4) for value in ssims}) == 3


def test_pictures_smaller_than_a_window_and_unfinished_ones_are_refused():
    truth = np.zeros((10, 30, 3), np.uint8)
    with pytest.raises(ValueError, match="smaller than a window, 11"):
        scores("sray", grey(0.5, (10, 30)), truth)
    with pytest.raises(ValueError, match="finite"):
        scores("gpnerf", grey(np.nan, (10, 30)), truth)
