"""Runs `python -m benchmarks truth`: all methods on inputs whose true edit is known.

Each arm edits the same held-out inputs, with instructions that the bundled prior was trained on and
the same budget of U-Net evaluations. All tuning uses the validation split.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine.identity import weights_digest
from benchmarks.engine.pictures import save_frames
from benchmarks.engine.progress import Progress
from benchmarks.engine.trials import Store, Trial
from benchmarks.truth.choice import ChoiceDomain
from benchmarks.truth.choice_report import write_choice_report
from benchmarks.truth.domains import Arm, Domain, Job, TruthInput, chosen_arms
from benchmarks.truth.media import MediaDomain
from benchmarks.truth.report import (
    COSTS,
    EDITED,
    TRUTH,
    save_sheet,
    write_report,
    write_residuals,
)
from benchmarks.truth.settings import DOMAINS, EXACT, TruthSettings
from csd_nerf import priors
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.media.pixels import to_bytes


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
    baseline = settings.baseline or kind.baseline
    if baseline not in known:
        raise ValueError(f"--baseline needs one of {', '.join(known)}, got {baseline!r}.")
    runs = run_arms(settings, arms)
    store, domain, trials = runs.store, runs.domain, runs.trials
    if settings.ablations and isinstance(domain, MediaDomain):
        rows = [row for given in runs.inputs for row in _residuals(runs, domain, given)]
        write_residuals(settings.output, rows)
    text = write_report(store, settings, domain, arms, trials, baseline=baseline)
    if isinstance(domain, ChoiceDomain):
        more = write_choice_report(store, runs.inputs, arms, trials, baseline=baseline)
        return f"{text}\n{more}"
    save_sheet(store, trials, [arm.name for arm in arms], settings.budgets[0])
    return text


@dataclass
class Runs:
    """Runs of arms on inputs: where they are kept, and what they are made with."""

    store: Store
    domain: Domain
    weights: str
    """Digest of the prior's weights."""
    inputs: list[Any] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)


def run_arms(settings: TruthSettings, arms: Sequence[Arm]) -> Runs:
    """Run all trials of these arms that are not finished."""
    kind: Any = pkgutil.resolve_name(DOMAINS[settings.domain])
    store, exact = Store(settings.output), settings.prior == EXACT
    domain: Domain = kind(None if exact else priors.load(settings.prior), settings.options, store)
    runs = Runs(store, domain, EXACT if exact else weights_digest(settings.prior))
    jobs = [job for arm in arms for job in _jobs(arm, settings)]
    progress = Progress(settings.inputs * len(jobs))
    for position in range(settings.inputs):
        given = domain.draw(position, settings.split)
        runs.inputs.append(given)
        for job in jobs:
            runs.trials.append(_trial(runs, job, given))
            _run(runs, runs.trials[-1], job, given, progress)
    return runs


def _jobs(arm: Arm, settings: TruthSettings) -> Iterator[Job]:
    """The jobs of an arm: all seeds at the first budget, one seed at the others."""
    if arm.method is None:
        yield Job(arm, settings.budgets[0])
        return
    for seed in range(settings.seeds):
        yield Job(arm, settings.budgets[0], seed)
    for budget in settings.budgets[1:]:
        yield Job(arm, budget)


def _trial(runs: Runs, job: Job, given: TruthInput) -> Trial:
    labels = {"input": given.name, "arm": job.arm.name, "budget": job.budget, "seed": job.seed}
    decides = {"prior": runs.weights, **runs.domain.decides(job, given)}
    return Trial({**labels, "edit": given.edit.name}, decides)


def _run(runs: Runs, trial: Trial, job: Job, given: TruthInput, progress: Progress) -> None:
    store, domain = runs.store, runs.domain
    kept = store.row(trial) is not None

    def make(folder: Path) -> Row:
        outcome = domain.measure(job, given, folder)
        save_frames(folder / EDITED, to_bytes(outcome.edited01))
        save_frames(folder / TRUTH, to_bytes(outcome.truth01))
        return outcome.row

    row = store.run(trial, make)
    place = progress.tick(kept=kept)
    if not kept:
        print(f"[{place}] {_outcome_line(row, (*domain.columns, *COSTS))}", flush=True)


def _residuals(runs: Runs, domain: MediaDomain, given: Any) -> list[Row]:
    """Rows with the residuals of csd and sds at the true edit."""
    decides = {"residuals": domain.guidance(), "prior": runs.weights}
    decides |= {"source": given.source, "truth": given.truth01, "prompt": given.edit.instructions}
    trial = Trial({"input": given.name}, decides)
    found = runs.store.run(trial, lambda _: domain.residuals(given))
    return [{"input": given.name, "arm": arm, **found[arm]} for arm in ("csd", "sds")]


def _outcome_line(row: Row, columns: Sequence[Column]) -> str:
    """One line about a finished job, for the terminal."""
    values = (
        f"{c.key} {row[c.key] * c.scale:.{c.digits}f}"
        for c in columns
        if row.get(c.key) is not None
    )
    job = f"{row['arm']} x {row['budget']:g}, seed {row['seed']}"
    return f"{row['input']}, {job}: {', '.join(values)}"
