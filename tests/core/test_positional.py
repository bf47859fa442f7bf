"""NeRF's encoding against the addition theorems of sine and cosine."""

import math

import numpy as np
import torch

from gnesf_core.nets.positional import frequencies


def test_each_octave_is_the_double_angle_of_the_one_before():
    values = torch.rand(5, 3).double() * 2 - 1
    encoded = frequencies(values, 6)
    assert encoded.shape == (5, 3 + 6 * 6)
    assert torch.equal(encoded[:, :3], values)
    octaves = encoded[:, 3:].reshape(5, 6, 2, 3)
    sine, cosine = octaves[:, :, 0], octaves[:, :, 1]
    np.testing.assert_allclose(sine**2 + cosine**2, 1, rtol=1e-12)
    double = 2 * sine[:, :-1] * cosine[:, :-1]
    np.testing.assert_allclose(sine[:, 1:], double, atol=1e-12)
    np.testing.assert_allclose(cosine[:, 1:], 1 - 2 * sine[:, :-1] ** 2, atol=1e-12)


def test_the_slowest_wave_turns_once_in_two_pi():
    quarter = torch.tensor([[math.pi / 2]], dtype=torch.float64)
    encoded = frequencies(quarter, 2)[0]
    np.testing.assert_allclose(encoded, [math.pi / 2, 1, 0, 0, -1], atol=1e-12)


def test_without_frequencies_values_stay_as_they_are():
    values = torch.rand(2, 4, 3)
    assert torch.equal(frequencies(values, 0), values)
