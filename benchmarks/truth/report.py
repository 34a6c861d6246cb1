"""Tables, curves and pictures of the benchmark with known truth."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.engine.pictures import kept_frames
from benchmarks.engine.records import NAME as RECORD_NAME
from benchmarks.engine.records import write_record
from benchmarks.engine.trials import Store, Trial, write_results
from benchmarks.truth.domains import Arm
from benchmarks.truth.settings import DOMAINS, TruthSettings
from benchmarks.truth.tables import means_table, record_of, truth_tables
from csd_nerf.evaluation.plots import save_curves
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import write_text
from csd_nerf.media.pixels import to_01
from csd_nerf.media.sheets import enlarge, save_contact_sheet

EDITED, TRUTH = "edited", "truth"
"""Folders of a trial's pictures."""


def write_report(
    store: Store,
    settings: TruthSettings,
    arms: Sequence[Arm],
    trials: Sequence[Trial],
    *,
    baseline: str,
    residuals: Sequence[Row],
    tuning: str,
    weights: str,
) -> str:
    """Write the results to the output folder.

    results.json and rows.csv hold all rows, record.json.gz all that the tables need (see
    `benchmarks.engine.records`), table.md all tables and table.tex the means. With several budgets,
    curves show quality by cost.

    Args:
        store: Store of the trials.
        settings: The user's settings.
        arms: The arms, in the order of the table.
        trials: All trials of these settings.
        baseline: As for `record_of`.
        residuals: As for `record_of`.
        tuning: As for `record_of`.
        weights: As for `record_of`.

    Returns:
        The contents of table.md, from `truth_tables`.
    """
    output, names = settings.output, [arm.name for arm in arms]
    rows = [row for trial in trials if (row := store.row(trial)) is not None]
    facts = {"baseline": baseline, "residuals": residuals, "tuning": tuning, "weights": weights}
    record = record_of(settings, arms, rows, **facts)
    text = truth_tables(record)
    write_record(output / RECORD_NAME, record)
    write_text(output / "table.md", text)
    write_text(output / "table.tex", means_table(record).latex())
    write_text(output / "rows.csv", Table(rows, names, ()).csv())
    write_results(output, settings, rows)
    if len(settings.budgets) > 1:
        _save_curves(output, rows, [arm.name for arm in arms if arm.method], settings.domain)
    return text


def _save_curves(output: Path, rows: Sequence[Row], names: Sequence[str], domain: str) -> None:
    kind = pkgutil.resolve_name(DOMAINS[domain])
    judged = {column.key: column for column in kind.columns}
    for key in ("psnr", kind.consistency):
        save_curves(
            output / f"cost_{key}.png",
            {name: _curve(rows, name, judged[key]) for name in names},
            x="U-Net evaluations an input",
            y=judged[key].heading,
            log_x=True,
        )


def _curve(rows: Sequence[Row], name: str, column: Column) -> list[tuple[float, float, float]]:
    """Means over the inputs by budget. Deviations would only show how inputs differ: left out."""
    by_budget: dict[float, list[Row]] = {}
    for row in rows:
        if row["arm"] == name and row["seed"] == 0:
            by_budget.setdefault(row["budget"], []).append(row)
    return [
        (
            fmean(row["evaluations"] for row in same),
            fmean(row[column.key] for row in same) * column.scale,
            0.0,
        )
        for same in by_budget.values()
    ]


def save_sheet(store: Store, trials: Sequence[Trial], names: Sequence[str], budget: float) -> None:
    """Write sheet.png: first, middle and last frame of each input, one column per arm and truth."""
    columns: dict[str, list[Tensor]] = {name: [] for name in (*names, TRUTH)}
    for trial in trials:
        labels = trial.labels
        if labels["seed"] == 0 and labels["budget"] == budget:
            columns[labels["arm"]].append(_three_frames(store.folder(trial) / EDITED))
            if labels["arm"] == names[0]:
                columns[TRUTH].append(_three_frames(store.folder(trial) / TRUTH))
    pictures = {name: torch.cat(shown) for name, shown in columns.items()}
    save_contact_sheet(store.output / "sheet.png", pictures)


def _three_frames(folder: Path) -> Float[Tensor, "n 3 h w"]:
    frames01 = to_01(kept_frames(folder))
    return enlarge(frames01[sorted({0, len(frames01) // 2, len(frames01) - 1})], edge=128)
