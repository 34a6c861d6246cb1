"""The forward process of a diffusion model: the scale of image and noise at each timestep.

Symbols:
    t: timestep, the noise level that the model takes as input. At t = 0 the latent is clean or
        almost clean; at the last timestep it is pure noise or almost.
    alpha_t, sigma_t: scale of the clean latent and of the noise, alpha_t^2 + sigma_t^2 = 1.
    z_t = alpha_t x + sigma_t e: noisy latent from the clean latent x and unit Gaussian noise e.

`alphas_cumprod` in the literature is alpha_t^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.copies import sent

BAND = 0.25
"""Width of the band of `falling_band`, as a fraction of the range of timesteps."""


@runtime_checkable
class Schedule(Protocol):
    """alpha_t and sigma_t of a model, and its range of timesteps.

    An implementation must have alpha_t^2 + sigma_t^2 = 1 at every timestep, alpha falling and sigma
    rising with t. If the model's own noisy latent has another scale, its prior converts; see
    `FlowSchedule`.
    """

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""
        ...

    def alpha(self, timestep: Real[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """alpha_t, float32 on the device of `timestep`."""
        ...

    def sigma(self, timestep: Real[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """sigma_t, float32 on the device of `timestep`."""
        ...

    def timestep_bounds(self, t_range: tuple[float, float]) -> tuple[int, int]:
        """First and last timestep, both included, of a range given as fractions of T.

        Raises:
            ValueError: Unless 0 <= low < high <= 1.
        """
        ...


def add_noise(
    schedule: Schedule,
    clean: Float[Tensor, "n *shape"],
    noise: Float[Tensor, "n *shape"],
    timestep: Int[Tensor, "n"],
) -> Float[Tensor, "n *shape"]:
    """z_t = alpha_t x + sigma_t e, with one timestep per particle."""
    timestep = sent(timestep, clean.device)
    per_particle = (-1, *[1] * (clean.ndim - 1))
    alpha = schedule.alpha(timestep).to(clean.dtype).view(per_particle)
    sigma = schedule.sigma(timestep).to(clean.dtype).view(per_particle)
    return alpha * clean + sigma * noise


def loss_weight(schedule: Schedule, timestep: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The weight w(t) = sigma_t^2 of the residuals in score distillation, as in DreamFusion."""
    return schedule.sigma(timestep).square()


def check_t_range(t_range: tuple[float, float], *, name: str = "t_range") -> None:
    """Check a range of timesteps, given as fractions of T; `name` is the caller's name for it.

    Raises:
        ValueError: Unless 0 <= low < high <= 1.
    """
    low, high = t_range
    if not 0 <= low < high <= 1:
        raise ValueError(
            f"{name} needs 0 <= low < high <= 1 (fractions of the schedule), got {t_range}."
        )


def falling_band(low: int, high: int, *, progress: float) -> tuple[int, int]:
    """The timesteps to draw from at one point of a run whose noise falls from `high` to `low`.

    With the centre c = high - progress (high - low) and the width w = BAND (high - low), the band
    goes from max(low, c - w / 2) to min(high, c + w / 2), rounded. Large timesteps decide the
    layout and the colours of an edit, small ones its detail. If timesteps are drawn from the whole
    range at every step, an edit with several right answers tends to stay at their mean.

    Args:
        low: Lowest timestep of the run.
        high: Highest timestep of the run.
        progress: 0 at the run's first step, 1 at its last.

    Returns:
        Lowest and highest timestep, both included.
    """
    centre, half = high - progress * (high - low), BAND * (high - low) / 2
    return round(max(low, centre - half)), round(min(high, centre + half))


