"""Tables of the benchmark with known truth, made from its record alone."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Sequence

from benchmarks.engine.identity import versions
from benchmarks.engine.records import Record, without_seconds
from benchmarks.engine.tables import paired_markdown
from benchmarks.truth.choice_tables import choice_tables
from benchmarks.truth.domains import Arm
from benchmarks.truth.residuals import RESIDUAL_COLUMNS, RESIDUAL_NAMES
from benchmarks.truth.settings import DOMAINS, TruthSettings
from csd_nerf.evaluation.tables import Column, Row, Table

COSTS = (Column("evaluations", "evaluations", digits=0),)
"""Seconds are no cost here: trials run beside other work."""


def record_of(
    settings: TruthSettings,
    arms: Sequence[Arm],
    rows: Sequence[Row],
    *,
    baseline: str,
    residuals: Sequence[Row] = (),
    tuning: str = "",
    weights: str = "",
) -> Record:
    """All that the tables need.

    Args:
        settings: The user's settings.
        arms: The arms, in the order of the table.
        rows: A row for each trial.
        baseline: Arm with which the paired differences of the others are computed.
        residuals: Rows of the table of residuals; empty for no such table.
        tuning: How the arms were tuned, from `tuning_note`.
        weights: Digest of the prior's weights.
    """
    # A prior may be a folder; the digest of its weights decides each trial's id.
    asked = {key: value for key, value in vars(settings).items() if key not in ("output", "prior")}
    return {
        "experiment": "truth",
        "settings": {**asked, **dataclasses.asdict(settings.counts)},
        "versions": versions(),
        "weights": weights,
        "arms": [arm.name for arm in arms],
        "baseline": baseline,
        "references": [arm.name for arm in arms if arm.method is None],
        "tuning": tuning,
        "rows": without_seconds(rows),
        "residuals": list(residuals),
    }


def truth_tables(record: Record) -> str:
    """Means and paired differences at the first budget, residuals and tuning, in markdown.

    Instructions with several right answers have further tables, see `choice_tables`.
    """
    rows, names, references = _first(record), record["arms"], record["references"]
    baseline = record["baseline"]
    methods = [name for name in names if name not in references]
    parts = [means_table(record).markdown()]
    parts.append(paired_markdown(rows, methods, _columns(record), baseline=baseline))
    if any("answer" in row for row in rows):
        parts.append(choice_tables(rows, names, references, baseline=baseline))
    if record["residuals"]:
        parts.append(residuals_table(record).markdown())
    if record["tuning"]:
        parts.append(f"Options of the arms:\n\n{record['tuning']}")
    return "\n".join(part for part in parts if part)


def means_table(record: Record) -> Table:
    """The table of means at the first budget."""
    return Table(
        _first(record),
        record["arms"],
        (*_columns(record), *COSTS),
        count="runs",
        references=record["references"],
    )


def residuals_table(record: Record) -> Table:
    """The table of the residuals of csd and sds at the true edit."""
    return Table(record["residuals"], RESIDUAL_NAMES, RESIDUAL_COLUMNS)


def _first(record: Record) -> list[Row]:
    budget = record["settings"]["budgets"][0]
    return [row for row in record["rows"] if row["budget"] == budget]


def _columns(record: Record) -> tuple[Column, ...]:
    domain = record["settings"]["domain"]
    if domain not in DOMAINS:
        raise ValueError(
            f"A record of truth needs a domain out of {', '.join(DOMAINS)}, got {domain!r}; make "
            "it again."
        )
    return pkgutil.resolve_name(DOMAINS[domain]).columns
