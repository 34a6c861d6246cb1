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
    """Average the residuals of similar particles, and push particles apart.

    CSD Eq. 8 without w(t), in descent form:

        g_i = 1/N sum_j [ k(z_j, z_i) r_j - repulsion * grad_{z_j} k(z_j, z_i) ].

    The paper prints + before the gradient, which in a descent step would pull particles
    together; the authors' release and this function push them apart. Eq. 9 prints r_i inside the
    sum over j; Eq. 8, its derivation and the release have r_j. For N = 1 the result is the
    residual itself, so that CSD becomes SDS.

    The kernel may also compare clean latents x = (z - sigma_t e) / alpha_t. By the chain rule
    grad_z = grad_x / alpha_t, so build the kernel of x and divide `repulsion` by alpha_t. The
    result is then that of noisy latents which share one noise e.

    Args:
        kernel: From `rbf_kernel`, of points of the residuals' shape.
        residuals: Differences of noise estimates r_j, one particle per row.
        repulsion: Factor of the kernel's gradient. 1 is the printed form. The score is
            -e / sigma_t, so only the factor sigma_t makes the prior's distribution the fixed point.
        normalize: "n" divides by N, as the paper does; "rowsum" divides by sum_j k(z_j, z_i),
            which keeps the step's size independent of N.

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
    """The first term of `stein_direction` alone: 1/N sum_j k(x_j, x_i) r_j.

    The residuals may live in another space than the points that the kernel compares: for example
    latents, while the kernel compares the pixels of rendered views.
    """
    return kernel.values @ residuals / _divisor(kernel, normalize)


def repulsion_step(
    kernel: Kernel, *, repulsion: float, normalize: Normalize = "n"
) -> Float[Tensor, "n d"]:
    """The second term of `stein_direction` alone, in the space of the kernel's points."""
    return -repulsion * kernel.gradient / _divisor(kernel, normalize)


def _divisor(kernel: Kernel, normalize: Normalize) -> int | Float[Tensor, "n 1"]:
    return kernel.values.sum(1, keepdim=True) if normalize == "rowsum" else len(kernel.values)
