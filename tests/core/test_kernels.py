from __future__ import annotations

import math
from itertools import combinations
from statistics import median

import pytest
import torch

from csd_nerf.core.kernels import median_bandwidth, rbf, squared_distances


def random_particles(n, d, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_distances_keep_their_digits_at_a_spread_of_a_thousandth(dtype):
    """Particles of norm 128 that differ by 1e-3 a coordinate, as late in an edit."""
    base = random_particles(1, 16384)
    near = (base + 1e-3 * random_particles(4, 16384, seed=1)).to(dtype)
    exact = torch.stack([(near.double() - row).square().sum(1) for row in near.double()])
    assert torch.allclose(squared_distances(near).double(), exact, rtol=1e-5, atol=0)

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
    assert float(median_bandwidth(particles)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_bandwidth_of_coincident_particles_is_the_floor(n):
    particles = torch.ones(n, 3)
    bandwidth = median_bandwidth(particles, floor=1e-4)
    assert float(bandwidth) == pytest.approx(1e-4)
    assert torch.equal(rbf(squared_distances(particles), bandwidth=bandwidth), torch.ones(n, n))


def test_the_kernel_of_any_distance_is_one_at_no_distance_and_falls():
    squared = torch.tensor([0.0, 1.0, 4.0])
    values = rbf(squared, bandwidth=2.0)
    assert values.tolist() == pytest.approx([1.0, math.exp(-0.5), math.exp(-2.0)])
    assert rbf(squared, bandwidth=math.inf).tolist() == [1.0, 1.0, 1.0]


def test_another_distance_takes_the_place_of_squared_l2():
    def l1_squared(a, b):
        return (a - b).abs().sum(1).square()

    particles = random_particles(4, 3)
    squared = squared_distances(particles, distance=l1_squared)
    for i, j in combinations(range(4), 2):
        expected = float((particles[i] - particles[j]).abs().sum()) ** 2
        assert float(squared[i, j]) == pytest.approx(expected)
        assert float(squared[j, i]) == pytest.approx(expected)
