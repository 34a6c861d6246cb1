"""The residual between velocities: its definition, its limits, and where it leads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csd_nerf.core.canvas import Particles
from csd_nerf.core.schedules import FlowSchedule
from csd_nerf.core.velocities import Velocities

LEVELS = (0.05, 0.4, 0.93)
SHIFTS = (0.0, 0.3, 1.0)
SHARES = (0.0, 0.25, 1.0)


def draws(count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 4, 5)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def of(shift, share):
    return Velocities(FlowSchedule(), shift, share, levels_per_update=0.1)


def turned(residual, clean, source, *, level, shift, share):
    velocities = of(shift, share)
    return velocities.residual(
        residual, Particles(clean, source, {}), torch.tensor(round(1000 * level))
    )


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("level", LEVELS)
def test_it_is_the_difference_of_velocities_number_by_number(level, shift, share):
    """For any two velocities, without the identity that the module derives."""
    clean, source, noise, velocity, source_velocity = draws(5)
    own = torch.empty_like(noise)
    residual, expected = torch.empty_like(noise), torch.empty_like(noise)
    for at in np.ndindex(*noise.shape):
        x, x0, e = (float(t[at]) for t in (clean, source, noise))
        v, v0 = float(velocity[at]), float(source_velocity[at])
        y = (1 - level) * x + level * e + shift * level * (x - x0)
        y0 = (1 - level) * x0 + level * e
        drawn = (y - (1 - level) * x) / level
        own[at] = drawn
        residual[at] = y + (1 - level) * v - share * (y0 + (1 - level) * v0) - (1 - share) * drawn
        expected[at] = (1 - level) * (v - share * v0 - (1 - share) * (drawn - x))
    found = of(shift, share).own_noise(noise, Particles(clean, source, {}))
    assert torch.allclose(found, own, atol=1e-12)
    found = turned(residual, clean, source, level=level, shift=shift, share=share)
    # The level is float32.
    assert torch.allclose(found, expected, atol=1e-6)


def test_unedited_particles_and_sds_have_the_residual_of_the_noise():
    residual, clean, source = draws(3)
    options = {"level": 0.4, "shift": 0.3}
    assert torch.equal(turned(residual, clean, clean, share=1.0, **options), residual)
    assert torch.equal(turned(residual, clean, source, share=0.0, **options), residual)


def test_a_step_is_the_share_of_the_range_of_levels_times_the_difference_of_velocities():
    velocities = Velocities(FlowSchedule(), 1.0, 1.0, levels_per_update=0.02)
    assert velocities.weight(torch.tensor(750)) == pytest.approx(0.02 / 0.25)
    assert velocities.weight(torch.tensor(1000)) == 0


class Gaussians:
    """A model that knows the velocities of N(1, deviation^2) for the edit, of N(0, ...) else."""

    def __init__(self, deviation):
        self.deviation = deviation

    def velocity(self, y, level, mean):
        spread = level**2 + (1 - level) ** 2 * self.deviation**2
        off = y - (1 - level) * mean
        return level * off / spread - mean - (1 - level) * self.deviation**2 * off / spread

    def differences(self, x, level, *, shift, share):
        """Mean residuals (noise, velocity) of one number whose source is 0.

        All is linear in the drawn noise, so that it is replaced by its mean, 0.
        """
        own = shift * x
        y = (1 - level) * x + level * own
        v, v0 = self.velocity(y, level, 1.0), self.velocity(0.0, level, 0.0)
        noise = y + (1 - level) * v - share * (1 - level) * v0 - (1 - share) * own
        return noise, v - share * v0 - (1 - share) * (own - x)

    def passed(self, x, *, shift, share, steps=20000):
        """Where one pass of Euler steps from s = 1 to 0 ends."""
        for k in range(steps):
            velocity = self.differences(x, 1 - (k + 0.5) / steps, shift=shift, share=share)[1]
            x -= velocity / steps
        return x


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("deviation", [0.0, 0.3])
@pytest.mark.parametrize("level", [0.2, 0.5, 0.9])
def test_only_the_noise_s_residual_is_zero_at_the_answer(level, deviation, share):
    model = Gaussians(deviation)
    assert model.differences(1.0, level, shift=0.0, share=share)[0] == pytest.approx(0, abs=1e-12)
    u = level - (1 - level) * deviation**2
    spread = level**2 + (1 - level) ** 2 * deviation**2
    for shift in SHIFTS:
        slope = u * (1 - level + shift * level) + spread * (1 - share) * (1 - shift)
        found = model.differences(level / slope, level, shift=shift, share=share)[1]
        assert found == pytest.approx(0, abs=1e-12)
        assert level / slope > 1 - 1e-12
    beyond = model.differences(1.0, level, shift=0.0, share=1.0)[1]
    assert beyond < -0.05


def test_at_little_noise_the_difference_of_velocities_drives_away():
    """Below s / (1 - s) = D^2, here at s = 0.083: the farther x is, the farther it goes."""
    model = Gaussians(0.3)
    for level, sign in ((0.05, -1), (0.12, 1)):
        near, far = (model.differences(x, level, shift=1.0, share=1.0)[1] for x in (2.0, 3.0))
        assert np.sign(far - near) == sign


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_one_pass_with_the_shift_1_ends_at_the_answer_and_later_ones_go_on(share):
    model = Gaussians(0.3)
    assert model.passed(0.0, shift=1.0, share=share) == pytest.approx(1, abs=1e-3)
    assert model.passed(1.0, shift=1.0, share=share) == pytest.approx(1.3, abs=1e-3)
    assert model.passed(1 / 0.7, shift=1.0, share=share) == pytest.approx(1 / 0.7, abs=1e-3)


def test_one_pass_without_a_shift_ends_beyond_the_answer():
    assert Gaussians(0.3).passed(0.0, shift=0.0, share=1.0) == pytest.approx(1.2, abs=0.05)
