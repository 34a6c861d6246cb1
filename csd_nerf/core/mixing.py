"""How the particles of a batch share their residuals."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.canvas import Particles
from csd_nerf.core.kernels import rbf_kernel
from csd_nerf.core.patches import PatchKernel, patch_kernel
from csd_nerf.core.schedules import Schedule
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.stein import stein_direction


@runtime_checkable
class Mixer(Protocol):
    """Turns the residuals of a batch into the directions in which its particles descend."""

    def direction(
        self,
        index: Int[Tensor, "n"],
        residual: Float[Tensor, "n c h w"],
        particles: Particles,
        noisy: Float[Tensor, "n c h w"],
        timestep: Int[Tensor, ""],
    ) -> Float[Tensor, "n c h w"]:
        """The direction g_i of each particle, without the factor w(t).

        Args:
            index: Numbers of the particles on their canvas, on the CPU.
            residual: Their residuals r_i.
            particles: Their clean latents and sources.
            noisy: Their noisy latents z_i.
            timestep: The timestep of the batch.
        """
        ...


class SettingsMixer:
    """The mixing that `EditSettings.mixing` names."""

    def __init__(self, settings: EditSettings, schedule: Schedule) -> None:
        self._settings, self._schedule = settings, schedule
        self._patches: tuple[Int[Tensor, "n"], PatchKernel] | None = None

    def direction(
        self,
        index: Int[Tensor, "n"],
        residual: Float[Tensor, "n c h w"],
        particles: Particles,
        noisy: Float[Tensor, "n c h w"],
        timestep: Int[Tensor, ""],
    ) -> Float[Tensor, "n c h w"]:
        """See `Mixer.direction`."""
        if self._settings.mixing == "none":
            return residual
        if self._settings.mixing == "patch":
            return self._patch_kernel(index, particles.source).mix(residual)
        found = self._stein(residual.flatten(1), particles.latent, noisy, timestep)
        return found.view_as(residual)

    def _patch_kernel(
        self, index: Int[Tensor, "n"], source: Float[Tensor, "n c h w"]
    ) -> PatchKernel:
        """The kernel of these particles' sources; the same batch again costs nothing."""
        if self._patches is None or not torch.equal(self._patches[0], index):
            kernel = patch_kernel(
                source,
                bandwidth=self._settings.patch_bandwidth,
                max_cells=self._settings.patch_cells,
            )
            self._patches = (index, kernel)
        return self._patches[1]

    def _stein(
        self,
        residual: Float[Tensor, "n d"],
        clean: Float[Tensor, "n c h w"],
        noisy: Float[Tensor, "n c h w"],
        timestep: Int[Tensor, ""],
    ) -> Float[Tensor, "n d"]:
        settings = self._settings
        sigma = float(self._schedule.sigma(timestep))
        repulsion = settings.repulsion * (sigma if settings.repulsion_scale == "sigma" else 1.0)
        points = noisy
        if settings.kernel_on == "clean":
            # The kernel as a function of z = alpha x + sigma e: grad_z k = grad_x k / alpha.
            points, repulsion = clean, repulsion / float(self._schedule.alpha(timestep))
        kernel = rbf_kernel(points.flatten(1), median=settings.bandwidth)
        return stein_direction(kernel, residual, repulsion=repulsion, normalize=settings.normalize)
