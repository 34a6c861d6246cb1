"""Runs `python -m benchmarks truth`: all methods on inputs whose true edit is known.

Each arm edits the same held-out inputs, with instructions that the bundled prior was trained on and
the same budget of U-Net evaluations. All tuning uses the validation split.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine.identity import weights_digest
from benchmarks.engine.pictures import save_frames
from benchmarks.engine.trials import Store, Trial
from benchmarks.truth.domains import Arm, Domain, Job, TruthInput, chosen_arms
from benchmarks.truth.media import MediaDomain
from benchmarks.truth.report import COSTS, EDITED, TRUTH, write_report, write_residuals
from benchmarks.truth.settings import DOMAINS, TruthSettings
from csd_nerf import priors
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.media.pixels import to_bytes

PRIOR = "tiny"


def run_truth(settings: TruthSettings) -> str:
    """Run all trials that are not finished, and write the report; see `write_report`.

    The same call resumes an interrupted run; inputs, arms, seeds and budgets can be added.

    Returns:
        The tables in markdown.

    Raises:
        ValueError: If an arm or the baseline is unknown.
    """
    kind: Any = pkgutil.resolve_name(DOMAINS[settings.domain])
    arms = chosen_arms(kind.arms, kind.ablations, settings.arms, ablate=settings.ablations)
    known = [arm.name for arm in (*kind.arms, *kind.ablations)]
    if settings.baseline not in known:
        raise ValueError(f"--baseline needs one of {', '.join(known)}, got {settings.baseline!r}.")
    store = Store(settings.output)
    domain: Domain = kind(priors.load(PRIOR), settings.options, store)
    inputs: list[TruthInput] = []
    trials: list[Trial] = []
    for position in range(settings.inputs):
        given = domain.draw(position, settings.split)
        inputs.append(given)
        for job in (job for arm in arms for job in _jobs(arm, settings)):
            trials.append(_trial(domain, job, given))
            _run(store, trials[-1], domain, job, given)
    if settings.ablations and isinstance(domain, MediaDomain):
        rows = [row for given in inputs for row in _residuals(store, domain, given)]
        write_residuals(settings.output, rows)
    return write_report(store, settings, domain, arms, trials)


def _jobs(arm: Arm, settings: TruthSettings) -> Iterator[Job]:
    """The jobs of an arm: all seeds at the first budget, one seed at the others."""
    if arm.method is None:
        yield Job(arm, settings.budgets[0])
        return
    for seed in range(settings.seeds):
        yield Job(arm, settings.budgets[0], seed)
    for budget in settings.budgets[1:]:
        yield Job(arm, budget)


def _trial(domain: Domain, job: Job, given: TruthInput) -> Trial:
    labels = {"input": given.name, "arm": job.arm.name, "budget": job.budget, "seed": job.seed}
    decides = {"prior": weights_digest(PRIOR), **domain.decides(job, given)}
    return Trial({**labels, "edit": given.edit.name}, decides)


def _run(store: Store, trial: Trial, domain: Domain, job: Job, given: TruthInput) -> None:
    def make(folder: Path) -> Row:
        outcome = domain.measure(job, given, folder)
        save_frames(folder / EDITED, to_bytes(outcome.edited01))
        save_frames(folder / TRUTH, to_bytes(outcome.truth01))
        print(_outcome_line({**trial.labels, **outcome.row}, (*domain.columns, *COSTS)), flush=True)
        return outcome.row

    store.run(trial, make)


def _residuals(store: Store, domain: MediaDomain, given: Any) -> list[Row]:
    """Rows with the residuals of csd and sds at the true edit."""
    decides = {"residuals": domain.guidance(), "prior": weights_digest(PRIOR)}
    decides |= {"source": given.source, "truth": given.truth01, "prompt": given.edit.instructions}
    trial = Trial({"input": given.name}, decides)
    found = store.run(trial, lambda _: domain.residuals(given))
    return [{"input": given.name, "arm": arm, **found[arm]} for arm in ("csd", "sds")]


def _outcome_line(row: Row, columns: Sequence[Column]) -> str:
    """One line about a finished job, for the terminal."""
    values = (f"{c.key} {row[c.key] * c.scale:.{c.digits}f}" for c in columns if c.key in row)
    job = f"{row['arm']} x {row['budget']:g}, seed {row['seed']}"
    return f"{row['input']}, {job}: {', '.join(values)}"
