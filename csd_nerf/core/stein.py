"""Stein mixing of per-particle residuals.

Sign: a residual points to where the energy rises; callers descend.
Kernel: k(x, y) = exp(-d(x, y)^2 / h); h is a squared distance.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.kernels import SquaredDistance, rbf, squared_distances

Normalize = Literal["n", "rowsum"]


def stein_direction(
    particles: Float[Tensor, "n d"],
    residuals: Float[Tensor, "n d"],
    *,
    bandwidth: float | Float[Tensor, ""],
    repulsion: float = 1.0,
    normalize: Normalize = "n",
    distance: SquaredDistance | None = None,
) -> Float[Tensor, "n d"]:
    """Average residuals by similarity and push particles apart.

    CSD Eq. 8 without w(t), in descent form:

        g_i = 1/N sum_j [ k(z_j, z_i) r_j - repulsion * grad_{z_j} k(z_j, z_i) ].

    The paper prints + before the gradient, which in a descent step would pull particles
    together; the authors' release pushes them apart, as does this. Eq. 9 prints the residual of
    particle i inside the sum over j; Eq. 8, the derivation and the release have that of j. With
    n = 1 the residual comes back, so that CSD becomes SDS. The bandwidth counts as a constant of
    the gradient.

    The kernel may compare other points than the noisy latents. For clean latents
    x = (z - sigma_t e) / alpha_t the chain rule makes grad_z = grad_x / alpha_t: pass x as
    `particles` and divide `repulsion` by alpha_t. The outcome is then that of noisy latents
    which share one noise.

    Args:
        particles: Points that the kernel compares, one a row: noisy latents z_i in the prior's
            latent scale.
        residuals: Noise-estimate differences r_j, e.g. from `edit_residual`.
        bandwidth: h > 0 in squared units of the distance; infinity means k = 1. A tensor is
            taken as it is: reading its value would stall the device.
        repulsion: Factor of the kernel's gradient. 1 is the printed form. With the score
            -e / sigma_t, only sigma_t has the prior's distribution as its fixed point.
        normalize: "n" divides by N, as the paper does; "rowsum" by particle i's own
            sum of k, which keeps the step's size independent of N.
        distance: Differentiable squared distance, by autograd; None means squared L2 in closed
            form.

    Raises:
        ValueError: If bandwidth is not positive or shapes differ.
    """
    if isinstance(bandwidth, (int, float)) and not bandwidth > 0:
        raise ValueError(
            f"bandwidth needs to be positive, got {bandwidth}; median_bandwidth() never is 0."
        )
    if particles.shape != residuals.shape:
        raise ValueError(
            "particles and residuals need one shape (n, d), got "
            f"{tuple(particles.shape)} and {tuple(residuals.shape)}."
        )
    # Mixed precision would round the sums of near-equal particles to nothing.
    with torch.autocast(particles.device.type, enabled=False):
        dtype = torch.promote_types(particles.dtype, torch.float32)
        particles, residuals = particles.detach().to(dtype), residuals.to(dtype)
        kernel = rbf(squared_distances(particles, distance=distance), bandwidth=bandwidth)
        if distance is None:
            gradient = _l2_kernel_gradient(particles, kernel, bandwidth)
        else:
            gradient = _kernel_gradient(particles, bandwidth, distance)
        total = kernel @ residuals - repulsion * gradient
        return total / _divisor(kernel, normalize)


def mix_residuals(
    kernel: Float[Tensor, "n n"],
    residuals: Float[Tensor, "n d"],
    *,
    normalize: Normalize = "n",
) -> Float[Tensor, "n d"]:
    """The first term of `stein_direction` alone: residuals averaged by similarity.

    Residuals and the points that the kernel compared may live in different spaces, as latents and
    the pixels of rendered views do. The same goes for the second term, `repulsion_step`.
    """
    return kernel @ residuals / _divisor(kernel, normalize)


def repulsion_step(
    kernel: Float[Tensor, "n n"],
    gradient: Float[Tensor, "n d"],
    *,
    repulsion: float,
    normalize: Normalize = "n",
) -> Float[Tensor, "n d"]:
    """The second term of `stein_direction` alone, in the space of the points compared.

    Args:
        kernel: Values of the kernel.
        gradient: Row i: the sum over j of the gradient of k(x_j, x_i) by x_j.
        repulsion: Factor of the kernel's gradient.
        normalize: As for `stein_direction`.
    """
    return -repulsion * gradient / _divisor(kernel, normalize)


def _divisor(kernel: Float[Tensor, "n n"], normalize: Normalize) -> int | Float[Tensor, "n 1"]:
    return kernel.sum(1, keepdim=True) if normalize == "rowsum" else len(kernel)


def _l2_kernel_gradient(
    particles: Float[Tensor, "n d"],
    kernel: Float[Tensor, "n n"],
    bandwidth: float | Float[Tensor, ""],
) -> Float[Tensor, "n d"]:
    """Row i: sum_j grad_{z_j} k(z_j, z_i) = -2/h [(K z)_i - (sum_j k_ij) z_i]."""
    # The difference doesn't change under a shift; centred, its terms are as small as it is.
    centred = particles - particles.mean(0)
    return (kernel @ centred - kernel.sum(1, keepdim=True) * centred) * (-2 / bandwidth)


@torch.enable_grad()
def _kernel_gradient(
    particles: Float[Tensor, "n d"],
    bandwidth: float | Float[Tensor, ""],
    distance: SquaredDistance,
) -> Float[Tensor, "n d"]:
    """Row i: sum_j grad_{z_j} k(z_j, z_i), by autograd, row after row to bound its memory."""
    rows = []
    for i, anchor in enumerate(particles):
        # A common shift of all z_j has the sum of their gradients as its gradient. Particle i
        # is left out: k is largest at itself, and a distance's gradient may be singular there.
        others = torch.cat([particles[:i], particles[i + 1 :]])
        shift = torch.zeros_like(anchor, requires_grad=True)
        squared = distance(others + shift, anchor.expand_as(others))
        rows.append(torch.autograd.grad(rbf(squared, bandwidth=bandwidth).sum(), shift)[0])
    return torch.stack(rows)
