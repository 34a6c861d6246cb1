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

    Returns:
        The contents of table.md, from `truth_tables`.
    """
    output, names = settings.output, [arm.name for arm in arms]
    rows = [row for trial in trials if (row := store.row(trial)) is not None]
    record = record_of(settings, arms, rows, baseline=baseline, residuals=residuals, tuning=tuning)
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
    """Write sheet.png: first, middle and last frame of each input, one column per arm and truth.

    Arms whose results are from a record have no pictures and are left out.
    """
    shown = [trial for trial in trials if _is_shown(trial, budget)]
    bare = {trial.labels["arm"] for trial in shown if not (store.folder(trial) / EDITED).is_dir()}
    seen = [name for name in names if name not in bare]
    if not seen:
        return
    columns: dict[str, list[Tensor]] = {name: [] for name in (*seen, TRUTH)}
    for trial in shown:
        arm, folder = trial.labels["arm"], store.folder(trial)
        if arm in seen:
            columns[arm].append(_three_frames(folder / EDITED))
        if arm == seen[0]:
            columns[TRUTH].append(_three_frames(folder / TRUTH))
    pictures = {name: torch.cat(images) for name, images in columns.items()}
    save_contact_sheet(store.output / "sheet.png", pictures)


def _is_shown(trial: Trial, budget: float) -> bool:
    return trial.labels["seed"] == 0 and trial.labels["budget"] == budget


def _three_frames(folder: Path) -> Float[Tensor, "n 3 h w"]:
    frames01 = to_01(kept_frames(folder))
    return enlarge(frames01[sorted({0, len(frames01) // 2, len(frames01) - 1})], edge=128)
