"""How far an edit moves, so that it can end when it hardly does."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

STEPS = 10
"""Least number of iterations over which a mean is taken."""


class Movement:
    """Remembers the latents of a canvas from one check to the next.

    Steps contain noise, most of which cancels in the mean step over several iterations.
    """

    def __init__(self, latent: Float[Tensor, "*canvas"], iteration: int) -> None:
        """Begin with the latents after an iteration."""
        self._latent, self._iteration = latent.clone(), iteration

    def is_below(self, bound: float, latent: Float[Tensor, "*canvas"], iteration: int) -> bool:
        """Whether the mean step since the last check has a rms below this; waits for the device.

        Args:
            bound: In latent units.
            latent: The latents after an iteration.
            iteration: Its number. A check of fewer than `STEPS` iterations, such as the first one
                of an edit that resumes, says no.
        """
        steps = iteration - self._iteration
        mean = (latent - self._latent) / steps
        self._latent, self._iteration = latent.clone(), iteration
        return steps >= STEPS and float(mean.square().mean().sqrt()) < bound
