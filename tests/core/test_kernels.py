from __future__ import annotations

import math
from itertools import combinations
from statistics import median, median_low

import pytest
import torch

from csd_nerf.core.kernels import median_bandwidth, rbf_kernel, squared_distances


def random_particles(n, d, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_distances_keep_their_digits_at_a_spread_of_a_thousandth(dtype):
    """Particles of norm 128 that differ by 1e-3 a coordinate, as late in an edit."""
    base = random_particles(1, 16384)
    near = (base + 1e-3 * random_particles(4, 16384, seed=1)).to(dtype)
    exact = torch.stack([(near.double() - row).square().sum(1) for row in near.double()])
    values = rbf_kernel(near, bandwidth=float(exact.max())).values.double()
    assert torch.allclose(-values.log() * exact.max(), exact, rtol=1e-4, atol=0)

    # The uncentred product form is what this guards against.
    gram = near.float() @ near.float().T
    expanded = gram.diag()[:, None] - 2 * gram + gram.diag()
    if dtype == torch.float32:
        assert not torch.allclose(expanded.double(), exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_the_bandwidth_is_the_median_of_pairs_without_the_diagonal(n):
    particles = random_particles(n, 5)
    pairs = [float((a - b).square().sum()) for a, b in combinations(particles, 2)]
    expected = median(pairs) / math.log(n + 1)
    assert float(median_bandwidth(squared_distances(particles))) == pytest.approx(expected)


@pytest.mark.parametrize("n", [3, 4, 7])
def test_the_bandwidth_with_the_diagonal_is_the_lower_median_of_all_distances(n):
    particles = random_particles(n, 5)
    every = [float((a - b).square().sum()) for a in particles for b in particles]
    expected = median_low(every) / math.log(n + 1)
    squared = squared_distances(particles)
    assert float(median_bandwidth(squared, median="with-diagonal")) == pytest.approx(expected)
    assert expected < float(median_bandwidth(squared))
    values = rbf_kernel(particles, median="with-diagonal").values
    assert torch.allclose(values, (-squared / expected).exp())


@pytest.mark.parametrize("n", [1, 2])
def test_with_the_diagonal_too_one_or_two_particles_give_finite_numbers(n):
    kernel = rbf_kernel(random_particles(n, 5), median="with-diagonal")
    assert kernel.values.isfinite().all()
    assert kernel.gradient.isfinite().all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_bandwidth_of_coincident_particles_is_the_floor(n):
    squared = squared_distances(torch.ones(n, 3))
    assert float(median_bandwidth(squared, floor=1e-4)) == pytest.approx(1e-4)
    assert torch.equal(rbf_kernel(torch.ones(n, 3)).values, torch.ones(n, n))


def test_the_kernel_is_one_at_no_distance_and_falls():
    points = torch.tensor([[0.0], [1.0], [2.0]])
    values = rbf_kernel(points, bandwidth=2.0).values[0]
    assert values.tolist() == pytest.approx([1.0, math.exp(-0.5), math.exp(-2.0)])
    assert rbf_kernel(points, bandwidth=math.inf).values.tolist() == [[1.0] * 3] * 3


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan])
def test_a_bandwidth_that_is_not_positive_is_refused(bandwidth):
    with pytest.raises(ValueError, match="bandwidth needs to be positive, got"):
        rbf_kernel(torch.zeros(2, 3), bandwidth=bandwidth)


def test_distances_are_computed_once(monkeypatch):
    from csd_nerf.core import kernels

    calls = []
    monkeypatch.setattr(
        kernels, "squared_distances", lambda x: calls.append(len(x)) or squared_distances(x)
    )
    rbf_kernel(random_particles(4, 3))
    assert calls == [4]
