"""Watches how much of its bounding sphere an object covers, and stops a run that has collapsed."""

from __future__ import annotations

from collections.abc import Sequence

EMPTY, FULL = 0.002, 0.97
"""Shares of the bounding sphere's silhouette: an object that covers less than the first has
vanished, one that covers more than the second has filled its sphere."""
PATIENCE = 50
"""An object must be in one of these states for so many steps in a row before a run is stopped."""


class CoverageWatch:
    """Counts for each object the steps in a row at which it was empty or full."""

    def __init__(self, objects: int) -> None:
        self._odd_steps = [0] * objects

    def look(self, coverage: Sequence[float], step: int) -> None:
        """Look at a step's coverage, a share in [0, 1] for each object.

        Raises:
            FloatingPointError: If a share isn't finite, or an object has collapsed.
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
    """What has become of an object, and what helps."""
    what, remedy = (
        ("vanished", "lower --pipeline.opacity-weight or the learning rate")
        if share <= EMPTY
        else ("filled its sphere", "raise --pipeline.opacity-weight")
    )
    return (
        f"{what} by step {step}: it covered {share:.1%} of its bounding sphere for {PATIENCE} "
        f"steps; {remedy}, or try another --pipeline.seed."
    )
