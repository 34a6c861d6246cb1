"""Says how far an experiment is, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """Counts trials; those that are kept from an earlier call take no time."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock for this number of trials."""
        self._total, self._clock, self._began = total, clock, clock()
        self._done, self._kept = 0, 0

    def tick(self, *, kept: bool) -> str:
        """Count a trial as done; returns such as "3 of 12, 40 min left".

        The time left is that of the trials that were run, times the number of trials still to do.
        """
        self._done += 1
        self._kept += kept
        run = self._done - self._kept
        place = f"{self._done} of {self._total}"
        if not run or self._done == self._total:
            return place
        left = (self._clock() - self._began) / run * (self._total - self._done)
        return f"{place}, {left / 60:.0f} min left" if left >= 90 else f"{place}, {left:.0f} s left"
