"""Watches the coverage of each object, and stops a run whose object has collapsed.

Coverage is the mean opacity of the rays that meet the object's bounding sphere.
"""

from __future__ import annotations

from collections.abc import Sequence

EMPTY, FULL = 0.002, 0.97
"""Limits of the coverage: an object with EMPTY or less has vanished, one with FULL or more fills
its sphere."""
PATIENCE = 50
"""Number of steps in a row with such a coverage after which a run is stopped."""


class CoverageWatch:
    """Counts, for each object, the steps in a row at which it was empty or full."""

    def __init__(self, objects: int) -> None:
        self._odd_steps = [0] * objects

    def look(self, coverage: Sequence[float], step: int) -> None:
        """Check a step's coverage, in [0, 1] for each object.

        Raises:
            FloatingPointError: If a coverage is NaN, or an object has collapsed.
        """
        if any(share != share for share in coverage):
            raise FloatingPointError(
                f"Renders need to be finite, got nan at step {step}; lower the learning rate "
                "(--optimizers.fields.optimizer.lr)."
            )
        for index, share in enumerate(coverage):
            odd = not EMPTY < share < FULL
            self._odd_steps[index] = self._odd_steps[index] + 1 if odd else 0
            if self._odd_steps[index] >= PATIENCE:
                which = f"Object {index}" if len(coverage) > 1 else "The object"
                raise FloatingPointError(f"{which} has {_collapse(share, step)}")


def _collapse(share: float, step: int) -> str:
    """The rest of the message: what happened to an object, and the remedies."""
    what, remedy = (
        ("vanished", "lower --pipeline.opacity-weight or the learning rate")
        if share <= EMPTY
        else ("filled its sphere", "raise --pipeline.opacity-weight")
    )
    return (
        f"{what} by step {step}: it covered {share:.1%} of its bounding sphere for {PATIENCE} "
        f"steps; {remedy}, or try another --pipeline.seed."
    )
