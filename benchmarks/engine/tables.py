"""Paired comparisons of arms (methods or variants).

Results vary more between inputs than between arms, so standard deviations over inputs hide the
differences between arms. In the difference of two arms on the same input and seed, the difficulty
of the input cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from csd_nerf.evaluation.tables import Column, Row

PAIR = ("input", "seed")
"""Keys whose values two rows of a pair have in common."""
SURE = 2
"""A difference is set in bold if it is better than zero by more than this many standard errors."""


@dataclass(frozen=True)
class Difference:
    """Paired difference between an arm and a baseline.

    Attributes:
        mean: Mean of arm minus baseline over the pairs.
        error: Standard error of the mean: the sample standard deviation of the differences divided
            by sqrt(pairs); None with one pair.
        pairs: Number of pairs.
    """

    mean: float
    error: float | None
    pairs: int


def paired_difference(
    rows: Sequence[Row],
    arm: str,
    baseline: str,
    key: str,
    *,
    by: str = "arm",
    pair: Sequence[str] = PAIR,
) -> Difference | None:
    """Compute the paired difference of an arm to a baseline in a measure; None without pairs.

    Args:
        rows: At most one row for each arm and pair; rows without the measure are ignored.
        arm: Name of the arm.
        baseline: Name of the arm to compare with.
        key: Key of the measure.
        by: Key of the arm's name in a row.
        pair: Keys whose values the two rows of a pair have in common.

    Raises:
        ValueError: If an arm has two rows of one pair.
    """
    values: dict[str, dict[tuple[object, ...], float]] = {arm: {}, baseline: {}}
    for row in rows:
        if row[by] in values and row.get(key) is not None:
            place = tuple(row.get(name) for name in pair)
            if place in values[row[by]]:
                raise ValueError(f"Pairs need one row each, got two of {row[by]} for {place}.")
            values[row[by]][place] = float(row[key])
    first, second = values[arm], values[baseline]
    differences = [first[place] - second[place] for place in first if place in second]
    if not differences:
        return None
    count = len(differences)
    error = stdev(differences) / sqrt(count) if count > 1 else None
    return Difference(fmean(differences), error, count)


def paired_markdown(
    rows: Sequence[Row],
    names: Sequence[str],
    columns: Sequence[Column],
    *,
    baseline: str,
    by: str = "arm",
    pair: Sequence[str] = PAIR,
) -> str:
    """A markdown table of each arm's paired differences to a baseline, mean ± standard error.

    A difference is bold if the arm is better by more than `SURE` standard errors. Arms without
    pairs are left out; if no arm has pairs, the text is empty.
    """
    heads = [f"{column.heading}{_ARROWS[column.better]}" for column in columns]
    lines = [[f"minus {baseline}", "pairs", *heads], ["---"] * (2 + len(heads))]
    for name in names:
        if name == baseline:
            continue
        found = [
            paired_difference(rows, name, baseline, column.key, by=by, pair=pair)
            for column in columns
        ]
        pairs = max((one.pairs for one in found if one), default=0)
        if pairs:
            cells = (_cell(*both) for both in zip(found, columns, strict=True))
            lines.append([name, str(pairs), *cells])
    if len(lines) == 2:
        return ""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def _cell(difference: Difference | None, column: Column) -> str:
    if difference is None:
        return ""
    mean = f"{difference.mean * column.scale:+.{column.digits}f}"
    if difference.error is None:
        return mean
    better = {"higher": difference.mean, "lower": -difference.mean, None: 0.0}[column.better]
    if better > SURE * difference.error:
        mean = f"**{mean}**"
    return f"{mean} ± {difference.error * column.scale:.{column.digits}f}"
