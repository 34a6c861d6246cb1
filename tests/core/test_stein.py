"""Stein mixing against its definition, its laws and distributions known in closed form."""

from __future__ import annotations

import math

import jaxtyping
import pytest
import torch

from csd_nerf.core import DiscreteSchedule, rbf_kernel, stein_direction


def random_pair(n, d, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    particles, residuals = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return particles, residuals


def l2_squared(a, b):
    return (a - b).square().sum(-1)


def direction_of(points, residuals, *, bandwidth=None, **options):
    return stein_direction(rbf_kernel(points, bandwidth=bandwidth), residuals, **options)


def slow_direction(particles, residuals, bandwidth, repulsion, normalize, squared):
    """Eq. 8 in descent form by a double loop, the kernel's gradient by autograd."""
    rows = []
    for z_i in particles:
        total, kernel_sum = torch.zeros_like(z_i), 0.0
        for z_j, r_j in zip(particles, residuals, strict=True):
            moving = z_j.clone().requires_grad_()
            k = torch.exp(-squared(moving, z_i) / bandwidth)
            (gradient,) = torch.autograd.grad(k, moving)
            total += k.detach() * r_j - repulsion * gradient
            kernel_sum += k.item()
        rows.append(total / (len(particles) if normalize == "n" else kernel_sum))
    return torch.stack(rows)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("normalize", ["n", "rowsum"])
@pytest.mark.parametrize("repulsion", [0.0, 0.13, 1.0])
def test_the_closed_form_is_the_double_loop(n, normalize, repulsion):
    particles, residuals = random_pair(n, 6)
    fast = direction_of(
        particles, residuals, bandwidth=3.0, repulsion=repulsion, normalize=normalize
    )
    slow = slow_direction(particles, residuals, 3.0, repulsion, normalize, l2_squared)
    assert torch.allclose(fast, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("normalize", ["n", "rowsum"])
def test_one_particle_is_sds(normalize):
    particles, residuals = random_pair(1, 6)
    direction = direction_of(particles, residuals, normalize=normalize)
    assert torch.equal(direction, residuals)


def test_an_infinite_bandwidth_averages():
    particles, residuals = random_pair(4, 6)
    direction = direction_of(particles, residuals, bandwidth=math.inf)
    assert torch.allclose(direction, residuals.mean(0).expand(4, 6))


def test_permuting_particles_permutes_directions():
    particles, residuals = random_pair(7, 6)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    direction = direction_of(particles, residuals)
    permuted = direction_of(particles[order], residuals[order])
    assert torch.allclose(permuted, direction[order])


def test_descent_pushes_two_particles_apart():
    particles = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    direction = direction_of(particles, torch.zeros(2, 2), bandwidth=1.0)
    moved = particles - 0.1 * direction
    assert moved[0, 0] < 0
    assert moved[1, 0] > 1
    assert torch.equal(moved[:, 1], torch.zeros(2))


@pytest.mark.parametrize("normalize", ["n", "rowsum"])
def test_coincident_particles_stay_finite(normalize):
    _, residuals = random_pair(5, 6)
    together = torch.ones(5, 6, dtype=torch.float64)
    some = together.clone()
    some[4] += 1.0
    for particles in (together, some):
        direction = direction_of(particles, residuals, normalize=normalize)
        assert direction.isfinite().all()
    all_together = direction_of(together, residuals)
    assert torch.allclose(all_together, residuals.mean(0).expand(5, 6))


def test_float32_keeps_the_repulsion_of_near_particles():
    """Latents around a common offset that differ by 1e-3, which float32 sums would round off."""
    particles, _ = random_pair(5, 4096)
    near = (10 + 1e-3 * particles).float()
    residuals = torch.zeros_like(near)
    bandwidth = 2e-6 * 4096
    fast = direction_of(near, residuals, bandwidth=bandwidth)
    exact = slow_direction(near.double(), residuals.double(), bandwidth, 1.0, "n", l2_squared)
    error = (fast.double() - exact).norm() / exact.norm()
    assert error < 1e-4


def test_half_precision_comes_back_as_float32_even_under_autocast():
    particles, residuals = (x.half() for x in random_pair(4, 64))
    plain = direction_of(particles, residuals)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = direction_of(particles, residuals)
    assert plain.dtype == mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


def test_a_kernel_on_clean_latents_is_one_on_noisy_latents_that_share_their_noise():
    """The law behind dividing the repulsion by alpha."""
    clean, residuals = random_pair(5, 6)
    alpha, sigma = 0.8, 0.6
    noisy = alpha * clean + sigma * random_pair(1, 6, seed=9)[0]
    on_noisy = direction_of(noisy, residuals, repulsion=sigma)
    on_clean = direction_of(clean, residuals, repulsion=sigma / alpha)
    assert torch.allclose(on_clean, on_noisy)


def test_residuals_of_other_particles_are_refused(monkeypatch):
    # Users run without the shape checks of the tests, and meet our own.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"one shape \(n, d\), got \(2, 3\) and \(4, 3\)"):
        direction_of(torch.zeros(2, 3), torch.zeros(4, 3), bandwidth=1.0)


def settle(sigma, deviation, *, repulsion, n=60, steps=500):
    """Particles' variance over the prior's p_t, for data from N(0, deviation^2) in 1D."""
    variance = (1 - sigma**2) * deviation**2 + sigma**2
    noisy = 1.5 + torch.linspace(-0.5, 0.5, n, dtype=torch.float64)[:, None]
    for _ in range(steps):
        direction = direction_of(noisy, sigma * noisy / variance, repulsion=repulsion)
        noisy = noisy - 0.5 / sigma * min(variance, 2.0) * direction
    assert abs(float(noisy.mean())) < 0.05
    return float(noisy.var(unbiased=False)) / variance


@pytest.mark.parametrize("sigma", [0.13, 0.4, 0.8])
@pytest.mark.parametrize("deviation", [0.7, 2.0])
def test_particles_settle_at_a_gaussian_prior_s_variance(sigma, deviation):
    assert settle(sigma, deviation, repulsion=sigma) == pytest.approx(1, abs=0.1)


def test_the_printed_repulsion_misses_the_gaussian_prior_s_variance():
    """Why the repulsion is scaled by sigma_t: without it a low noise level spreads too far."""
    assert settle(0.13, 1.0, repulsion=1.0) > 5


MODES = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])


