from __future__ import annotations

import itertools
import math

import pytest
import torch

from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.schedules import (
    DiscreteSchedule,
    FlowSchedule,
    Schedule,
    add_noise,
    falling_band,
    loss_weight,
)


def test_alpha_and_sigma_are_the_square_roots_of_the_cumulative_product():
    """Against plain Python floats, with Stable Diffusion's betas written out."""
    schedule = DiscreteSchedule.scaled_linear()
    product = 1.0
    for t in range(1000):
        root = math.sqrt(0.00085) + t / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))
        product *= 1 - root**2
        if t % 111 == 0:
            timestep = torch.tensor(t)
            assert float(schedule.alpha(timestep)) == pytest.approx(math.sqrt(product), rel=1e-6)
            assert float(schedule.sigma(timestep)) == pytest.approx(
                math.sqrt(1 - product), rel=1e-6
            )
            assert float(loss_weight(schedule, timestep)) == pytest.approx(1 - product, rel=1e-6)


def test_noise_is_added_by_each_particles_own_timestep():
    schedule = DiscreteSchedule(torch.tensor([0.64, 0.36, 0.0]))
    clean, noise = torch.ones(3, 2, 4, 5), 10 * torch.ones(3, 2, 4, 5)
    noisy = add_noise(schedule, clean, noise, torch.tensor([0, 1, 2]))
    assert torch.allclose(noisy[:, 0, 0, 0], torch.tensor([0.8 + 6.0, 0.6 + 8.0, 10.0]))
    assert (noisy == noisy[:, :1, :1, :1]).all()


@pytest.mark.parametrize(
    ("t_range", "bounds"),
    [((0.02, 0.5), (20, 500)), ((0.2, 0.5), (200, 500)), ((0.0, 1.0), (0, 999))],
)
def test_a_range_of_fractions_gives_the_release_s_timesteps(t_range, bounds):
    assert DiscreteSchedule.scaled_linear().timestep_bounds(t_range) == bounds


@pytest.mark.parametrize("t_range", [(0.5, 0.2), (0.3, 0.3), (-0.1, 0.5), (0.1, 1.1)])
def test_a_bad_range_is_refused(t_range):
    with pytest.raises(ValueError, match=r"t_range needs 0 <= low < high <= 1.*got \("):
        DiscreteSchedule.scaled_linear().timestep_bounds(t_range)


def test_the_band_falls_from_the_top_of_the_range_to_its_bottom():
    bands = [falling_band(20, 820, progress=k / 100) for k in range(101)]
    assert (bands[0], bands[50], bands[100]) == ((720, 820), (320, 520), (20, 120))
    for (low, high), (next_low, next_high) in itertools.pairwise(bands):
        assert 20 <= next_low <= low <= high <= 820
        assert next_high <= high
    covered = {t for low, high in bands for t in range(low, high + 1)}
    assert covered == set(range(20, 821))


def test_the_band_of_a_range_of_one_timestep_is_that_timestep():
    assert {falling_band(7, 7, progress=k / 4) for k in range(5)} == {(7, 7)}


@pytest.mark.parametrize("table", [[0.5, 0.6], [1.2, 0.5], [0.5, -0.1], [float("nan")], []])
def test_an_impossible_schedule_is_refused(table):
    with pytest.raises(ValueError, match="alphas_cumprod needs"):
        DiscreteSchedule(torch.tensor(table))


def test_timesteps_reach_both_bounds_and_a_seed_repeats_them():
    draws = [
        [SeededRandomness(torch.Generator().manual_seed(s)).timestep(2, 5) for _ in range(1)]
        for s in range(60)
    ]
    assert {value for (value,) in draws} == {2, 3, 4, 5}
    first, second = (SeededRandomness(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.normal((2, 3)), second.normal((2, 3)))
    assert torch.equal(first.choice(9, 4), second.choice(9, 4))


def test_a_choice_repeats_nothing():
    choice = SeededRandomness(torch.Generator().manual_seed(0)).choice(6, 5).tolist()
    assert len(set(choice)) == 5
    assert set(choice) <= set(range(6))


@pytest.mark.parametrize("schedule", [DiscreteSchedule.scaled_linear(), FlowSchedule()])
def test_every_schedule_preserves_the_variance_and_loses_the_image_with_time(schedule):
    assert isinstance(schedule, Schedule)
    low, high = schedule.timestep_bounds((0.0, 1.0))
    steps = torch.arange(low, high + 1)
    alpha, sigma = schedule.alpha(steps).double(), schedule.sigma(steps).double()
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(len(steps)).double(), atol=1e-6)
    assert (alpha[1:] < alpha[:-1]).all()
    assert (sigma[1:] > sigma[:-1]).all()
    assert schedule.timestep_bounds((0.02, 0.5)) == (20, 500)


def test_between_timesteps_the_noise_to_signal_ratio_is_linear():
    schedule = DiscreteSchedule.scaled_linear()
    t = torch.tensor([10.0, 10.25, 11.0])
    ratio = schedule.sigma(t) / schedule.alpha(t)
    assert float(ratio[1]) == pytest.approx(float(0.75 * ratio[0] + 0.25 * ratio[2]), rel=1e-5)
    assert torch.allclose(schedule.alpha(t)[::2], schedule.alpha(torch.tensor([10, 11])))


def test_flow_round_trip():
    """From x and e to the flow model's y and v, and from z and v back to e, to rounding."""
    schedule = FlowSchedule()
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 5, 3, 4, 4, generator=generator)
    timestep = torch.tensor([0, 1, 300, 999, 1000])
    s = (timestep.double() / 1000).view(-1, 1, 1, 1)
    own = (1 - s) * clean + s * noise
    noisy = add_noise(schedule, clean, noise, timestep)
    scale = schedule.scale(timestep).view(-1, 1, 1, 1)
    assert torch.allclose(scale * noisy, own.float(), atol=1e-6)
    velocity = noise - clean
    back = schedule.noise_of_velocity(velocity, noisy, timestep)
    assert torch.allclose(back, noise, atol=2e-6)
