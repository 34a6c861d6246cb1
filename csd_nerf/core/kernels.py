"""The kernel of Stein mixing and its bandwidth.

Kernel: k(x, y) = exp(-d(x, y)^2 / h), where h is a squared distance.
Distances come from differences, in float32 at least: |x|^2 - 2 x.y + |y|^2 loses the digits of
particles that lie close together.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SquaredDistance = Callable[[Tensor, Tensor], Tensor]
"""A differentiable squared distance of paired rows: (m d, m d) -> (m).

It is symmetric, zero between equals, and its gradient there is finite. LPIPS, which the paper
takes for text-to-3D, is a distance: its square belongs here.
"""


def squared_distances(
    particles: Float[Tensor, "n d"], *, distance: SquaredDistance | None = None
) -> Float[Tensor, "n n"]:
    """Squared distances of all pairs; squared L2 unless another `distance` is given."""
    if distance is None:
        points = particles.to(torch.promote_types(particles.dtype, torch.float32))
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(points, points, compute_mode=mode).square()
    rows = [distance(particles, anchor.expand_as(particles)) for anchor in particles]
    return torch.stack(rows)


@torch.no_grad()
def median_bandwidth(
    particles: Float[Tensor, "n d"],
    *,
    distance: SquaredDistance | None = None,
    floor: float = 1e-8,
) -> Float[Tensor, ""]:
    """The median heuristic, h = median of d^2 over pairs i < j, divided by log(N + 1).

    A particle is no pair with itself: the authors' release counts the zero diagonal, and its
    bandwidth is NaN for one particle. No gradient flows into h. The paper's text-to-3D divides
    by log N, which is zero for one particle.

    Args:
        particles: The points that the kernel compares, one a row.
        distance: Squared distance; None means squared L2.
        floor: Smallest bandwidth, in squared units of the distance; it holds where there is no
            pair, or where all particles coincide. Where those of half the pairs do, a ten
            thousandth of the largest squared distance holds.
    """
    squared = squared_distances(particles, distance=distance)
    return bandwidth_of(squared, divisor=log(len(particles) + 1), floor=floor)


@torch.no_grad()
def bandwidth_of(
    squared: Float[Tensor, "n n"], *, divisor: float, floor: float = 1e-8
) -> Float[Tensor, ""]:
    """The median heuristic from squared distances; see `median_bandwidth`.

    Args:
        squared: Squared distances of all pairs.
        divisor: What the median is divided by: log(N + 1), or log N as in CSD Appendix C.2.
        floor: Smallest bandwidth.
    """
    n = len(squared)
    if n < 2:
        return squared.new_full((), floor)
    upper = torch.triu_indices(n, n, offset=1, device=squared.device)
    pairs = squared[upper[0], upper[1]].sort().values
    median = (pairs[(len(pairs) - 1) // 2] + pairs[len(pairs) // 2]) / 2
    # Relative to the largest distance: a far smaller bandwidth would blow the rounding errors of
    # coincident particles up to a repulsion.
    return torch.maximum(median / divisor, floor + 1e-4 * pairs[-1])


def rbf(
    squared: Float[Tensor, "*shape"], *, bandwidth: float | Float[Tensor, ""]
) -> Float[Tensor, "*shape"]:
    """Kernel values exp(-d^2 / h) from squared distances; an infinite h gives 1."""
    return torch.exp(-squared / bandwidth)


class KernelTerms(NamedTuple):
    """What Stein mixing needs of a kernel."""

    values: Float[Tensor, "n n"]
    """k(x_j, x_i), with ones on the diagonal."""
    gradient: Float[Tensor, "n d"]
    """Row i: the sum over j of the gradient of k(x_j, x_i) by x_j."""


Features = Callable[[Tensor], Tensor]
"""A differentiable map of particles to features: (n d) -> (n f)."""


@torch.enable_grad()
def feature_kernel(
    particles: Float[Tensor, "n d"],
    features: Features | None = None,
    *,
    exponent: int = 1,
    divisor: float | None = None,
) -> KernelTerms:
    """A kernel on features, with the median bandwidth; a particle's features are computed once.

    k(x, y) = exp(-d^2 / h) with d^2 = |phi(x) - phi(y)|^(2 exponent). LPIPS is the squared distance
    of weighted features (`csd_nerf.priors.lpips`), and itself the paper's d: exponent 2.

    Args:
        particles: One a row.
        features: phi; None means the particles themselves.
        exponent: 1, or 2 where the squared distance of features is the distance.
        divisor: Of the median; None means log N for two particles and more, as in CSD's
            Appendix C.2. For two, log 2.
    """
    points = particles.detach().to(torch.promote_types(particles.dtype, torch.float32))
    # A common shift of all x_j has the sum of their gradients as its gradient.
    shift = torch.zeros_like(points[0], requires_grad=True)
    embedded = points + shift if features is None else features(points + shift)
    still = embedded.detach()
    squared = squared_distances(still).pow(exponent)
    n = len(points)
    bandwidth = bandwidth_of(squared, divisor=log(max(n, 2)) if divisor is None else divisor)
    rows = []
    for i in range(n):
        # Particle i is left out: k is largest at itself, where its gradient is zero.
        others = [j for j in range(n) if j != i]
        apart = (embedded[others] - still[i]).square().sum(1).pow(exponent)
        total = rbf(apart, bandwidth=bandwidth).sum()
        rows.append(torch.autograd.grad(total, shift, retain_graph=i + 1 < n)[0])
    return KernelTerms(rbf(squared, bandwidth=bandwidth), torch.stack(rows))