def mixture_noise(noisy, alpha, sigma, deviation=0.1):
    """The exact noise estimate for an even mixture of Gaussians around MODES."""
    variance = (alpha * deviation) ** 2 + sigma**2
    offset = noisy[:, None] - alpha * MODES
    shares = torch.softmax(-offset.square().sum(-1) / (2 * variance), 1)
    return sigma * (shares[..., None] * offset).sum(1) / variance


def distil(mix, *, rate, seed, steps=400):
    """16 near-equal particles, one noise for all (Eq. 8), from high noise levels to low."""
    schedule = DiscreteSchedule.scaled_linear()
    generator = torch.Generator().manual_seed(seed)
    clean = 0.3 + 0.1 * torch.randn(16, 2, generator=generator)
    for t in torch.linspace(500, 20, steps).round().long():
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        noise = torch.randn(1, 2, generator=generator).expand_as(clean)
        noisy = alpha * clean + sigma * noise
        residual = mixture_noise(noisy, alpha, sigma) - noise
        if mix:
            residual = direction_of(noisy, residual, repulsion=sigma)
        clean = clean - rate * sigma**2 * residual
    return torch.cdist(clean, MODES).min(1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_particles_find_several_modes_of_a_mixture_where_sds_finds_one(seed):
    """Modes lie 4 apart, and the particles begin 2.4 from the nearest."""
    distance, mode = distil(True, rate=3.0, seed=seed)
    assert float(distance.max()) < 1.0
    assert float(distance.mean()) < 0.7
    assert len(mode.unique()) >= 3

    distance, mode = distil(False, rate=0.3, seed=seed)
    assert float(distance.max()) < 0.3
    assert len(mode.unique()) == 1
