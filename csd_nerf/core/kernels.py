"""The kernel of Stein mixing and its bandwidth.

Kernel: k(x, y) = exp(-d(x, y)^2 / h), where h is a squared distance.
Distances come from differences, in float32 at least: |x|^2 - 2 x.y + |y|^2 loses the digits of
particles that lie close together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Features = Callable[[Tensor], Tensor]
"""A differentiable map of particles to features: (n d) -> (n f)."""
Median = Literal["off-diagonal", "with-diagonal"]
"""Which entries of the matrix of squared distances `median_bandwidth` takes the median of."""
_Heuristic = Callable[[Tensor], Tensor]
"""A bandwidth from squared distances: (n n) -> scalar."""


@dataclass(frozen=True)
class Kernel:
    """Values and gradients of a kernel between N particles, as `stein_direction` takes them."""

    values: Float[Tensor, "n n"]
    """k(x_j, x_i); symmetric, with ones on the diagonal."""
    gradient: Float[Tensor, "n d"]
    """Row i is sum_j grad_{x_j} k(x_j, x_i), the gradient with respect to the first argument."""


def rbf_kernel(
    points: Float[Tensor, "n d"],
    features: Features | None = None,
    *,
    bandwidth: float | Float[Tensor, ""] | None = None,
    median: Median = "off-diagonal",
    divisor: float | None = None,
    exponent: int = 1,
) -> Kernel:
    """Kernel values and gradients between all points; each distance is computed once.

    k(x, y) = exp(-d^2 / h) with d^2 = |phi(x) - phi(y)|^(2 exponent). The gradient treats
    the bandwidth as a constant. Without features the gradient has the closed form
    -2/h [(K x)_i - (sum_j k_ij) x_i]; with features it comes from autograd, one row at a
    time, and each particle's features are computed once.

    Args:
        points: The points x to compare, one particle per row.
        features: phi; None means the points themselves.
        bandwidth: h > 0, in units of d^2; infinity makes k = 1 everywhere. None takes
            `median_bandwidth`. A tensor is not checked, because reading its value would make the
            CPU wait for the device.
        median: For a bandwidth of None: of which distances; see `median_bandwidth`.
        divisor: For a bandwidth of None: what the median is divided by; None means log(N + 1).
        exponent: 1 makes d the distance |phi(x) - phi(y)|. 2 makes d its square, for features
            whose squared distance is the wanted distance, such as `lpips_features`.

    Raises:
        ValueError: If the bandwidth is not positive.
    """
    if isinstance(bandwidth, (int, float)) and not bandwidth > 0:
        raise ValueError(
            f"bandwidth needs to be positive, got {bandwidth}; None takes the median heuristic."
        )
    heuristic: _Heuristic = partial(median_bandwidth, median=median, divisor=divisor)
    # Mixed precision would round the small differences of near-equal particles to zero.
    with torch.autocast(points.device.type, enabled=False):
        x = points.detach().to(torch.promote_types(points.dtype, torch.float32))
        if features is not None:
            return _feature_kernel(x, features, bandwidth, heuristic, exponent)
        squared = squared_distances(x).pow(exponent)
        h = heuristic(squared) if bandwidth is None else bandwidth
        values = torch.exp(-squared / h)
        slope = values if exponent == 1 else values * exponent * squared.pow(1 - 1 / exponent)
        # The gradient doesn't change if all points are shifted. Centring keeps both terms as small
        # as their difference, which then keeps its digits.
        centred = x - x.mean(0)
        gradient = (slope @ centred - slope.sum(1, keepdim=True) * centred) * (-2 / h)
        return Kernel(values, gradient)


def squared_distances(points: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Squared L2 distances of all pairs."""
    mode = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(points, points, compute_mode=mode)
    # In place where no gradient needs them: of thousands of points there are gigabytes.
    return distances.square() if distances.requires_grad else distances.square_()


@torch.no_grad()
def median_bandwidth(
    squared: Float[Tensor, "n n"],
    *,
    median: Median = "off-diagonal",
    divisor: float | None = None,
    floor: float = 1e-8,
) -> Float[Tensor, ""]:
    """The median heuristic: h = median of d^2 over pairs i < j, divided by log(N + 1).

    The zero distance of a particle to itself is left out. The authors' release takes the median of
    all N^2 distances, including the zeros; `median="with-diagonal"` restores that. For one or two
    particles that median is zero, and the release's kernel NaN. The paper's text-to-3D (Appendix
    C.2) divides by log N, which is zero for one particle.

    The result is at least floor + 1e-4 max d^2. The first term serves particles that all coincide.
    The second serves sets of which more than half of the pairs coincide, so that the median is
    near zero: with so small a bandwidth the repulsion would consist of amplified rounding errors.

    Args:
        squared: Squared distances of all pairs.
        median: off-diagonal: the distances of different particles. with-diagonal: all N^2, of which
            the lower of the two middle ones is the median, as `torch.median` defines it.
        divisor: What the median is divided by; None means log(N + 1).
        floor: Smallest bandwidth; the bandwidth of a single particle.
    """
    n = len(squared)
    if n < 2:
        return squared.new_full((), floor)
    upper = torch.triu_indices(n, n, offset=1, device=squared.device)
    pairs = squared[upper[0], upper[1]].sort().values
    if median == "with-diagonal":
        middle = squared.median()
    else:
        middle = (pairs[(len(pairs) - 1) // 2] + pairs[len(pairs) // 2]) / 2
    scale = log(n + 1) if divisor is None else divisor
    return torch.maximum(middle / scale, floor + 1e-4 * pairs[-1])


@torch.enable_grad()
def _feature_kernel(
    points: Float[Tensor, "n d"],
    features: Features,
    bandwidth: float | Float[Tensor, ""] | None,
    heuristic: _Heuristic,
    exponent: int,
) -> Kernel:
    # The gradient with respect to a common shift of all x_j is the sum over j of their gradients.
    shift = torch.zeros_like(points[0], requires_grad=True)
    embedded = features(points + shift)
    still = embedded.detach()
    squared = squared_distances(still).pow(exponent)
    h = heuristic(squared) if bandwidth is None else bandwidth
    n = len(points)
    rows = []
    for i in range(n):
        # j = i is left out: k(x_i, x_i) is the maximum of k, where the gradient is zero.
        others = [j for j in range(n) if j != i]
        apart = (embedded[others] - still[i]).square().sum(1).pow(exponent)
        total = torch.exp(-apart / h).sum()
        rows.append(torch.autograd.grad(total, shift, retain_graph=i + 1 < n)[0])
    return Kernel(torch.exp(-squared / h), torch.stack(rows))
