"""Paired differences between two methods, with their standard errors.

Results vary more between inputs than between methods, so standard deviations over inputs hide the
differences between methods. In the difference of two methods on the same input and seed, the
difficulty of the input cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import stdev
from typing import Any, Literal

SURE = 2
"""A difference counts if it is larger than this many standard errors."""
Better = Literal["higher", "lower"] | None
"""Which values of a measure are the better ones."""


@dataclass(frozen=True)
class Difference:
    """Paired difference between a method and a baseline.

    Attributes:
        mean: Mean over the inputs of method minus baseline.
        error: Standard error of the mean: the sample standard deviation of the inputs' differences
            divided by sqrt(inputs); None with one input.
        inputs: Number of inputs.
        pairs: Number of pairs: of inputs and seeds that both have.
    """

    mean: float
    error: float | None
    inputs: int
    pairs: int

    def is_better(self, better: Better) -> bool:
        """Whether the method is better than the baseline by more than `SURE` standard errors."""
        gain = {"higher": self.mean, "lower": -self.mean, None: 0.0}[better]
        return self.error is not None and gain > SURE * self.error


def paired_difference(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    baseline: str,
    key: str,
    *,
    by: str = "arm",
    unit: str = "input",
) -> Difference | None:
    """Compute the paired difference of a method to a baseline in a measure; None without pairs.

    A pair has the same input and the same seed. Seeds of one input are no independent inputs: the
    differences are averaged over the seeds of each input first, and the standard error is that of
    these averages over the inputs. So more seeds don't make the error smaller than the inputs
    allow.

    Args:
        rows: At most one row for each method, input and seed. Rows without the measure or without
            an input are ignored; rows without a seed have one in common.
        name: Name of the method.
        baseline: Name of the method to compare with.
        key: Key of the measure.
        by: Key of the method's name in a row.
        unit: Key of the input in a row.

    Raises:
        ValueError: If a method has two rows of one input and seed.
    """
    first, second = (_values(rows, which, key, by=by, unit=unit) for which in (name, baseline))
    differences: dict[Any, list[float]] = {}
    for place, value in first.items():
        if place in second:
            # Two infinite values are equal.
            same = value == second[place]
            differences.setdefault(place[0], []).append(0.0 if same else value - second[place])
    if not differences:
        return None
    # Not by fmean, which raises for infinities of both signs.
    means = [sum(seeds) / len(seeds) for seeds in differences.values()]
    known = len(means) > 1 and all(map(isfinite, means))
    error = stdev(means) / sqrt(len(means)) if known else None
    pairs = sum(len(seeds) for seeds in differences.values())
    return Difference(sum(means) / len(means), error, len(means), pairs)


def _values(
    rows: Sequence[Mapping[str, Any]], name: str, key: str, *, by: str, unit: str
) -> dict[tuple[Any, Any], float]:
    """A method's values by input and seed."""
    values: dict[tuple[Any, Any], float] = {}
    for row in rows:
        if row[by] == name and row.get(key) is not None and row.get(unit) is not None:
            place = (row[unit], row.get("seed"))
            if place in values:
                raise ValueError(
                    f"Pairs need one row for each {unit} and seed, got two of {name} for {place}; "
                    "leave one out."
                )
            values[place] = float(row[key])
    return values
