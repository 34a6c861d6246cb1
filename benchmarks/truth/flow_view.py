"""Shows a prior that predicts noise as a rectified flow.

A diffusion model estimates the noise in z = alpha_t x + sigma_t e. The latent z of `FlowSchedule`
at the level s is the same one where sigma_t / alpha_t = s / (1 - s). So the model is a rectified
flow too. It knows the levels up to that of its last timestep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor

from csd_nerf.core.schedules import DiscreteSchedule, FlowSchedule
from csd_nerf.priors.base import Branch, Prior


class FlowView:
    """A `Prior` whose schedule is a flow's; everything else is the other prior's.

    Attributes:
        schedule: The flow's.
    """

    def __init__(self, prior: Prior) -> None:
        """Take a prior with a `DiscreteSchedule`."""
        assert isinstance(prior.schedule, DiscreteSchedule)
        self._prior = prior
        self.schedule = FlowSchedule()
        table = prior.schedule.alphas_cumprod
        self._ratios = ((1 - table) / table).sqrt()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    @property
    def highest_level(self) -> float:
        """The highest level s that the model knows."""
        ratio = float(self._ratios[-1])
        return ratio / (1 + ratio)

    def predict(
        self, branches: Sequence[Branch], timestep: Real[Tensor, "n"], **options: Any
    ) -> Float[Tensor, "k n c h w"]:
        """As the prior does, at the fractional timestep of the same noise level.

        Below the level of its first timestep the model is asked at that.

        Raises:
            ValueError: If a level is above that of its last timestep.
        """
        return self._prior.predict(branches, self.own_timestep(timestep), **options)

    def own_timestep(self, timestep: Real[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The model's own timestep where sigma / alpha is that of the flow's timestep."""
        level = self.schedule.level(timestep).double().cpu()
        if float(level.max()) > self.highest_level:
            raise ValueError(
                f"{self._prior.name} needs levels up to {self.highest_level:.3f}, got "
                f"{float(level.max()):.3f}; lower the top of t_range."
            )
        ratio = (level / (1 - level)).clamp(min=float(self._ratios[0]))
        above = torch.searchsorted(self._ratios, ratio).clamp(1)
        low, high = self._ratios[above - 1], self._ratios[above]
        return (above - 1 + (ratio - low) / (high - low)).float().to(timestep.device)
