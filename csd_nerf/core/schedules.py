"""The forward process of a diffusion model in discrete time.

Symbols:
    t: timestep, an integer from 0 (almost clean) to T - 1 (almost noise).
    alpha_t, sigma_t: scale of the clean latent and of the noise, alpha_t^2 + sigma_t^2 = 1.
    z_t = alpha_t x + sigma_t e: noisy latent from the clean latent x and unit Gaussian noise e.

`alphas_cumprod` in the literature is alpha_t^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


def check_t_range(t_range: tuple[float, float]) -> None:
    """Check a range of timesteps, given as fractions of T.

    Raises:
        ValueError: Unless 0 <= low < high <= 1.
    """
    low, high = t_range
    if not 0 <= low < high <= 1:
        raise ValueError(
            f"t_range needs 0 <= low < high <= 1 (fractions of the schedule), got {t_range}."
        )


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """alpha_t and sigma_t of a trained model.

    Tables are computed in float64, where 1 - alpha_t^2 keeps its digits at small t, and read
    as float32 on the device of the timestep.
    """

    alphas_cumprod: Float[Tensor, "T"]
    """alpha_t^2 by timestep, within [0, 1] and falling."""

    def __post_init__(self) -> None:
        table = self.alphas_cumprod.detach().to("cpu", torch.float64)
        falling = bool((table[1:] <= table[:-1]).all())
        if len(table) == 0 or not falling or not bool(((table >= 0) & (table <= 1)).all()):
            raise ValueError(
                "alphas_cumprod needs at least one value, all within [0, 1] and none above the "
                f"one before, got {self.alphas_cumprod}."
            )
        object.__setattr__(self, "alphas_cumprod", table)

    @classmethod
    def scaled_linear(
        cls, num_timesteps: int = 1000, *, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> NoiseSchedule:
        """Stable Diffusion's schedule: the square root of beta rises linearly."""
        betas = torch.linspace(
            beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64
        ).square()
        return cls((1 - betas).cumprod(0))

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    @cached_property
    def _alphas(self) -> Float[Tensor, "T"]:
        return self.alphas_cumprod.sqrt().float()

    @cached_property
    def _sigmas(self) -> Float[Tensor, "T"]:
        return (1 - self.alphas_cumprod).sqrt().float()

    def alpha(self, timestep: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """alpha_t, on the device of `timestep`."""
        return self._alphas.to(timestep.device, non_blocking=True)[timestep.long()]

    def sigma(self, timestep: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """sigma_t, on the device of `timestep`."""
        return self._sigmas.to(timestep.device, non_blocking=True)[timestep.long()]

    def weight(self, timestep: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The weight w(t) = sigma_t^2 of score distillation, as in DreamFusion."""
        return self.sigma(timestep).square()

    def add_noise(
        self,
        clean: Float[Tensor, "n *shape"],
        noise: Float[Tensor, "n *shape"],
        timestep: Int[Tensor, "n"],
    ) -> Float[Tensor, "n *shape"]:
        """z_t = alpha_t x + sigma_t e, one timestep a particle."""
        timestep = timestep.to(clean.device, non_blocking=True)
        per_particle = (-1, *[1] * (clean.ndim - 1))
        alpha = self.alpha(timestep).to(clean.dtype).view(per_particle)
        sigma = self.sigma(timestep).to(clean.dtype).view(per_particle)
        return alpha * clean + sigma * noise

    def timestep_bounds(self, t_range: tuple[float, float]) -> tuple[int, int]:
        """First and last timestep, both included, of a range given as fractions of T.

        The paper's Appendix B prints 0.2 to 0.5 for editing; the authors' release draws 20 to
        500 of 1000, which is the range (0.02, 0.5) that we take.

        Raises:
            ValueError: Unless 0 <= low < high <= 1.
        """
        check_t_range(t_range)
        low, high = (min(round(t * self.num_timesteps), self.num_timesteps - 1) for t in t_range)
        return low, high
