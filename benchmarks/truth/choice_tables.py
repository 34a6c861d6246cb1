"""Tables of the benchmark of choices, beside those of all domains."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.engine.tables import paired_markdown
from benchmarks.truth.choice_scores import CHOICE_COLUMNS, VARIETY_COLUMNS, variety
from csd_nerf.evaluation.tables import Row, Table


def choice_tables(
    rows: Sequence[Row], names: Sequence[str], references: Sequence[str], *, baseline: str
) -> str:
    """The scores of each medium, if there are several, and the variety over seeds, in markdown.

    Args:
        rows: The rows of one budget.
        names: The arms, in the order of the table.
        references: The arms among them that are references.
        baseline: Arm with which the paired differences of the others are computed.
    """
    methods = [name for name in names if name not in references]
    parts = []
    media = list(dict.fromkeys(row["medium"] for row in rows))
    for medium in media if len(media) > 1 else []:
        mine = [row for row in rows if row["medium"] == medium]
        table = Table(mine, names, CHOICE_COLUMNS, count="runs", references=references)
        paired = paired_markdown(mine, methods, CHOICE_COLUMNS, baseline=baseline)
        parts.append(f"{medium}\n\n{table.markdown()}" + (f"\n{paired}" if paired else ""))
    return "\n".join([*parts, variety_markdown(rows, methods)])


def variety_markdown(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """A table of how the common answer varies over the seeds of an input, mean over the inputs."""
    found: list[Row] = []
    for name in methods:
        by_input: dict[str, list[str]] = {}
        for row in rows:
            if row["arm"] == name:
                by_input.setdefault(row["input"], []).append(row["answer"])
        found += [
            {"arm": name, "input": given, **variety(answers)} for given, answers in by_input.items()
        ]
    return Table(found, methods, VARIETY_COLUMNS).markdown()
