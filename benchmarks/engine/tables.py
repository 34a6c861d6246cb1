"""Paired comparisons of arms.

Inputs differ far more than methods do, so that deviations over inputs hide what methods owe to
each other. Where two arms have the same input and seed, their difference does not contain the
input's own difficulty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from csd_nerf.evaluation.tables import Column, Row

PAIR = ("input", "seed")
"""Keys by which rows of two arms belong together."""
SURE = 2
"""Standard errors from zero at which a difference is set in bold."""


@dataclass(frozen=True)
class Difference:
    """What an arm has more than another, over the pairs that both have.

    Attributes:
        mean: Of arm minus baseline.
        error: Standard error of the mean, the differences' sample deviation / sqrt(pairs); None
            with one pair.
        pairs: Their number.
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
    """The mean difference of an arm to a baseline in a measure; None without pairs.

    Args:
        rows: At most one for each arm and pair; those without the measure don't count.
        arm: The one compared.
        baseline: The one it is compared to.
        key: Of the measure.
        by: Key of the arms' names.
        pair: Keys that both rows of a pair have in common.

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
    """A table of each arm's paired differences to a baseline, mean ± standard error.

    Bold: better than the baseline by more than `SURE` standard errors. Arms without a pair are
    left out; without any the text is empty.
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
