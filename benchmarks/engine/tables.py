"""Tables of paired differences."""

from __future__ import annotations

from collections.abc import Sequence

from csd_nerf.evaluation.paired import Difference, paired_difference
from csd_nerf.evaluation.tables import ARROWS, Column, Row


def paired_markdown(
    rows: Sequence[Row],
    names: Sequence[str],
    columns: Sequence[Column],
    *,
    baseline: str,
    by: str = "arm",
    unit: str = "input",
) -> str:
    """A markdown table of each arm's paired differences to a baseline, mean ± standard error.

    See `paired_difference` for the two and for the arguments. A difference is bold if the arm is
    better by more than `SURE` standard errors. Arms without pairs are left out; if no arm has
    pairs, the text is empty.
    """
    heads = [f"{column.heading}{ARROWS[column.better]}" for column in columns]
    lines = [[f"minus {baseline}", f"{unit}s", "pairs", *heads], ["---"] * (3 + len(heads))]
    for name in names:
        if name == baseline:
            continue
        found = [
            paired_difference(rows, name, baseline, column.key, by=by, unit=unit)
            for column in columns
        ]
        if known := [one for one in found if one]:
            counts = (max(one.inputs for one in known), max(one.pairs for one in known))
            cells = (_cell(*both) for both in zip(found, columns, strict=True))
            lines.append([name, *map(str, counts), *cells])
    if len(lines) == 2:
        return ""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(difference: Difference | None, column: Column) -> str:
    if difference is None:
        return ""
    mean = f"{difference.mean * column.scale:+.{column.digits}f}"
    if difference.error is None:
        return mean
    if difference.is_better(column.better):
        mean = f"**{mean}**"
    return f"{mean} ± {difference.error * column.scale:.{column.digits}f}"
