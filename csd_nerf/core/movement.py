"""How far an edit moves, so that it can end when it hardly does."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


class Movement:
    """Remembers the latents of a canvas from one check to the next.

    Steps contain noise, most of which cancels in the mean step over several iterations.
    """

    def __init__(self, latent: Float[Tensor, "*canvas"], iteration: int) -> None:
        """Begin with the latents after an iteration."""
        self._latent, self._iteration = latent.clone(), iteration

    def step(self, latent: Float[Tensor, "*canvas"], iteration: int) -> float:
        """Rms of the mean step since the last check, in latent units; waits for the device."""
        mean = (latent - self._latent) / (iteration - self._iteration)
        self._latent, self._iteration = latent.clone(), iteration
        return float(mean.square().mean().sqrt())
