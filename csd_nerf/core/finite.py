"""Detects non-finite numbers, in loops without making the CPU wait for the device at every step."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.copies import sent

_NEVER = torch.iinfo(torch.long).max


def require_finite(values: Tensor, what: str) -> None:
    """Wait for the device, and raise if a value is NaN or infinite.

    Args:
        values: The values.
        what: Their name, which begins the message, such as "Images".

    Raises:
        FloatingPointError: If one isn't finite.
    """
    if not bool(values.isfinite().all()):
        raise FloatingPointError(
            f"{what} need to be finite, got inf or nan; lower the guidance scales or the learning "
            "rate, or run the prior in float32."
        )


class LossWatch:
    """Records, on the device, the first step of training whose loss was not finite."""

    def __init__(self) -> None:
        self._first_bad: Int[Tensor, ""] | None = None

    def record(self, step: int, loss: Float[Tensor, ""]) -> None:
        """Record a step's loss."""
        now = torch.where(loss.detach().isfinite(), _NEVER, step)
        self._first_bad = now if self._first_bad is None else self._first_bad.minimum(now)

    def check(self) -> None:
        """Wait for the device, and raise if anything was recorded.

        Raises:
            FloatingPointError: If a loss was not finite; names the first step.
        """
        if self._first_bad is not None and (first := int(self._first_bad)) != _NEVER:
            raise FloatingPointError(
                f"The loss needs to be finite, got inf or nan at step {first}; go on from the last "
                "checkpoint, which was finite, with lower learning rates (--optimizers) or "
                "--mixed-precision False."
            )


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
        index = sent(index, self._first_bad.device)
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
