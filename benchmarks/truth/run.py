"""Runs `python -m benchmarks truth`: all methods on inputs whose true edit is known.

Each arm edits the same held-out inputs, with instructions that the bundled prior was trained on and
the same budget of U-Net evaluations. The arms' options are the tuned ones; see `tune`.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine.identity import weights_digest
from benchmarks.engine.pictures import save_frames
from benchmarks.engine.progress import Progress
from benchmarks.engine.trials import Store, Trial
from benchmarks.truth.choice_report import save_input_sheet
from benchmarks.truth.domains import Arm, Domain, Job, TruthInput, chosen_arms
from benchmarks.truth.media import MediaDomain
from benchmarks.truth.report import EDITED, TRUTH, save_sheet, write_report
from benchmarks.truth.residuals import RESIDUAL_NAMES, Guidance
from benchmarks.truth.settings import DOMAINS, EXACT, TruthSettings
from benchmarks.truth.tables import COSTS
from benchmarks.truth.tuned import tuned_arm, tuning_note
from csd_nerf import priors
from csd_nerf.cli import launched
from csd_nerf.core.residuals import ResidualName
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.media.pixels import to_bytes
from csd_nerf.synthetic.choices import Choice


def run_truth(settings: TruthSettings) -> str:
    """Run all trials that are not finished, and write the report; see `write_report`.

    The same call resumes an interrupted run; inputs, arms, seeds and budgets can be added.

    Returns:
        The tables in markdown; nothing in other ranks than 0.

    Raises:
        ValueError: If an arm or the baseline is unknown.
    """
    kind: Any = pkgutil.resolve_name(DOMAINS[settings.domain])
    chosen = chosen_arms(kind.arms, kind.ablations, settings.arms, ablate=settings.ablations)
    known = [arm.name for arm in (*kind.arms, *kind.ablations)]
    methods = [arm.name for arm in chosen if arm.method is not None]
    usual = kind.baseline if kind.baseline in methods else next(iter(methods), kind.baseline)
    baseline = settings.baseline or usual
    if baseline not in known:
        raise ValueError(f"--baseline needs one of {', '.join(known)}, got {baseline!r}.")
    exact = settings.prior == EXACT
    arms = [arm if exact else tuned_arm(settings.domain, arm) for arm in chosen]
    runs = run_arms(settings, arms)
    if launched()[0] > 0:
        return ""
    residuals: list[Row] = []
    if settings.ablations and isinstance(runs.domain, MediaDomain):
        residuals = _residuals(runs, settings.domain, runs.domain)
    note = "" if exact else tuning_note(settings, chosen, prior=runs.weights)
    facts = {"baseline": baseline, "residuals": residuals, "tuning": note, "weights": runs.weights}
    text = write_report(runs.store, settings, arms, runs.trials, **facts)
    _save_sheets(runs, arms, settings.budgets[0])
    return text


def _save_sheets(runs: Runs, arms: Sequence[Arm], budget: float) -> None:
    if isinstance(runs.inputs[0].edit, Choice):
        first = [trial for trial in runs.trials if trial.labels["budget"] == budget]
        for given in runs.inputs:
            save_input_sheet(runs.store, given, [arm.name for arm in arms if arm.method], first)
    else:
        save_sheet(runs.store, runs.trials, [arm.name for arm in arms], budget)


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
    """Run all trials of these arms that are not finished.

    Under torchrun each rank runs every so many-th input, and all wait until all are done. Rank 0
    then returns all of them, others their own.
    """
    kind: Any = pkgutil.resolve_name(DOMAINS[settings.domain])
    store, exact = Store(settings.output), settings.prior == EXACT
    domain: Domain = kind(None if exact else priors.load(settings.prior), settings.options, store)
    runs = Runs(store, domain, EXACT if exact else weights_digest(settings.prior))
    jobs = [job for arm in arms for job in _jobs(arm, settings)]
    inputs = settings.counts.inputs
    rank, count = launched()
    if count > 1:
        own = dataclasses.replace(runs, inputs=[], trials=[])
        _run_inputs(own, jobs, range(rank, inputs, count), settings)
        # Late, as it begins what one process has no need of: here all wait for each other.
        from csd_nerf.core.joining import joined

        with joined("python -m benchmarks"):
            pass
        if rank > 0:
            return own
    _run_inputs(runs, jobs, range(inputs), settings)
    return runs


def _run_inputs(runs: Runs, jobs: Sequence[Job], positions: range, settings: TruthSettings) -> None:
    """Run all jobs on these inputs that are not finished, and add inputs and trials to the runs."""
    progress = Progress(len(positions) * len(jobs))
    for position in positions:
        given = runs.domain.draw(position, settings.split)
        runs.inputs.append(given)
        for job in jobs:
            runs.trials.append(_trial(runs, job, given))
            _run(runs, runs.trials[-1], job, given, progress)


def _jobs(arm: Arm, settings: TruthSettings) -> Iterator[Job]:
    """The jobs of an arm: all seeds at the first budget, one seed at the others."""
    if arm.method is None:
        yield Job(arm, settings.budgets[0])
        return
    for seed in range(settings.counts.seeds):
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


def _residuals(runs: Runs, name: str, domain: MediaDomain) -> list[Row]:
    """Rows with the residuals of csd and sds at the true edits, at the scales of these arms."""
    arms = {arm.name: tuned_arm(name, arm) for arm in domain.arms}
    scales: dict[ResidualName, Guidance] = {
        residual: domain.guidance(arms[residual]) for residual in RESIDUAL_NAMES
    }
    rows = []
    for given in runs.inputs:
        decides = {"residuals": scales, "prior": runs.weights}
        decides |= {"source": given.source, "truth": given.truth01}
        decides |= {"prompt": given.edit.instructions}
        trial = Trial({"input": given.name}, decides)
        found = runs.store.run(trial, lambda _, given=given: domain.residuals(given, scales))
        rows += [{"input": given.name, "arm": arm, **found[arm]} for arm in RESIDUAL_NAMES]
    return rows


def _outcome_line(row: Row, columns: Sequence[Column]) -> str:
    """One line about a finished job, for the terminal."""
    values = (
        f"{c.key} {row[c.key] * c.scale:.{c.digits}f}"
        for c in columns
        if row.get(c.key) is not None
    )
    job = f"{row['arm']} x {row['budget']:g}, seed {row['seed']}"
    return f"{row['input']}, {job}: {', '.join(values)}"
