"""The kernel on features, against its definition by double loops."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import median

import pytest
import torch

from csd_nerf.core.kernels import rbf_kernel
from csd_nerf.core.stein import mixed_residuals, repulsion_step, stein_direction


def particles(n, d=5, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def bend(x):
    """A smooth feature map that no shift leaves as it is."""
    return torch.cat([x.tanh(), 0.3 * x.square()], dim=-1)


def slow_terms(points, features, exponent):
    """Kernel values and the sums of their gradients, pair by pair."""
    n = len(points)

    def squared(a, b):
        return (features(a) - features(b)).square().sum() ** exponent

    pairs = [float(squared(a, b)) for a, b in combinations(points, 2)]
    bandwidth = median(pairs) / math.log(n)
    values = torch.zeros(n, n, dtype=torch.float64)
    gradient = torch.zeros_like(points)
    for i in range(n):
        for j in range(n):
            moving = points[j].clone().requires_grad_()
            k = torch.exp(-squared(moving, points[i]) / bandwidth)
            values[i, j] = k.detach()
            if i != j:
                gradient[i] += torch.autograd.grad(k, moving)[0]
    return values, gradient


@pytest.mark.parametrize("n", [3, 4, 7])
@pytest.mark.parametrize(("features", "exponent"), [(None, 1), (None, 2), (bend, 1), (bend, 2)])
def test_the_kernel_on_features_is_the_double_loop(n, features, exponent):
    points = particles(n)
    kernel = rbf_kernel(points, features, exponent=exponent, divisor=math.log(n))
    values, gradient = slow_terms(points, features or (lambda x: x), exponent)
    # The bandwidth has a floor, a ten thousandth of the largest distance.
    assert torch.allclose(kernel.values, values, rtol=3e-3)
    assert torch.allclose(kernel.gradient, gradient, rtol=1e-2, atol=1e-4)


def test_each_particle_is_embedded_once():
    seen = []

    def count(x):
        seen.append(len(x))
        return x

    rbf_kernel(particles(5), count)
    assert seen == [5]


@pytest.mark.parametrize("normalize", ["n", "rowsum"])
def test_both_terms_together_are_the_stein_direction(normalize):
    points, residuals = particles(4), particles(4, seed=1)
    kernel = rbf_kernel(points)
    whole = stein_direction(kernel, residuals, repulsion=0.3, normalize=normalize)
    mixed = mixed_residuals(kernel, residuals, normalize=normalize)
    apart = repulsion_step(kernel, repulsion=0.3, normalize=normalize)
    assert torch.allclose(mixed + apart, whole, rtol=1e-9)


@pytest.mark.parametrize("features", [None, bend])
@pytest.mark.parametrize("exponent", [1, 2])
def test_coincident_particles_and_a_lone_one_stay_finite(exponent, features):
    for points in (torch.zeros(3, 4), torch.ones(1, 4), torch.zeros(2, 4)):
        kernel = rbf_kernel(points, features, exponent=exponent)
        assert torch.equal(kernel.values, torch.ones(len(points), len(points)))
        assert torch.equal(kernel.gradient, torch.zeros_like(points))
