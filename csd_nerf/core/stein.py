"""Stein mixing of per-particle residuals.

Sign: a residual points to where the energy rises; callers descend.
Kernel: k(x, y) = exp(-d(x, y)^2 / h); see `csd_nerf.core.kernels`.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.kernels import Kernel

Normalize = Literal["n", "rowsum"]


def stein_direction(
    kernel: Kernel,
    residuals: Float[Tensor, "n d"],
    *,
    repulsion: float = 1.0,
    normalize: Normalize = "n",
) -> Float[Tensor, "n d"]:
    """Average residuals by similarity and push particles apart.

    CSD Eq. 8 without w(t), in descent form:

        g_i = 1/N sum_j [ k(z_j, z_i) r_j - repulsion * grad_{z_j} k(z_j, z_i) ].

    The paper prints + before the gradient, which in a descent step would pull particles
    together; the authors' release pushes them apart, as does this. Eq. 9 prints the residual of
    particle i inside the sum over j; Eq. 8, the derivation and the release have that of j. With
    n = 1 the residual comes back, so that CSD becomes SDS.

    The kernel may compare other points than the noisy latents. For clean latents
    x = (z - sigma_t e) / alpha_t the chain rule makes grad_z = grad_x / alpha_t: build the kernel
    of x and divide `repulsion` by alpha_t. The outcome is then that of noisy latents which share
    one noise.

    Args:
        kernel: From `rbf_kernel`, of points of the residuals' shape.
        residuals: Noise-estimate differences r_j, one particle a row.
        repulsion: Factor of the kernel's gradient. 1 is the printed form. With the score
            -e / sigma_t, only sigma_t has the prior's distribution as its fixed point.
        normalize: "n" divides by N, as the paper does; "rowsum" by particle i's own
            sum of k, which keeps the step's size independent of N.

    Raises:
        ValueError: If kernel and residuals differ in shape.
    """
    if kernel.gradient.shape != residuals.shape:
        raise ValueError(
            "The kernel's points and the residuals need one shape (n, d), got "
            f"{tuple(kernel.gradient.shape)} and {tuple(residuals.shape)}."
        )
    with torch.autocast(residuals.device.type, enabled=False):
        total = kernel.values @ residuals.to(kernel.values) - repulsion * kernel.gradient
        return total / _divisor(kernel, normalize)


def mixed_residuals(
    kernel: Kernel, residuals: Float[Tensor, "n d"], *, normalize: Normalize = "n"
) -> Float[Tensor, "n d"]:
    """The first term of `stein_direction` alone: residuals averaged by similarity.

    The residuals may live in another space than the points that the kernel compares, as latents
    and the pixels of rendered views do.
    """
    return kernel.values @ residuals / _divisor(kernel, normalize)


def repulsion_step(
    kernel: Kernel, *, repulsion: float, normalize: Normalize = "n"
) -> Float[Tensor, "n d"]:
    """The second term of `stein_direction` alone, in the space of the points compared."""
    return -repulsion * kernel.gradient / _divisor(kernel, normalize)


def _divisor(kernel: Kernel, normalize: Normalize) -> int | Float[Tensor, "n 1"]:
    return kernel.values.sum(1, keepdim=True) if normalize == "rowsum" else len(kernel.values)
