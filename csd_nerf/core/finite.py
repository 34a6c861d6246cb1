"""Detects non-finite numbers without making the CPU wait for the device at every step."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_NEVER = torch.iinfo(torch.long).max


class FiniteWatch:
    """Records, on the device, the first step at which each particle had a non-finite number."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._first_bad = torch.full((size,), _NEVER, device=device)

    def record(
        self,
        step: int,
        index: Int[Tensor, "n"],
        residual: Float[Tensor, "n d"],
        direction: Float[Tensor, "n d"],
    ) -> None:
        """Record the particles whose residual or direction is not finite at a step.

        Mixing spreads one non-finite residual to the directions of other particles. So
        directions are checked only if all residuals of the step are finite.
        """
        index = index.to(self._first_bad.device, non_blocking=True)
        bad_residual = ~residual.isfinite().all(1)
        bad_direction = ~direction.isfinite().all(1) & ~bad_residual.any()
        bad = bad_residual | bad_direction
        now = self._first_bad.new_full((), step).where(bad, _NEVER)
        self._first_bad[index] = self._first_bad[index].minimum(now)

    def check(self, total: int) -> None:
        """Wait for the device, and raise if anything was recorded.

        Args:
            total: Steps of the whole run, for the message.

        Raises:
            FloatingPointError: If any number was not finite.
        """
        first = int(self._first_bad.min())
        if first == _NEVER:
            return
        particles = (self._first_bad == first).nonzero().flatten().tolist()
        raise FloatingPointError(
            f"The gradient needs to be finite, got inf or nan at step {first} of {total} "
            f"(counted from 0) in particle {', '.join(map(str, particles))}; lower the learning "
            "rate or the guidance scales, or run the prior in float32."
        )
