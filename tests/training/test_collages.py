from __future__ import annotations

import numpy as np
import torch

from training.collages import draw_collages


def test_a_collage_depends_on_its_seed_only_and_stays_in_range():
    images = draw_collages([1, 2, 3], height=20, width=32)
    assert images.shape == (3, 3, 20, 32)
    assert 0 <= images.min() <= images.max() <= 1
    assert draw_collages([2], height=20, width=32)[0].equal(images[1])
    assert not images[0].equal(images[1])


def spectral_slope(grey: np.ndarray) -> float:
    """Exponent of the mean power spectrum's fall with frequency."""
    window = np.hanning(64)[:, None] * np.hanning(64)
    windowed = (grey - grey.mean(axis=(1, 2), keepdims=True)) * window
    power = (np.abs(np.fft.fft2(windowed)) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(64) * 64]))
    band = (frequency >= 3) & (frequency <= 20)
    return np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]


def test_the_spectrum_falls_as_that_of_photographs():
    """Photographs reduced to 64 pixels have exponents of -2.5 to -3.3 by this measure."""
    grey = draw_collages(range(24), height=64, width=64).mean(dim=1).double().numpy()
    assert -3.4 < spectral_slope(grey) < -2.4
    assert abs(spectral_slope(np.random.default_rng(0).normal(size=grey.shape))) < 0.2


def test_collages_are_colourful_and_cover_the_range_of_brightness():
    images = draw_collages(range(24), height=32, width=32)
    spread = images.amax(dim=1) - images.amin(dim=1)
    assert 0.1 < spread.mean() < 0.5
    low, high = torch.quantile(images.flatten()[:200_000], torch.tensor([0.02, 0.98]))
    assert low < 0.15
    assert high > 0.8
