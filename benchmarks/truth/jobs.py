"""Runs jobs of a domain as trials of a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine.identity import weights_digest
from benchmarks.engine.pictures import save_frames
from benchmarks.engine.trials import Store, Trial
from benchmarks.truth.domains import Domain, Job, TruthInput
from benchmarks.truth.report import EDITED, TRUTH
from benchmarks.truth.tables import COSTS
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.media.pixels import to_bytes

PRIOR = "tiny"


def trial_of(domain: Domain, job: Job, given: TruthInput) -> Trial:
    """The trial of a job on an input."""
    labels = {"input": given.name, "arm": job.arm.name, "budget": job.budget, "seed": job.seed}
    decides = {"prior": weights_digest(PRIOR), **domain.decides(job, given)}
    return Trial({**labels, "edit": given.edit.name}, decides)


def run_job(store: Store, trial: Trial, domain: Domain, job: Job, given: TruthInput) -> Row:
    """Run a job unless its trial is finished; its pictures are kept, and a line is printed."""

    def make(folder: Path) -> Row:
        outcome = domain.measure(job, given, folder)
        save_frames(folder / EDITED, to_bytes(outcome.edited01))
        save_frames(folder / TRUTH, to_bytes(outcome.truth01))
        row = {**trial.labels, **outcome.row}
        print(_outcome_line(row, (*domain.columns, *COSTS)), flush=True)
        return outcome.row

    return store.run(trial, make)


def _outcome_line(row: Row, columns: Sequence[Column]) -> str:
    """One line about a finished job, for the terminal."""
    values = (f"{c.key} {row[c.key] * c.scale:.{c.digits}f}" for c in columns if c.key in row)
    job = f"{row['arm']} x {row['budget']:g}, seed {row['seed']}"
    return f"{row['input']}, {job}: {', '.join(values)}"
