"""Bilinear interpolation against SciPy's and against functions it must reproduce."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from gnesf_core.geometry.sampling import sample_image


def random_uv(rng, width, height, count=500):
    """Return points all over an image, its outer half pixels included."""
    return rng.uniform([-0.5, -0.5], [width - 0.5, height - 0.5], (count, 2))


@pytest.mark.parametrize("size", [(7, 5), (1, 6), (4, 1), (1, 1)])
def test_sampling_agrees_with_scipy(size):
    rng = np.random.default_rng(0)
    width, height = size
    image, uv = rng.random((3, height, width)), random_uv(rng, width, height)
    expected = [map_coordinates(c, uv.T[::-1], order=1, mode="nearest") for c in image]
    sampled = sample_image(torch.from_numpy(image), torch.from_numpy(uv))
    np.testing.assert_allclose(sampled.numpy().T, expected, atol=1e-12)


def test_linear_images_are_reproduced_between_their_pixel_centres():
    u, v = torch.meshgrid(torch.arange(9.0), torch.arange(6.0), indexing="xy")
    image = torch.stack([2 - 3 * u + 0.5 * v, u, v]).double()
    uv = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)).double()
    uv *= torch.tensor([8.0, 5.0])
    expected = torch.stack([2 - 3 * uv[:, 0] + 0.5 * uv[:, 1], uv[:, 0], uv[:, 1]], 1)
    torch.testing.assert_close(sample_image(image, uv), expected)


def test_pixel_centres_give_their_pixels_bit_for_bit():
    image = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0))
    uv = torch.tensor([[u, v] for v in range(5) for u in range(6)]).double()
    assert torch.equal(sample_image(image, uv), image.flatten(1).T)


def test_points_outside_take_the_nearest_edge():
    image = torch.arange(12.0).reshape(1, 3, 4)
    uv = torch.tensor([[-9.0, -9.0], [1e6, 1.0], [2.0, 77.0], [-0.5, 0.5]])
    assert sample_image(image, uv)[:, 0].tolist() == [0, 7, 10, 2]


def test_bytes_become_float32_and_floats_stay_what_they_are():
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.integers(0, 256, (20, 8, 9), np.uint8))
    uv = torch.from_numpy(random_uv(rng, 9, 8))
    sampled = sample_image(image, uv)
    assert sampled.dtype == torch.float32
    precise = sample_image(image.double(), uv.float())
    assert precise.dtype == torch.float64
    torch.testing.assert_close(sampled.double(), precise, atol=1e-3, rtol=0)


def test_no_points_give_no_rows():
    assert sample_image(torch.ones(5, 2, 3), torch.zeros(0, 2)).shape == (0, 5)


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 4, 5, generator=generator, dtype=torch.float64)
    # Between pixels: at their centres the interpolant has a kink.
    cells = torch.tensor([[0.0, 0.0], [3.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    uv = cells + 0.2 + 0.6 * torch.rand(3, 2, generator=generator, dtype=torch.float64)
    inputs = (image.requires_grad_(), uv.requires_grad_())
    assert torch.autograd.gradcheck(sample_image, inputs)