@dataclass(frozen=True, eq=False)
class DiscreteSchedule:
    """A table of alpha_t^2 for t = 0 to T - 1, as DDPM models have.

    Some samplers use fractional timesteps: there sigma_t / alpha_t is interpolated linearly.
    The table is kept in float64, where 1 - alpha_t^2 keeps its digits at small t.
    """

    alphas_cumprod: Float[Tensor, "T"]
    """alpha_t^2 for each timestep, within [0, 1] and never rising."""

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
    ) -> DiscreteSchedule:
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
    def _tables(self) -> dict[torch.device, tuple[Float[Tensor, "T"], Float[Tensor, "T"]]]:
        """Tables of alpha_t and sigma_t by device, where they stay."""
        alphas, sigmas = self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()
        return {torch.device("cpu"): (alphas.float(), sigmas.float())}

    def _on(self, device: torch.device) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
        if device not in self._tables:
            alphas, sigmas = self._tables[torch.device("cpu")]
            self._tables[device] = (sent(alphas, device), sent(sigmas, device))
        return self._tables[device]

    def alpha(self, timestep: Real[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """alpha_t, on the device of `timestep`."""
        if timestep.is_floating_point():
            return (1 + self._ratio(timestep).square()).rsqrt()
        return self._on(timestep.device)[0][timestep.long()]

    def sigma(self, timestep: Real[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """sigma_t, on the device of `timestep`."""
        if timestep.is_floating_point():
            return self._ratio(timestep) * self.alpha(timestep)
        return self._on(timestep.device)[1][timestep.long()]

    def timestep_bounds(self, t_range: tuple[float, float]) -> tuple[int, int]:
        """First and last timestep, both included, of a range given as fractions of T.

        The paper's Appendix B prints 0.2 to 0.5 for editing; the authors' release draws 20 to
        500 of 1000, which is the range (0.02, 0.5) that we take.

        Raises:
            ValueError: Unless 0 <= low < high <= 1.
        """
        return _bounds(t_range, total=self.num_timesteps, last=self.num_timesteps - 1)

    def _ratio(self, timestep: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """sigma_t / alpha_t at a fractional timestep."""
        below, above = timestep.long(), timestep.ceil().long()
        return torch.lerp(
            self.sigma(below) / self.alpha(below),
            self.sigma(above) / self.alpha(above),
            timestep.float() - below,
        )


@dataclass(frozen=True)
class FlowSchedule:
    """Rectified flow, in the variance-preserving scale that the editor works in.

    A flow model's own noisy latent is y = (1 - s) x + s e with s = t / T, and it predicts the
    velocity v = e - x. So e = y + (1 - s) v exactly. With n = sqrt((1 - s)^2 + s^2),

        z = y / n = alpha x + sigma e,    alpha = (1 - s) / n,    sigma = s / n,

    has alpha^2 + sigma^2 = 1. A flow model's prior passes n z to the model, and converts the
    predicted velocity to noise by `noise_of_velocity`.
    """

    num_timesteps: int = 1000
    """T, the timestep of pure noise; t goes from 0 to T, both included."""

    def alpha(self, timestep: Real[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """alpha_t = (1 - s) / n, on the device of `timestep`."""
        return (1 - self.level(timestep)) / self.scale(timestep)

    def sigma(self, timestep: Real[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """sigma_t = s / n, on the device of `timestep`."""
        return self.level(timestep) / self.scale(timestep)

    def level(self, timestep: Real[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The noise level s = t / T, from 0 (clean) to 1 (noise)."""
        return timestep.float() / self.num_timesteps

    def scale(self, timestep: Real[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The scale n = sqrt((1 - s)^2 + s^2); the model's own noisy latent is n z."""
        level = self.level(timestep)
        return ((1 - level).square() + level.square()).sqrt()

    def noise_of_velocity(
        self,
        velocity: Float[Tensor, "n *shape"],
        noisy: Float[Tensor, "n *shape"],
        timestep: Real[Tensor, "n"],
    ) -> Float[Tensor, "n *shape"]:
        """Convert the velocity v predicted for z to noise: e = n z + (1 - s) v."""
        timestep = timestep.to(noisy.device)
        per_particle = (-1, *[1] * (noisy.ndim - 1))
        level = self.level(timestep).view(per_particle)
        return self.scale(timestep).view(per_particle) * noisy + (1 - level) * velocity

    def velocity_of_noise(
        self,
        noise: Float[Tensor, "n *shape"],
        noisy: Float[Tensor, "n *shape"],
        timestep: Real[Tensor, "n"],
    ) -> Float[Tensor, "n *shape"]:
        """The inverse of `noise_of_velocity`; zero at s = 1, where the noise says nothing of it."""
        timestep = timestep.to(noisy.device)
        per_particle = (-1, *[1] * (noisy.ndim - 1))
        left = (1 - self.level(timestep)).view(per_particle)
        change = noise - self.scale(timestep).view(per_particle) * noisy
        return torch.where(left > 0, change / left.clamp(min=1e-6), 0.0)

    def timestep_bounds(self, t_range: tuple[float, float]) -> tuple[int, int]:
        """First and last timestep, both included, of a range given as fractions of T.

        Raises:
            ValueError: Unless 0 <= low < high <= 1.
        """
        return _bounds(t_range, total=self.num_timesteps, last=self.num_timesteps)


def _bounds(t_range: tuple[float, float], *, total: int, last: int) -> tuple[int, int]:
    check_t_range(t_range)
    low, high = (min(round(t * total), last) for t in t_range)
    return low, high
