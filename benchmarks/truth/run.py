"""Runs `python -m benchmarks truth`: all methods on inputs whose true edit is known.

Each arm edits the same held-out inputs, with instructions that the bundled prior was trained on and
the same budget of U-Net evaluations. The arms' options are the tuned ones; see `tune`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Sequence
from typing import Any, cast

from benchmarks.engine.identity import weights_digest
from benchmarks.engine.trials import Store, Trial
from benchmarks.truth.domains import Arm, Domain, Job, TruthInput, chosen_arms
from benchmarks.truth.jobs import PRIOR, run_job, trial_of
from benchmarks.truth.media import Input, MediaDomain
from benchmarks.truth.report import write_report
from benchmarks.truth.residuals import RESIDUAL_NAMES
from benchmarks.truth.settings import DOMAINS, TruthSettings
from benchmarks.truth.tuned import tuned_arm, tuning_note
from csd_nerf import priors
from csd_nerf.evaluation.tables import Row


def run_truth(settings: TruthSettings) -> str:
    """Run all trials that are not finished, and write the report; see `write_report`.

    The same call resumes an interrupted run; inputs, arms, seeds and budgets can be added.

    Returns:
        The tables in markdown.

    Raises:
        ValueError: If an arm or the baseline is unknown.
    """
    kind: Any = pkgutil.resolve_name(DOMAINS[settings.domain])
    chosen = chosen_arms(kind.arms, kind.ablations, settings.arms, ablate=settings.ablations)
    known = [arm.name for arm in (*kind.arms, *kind.ablations)]
    if settings.baseline not in known:
        raise ValueError(f"--baseline needs one of {', '.join(known)}, got {settings.baseline!r}.")
    arms = [tuned_arm(settings.domain, arm) for arm in chosen]
    store = Store(settings.output)
    domain: Domain = kind(priors.load(PRIOR), settings.options, store)
    inputs: list[TruthInput] = []
    trials: list[Trial] = []
    for position in range(settings.counts.inputs):
        given = domain.draw(position, settings.split)
        inputs.append(given)
        for job in (job for arm in arms for job in _jobs(arm, settings)):
            trials.append(trial_of(domain, job, given))
            run_job(store, trials[-1], domain, job, given)
    residuals: list[Row] = []
    if settings.ablations and isinstance(domain, MediaDomain):
        residuals = _residuals(store, settings.domain, domain, inputs)
    note = tuning_note(settings.domain, chosen, prior=weights_digest(PRIOR), given=settings.options)
    return write_report(store, settings, arms, trials, residuals=residuals, tuning=note)


def _jobs(arm: Arm, settings: TruthSettings) -> Iterator[Job]:
    """The jobs of an arm: all seeds at the first budget, one seed at the others."""
    if arm.method is None:
        yield Job(arm, settings.budgets[0])
        return
    for seed in range(settings.counts.seeds):
        yield Job(arm, settings.budgets[0], seed)
    for budget in settings.budgets[1:]:
        yield Job(arm, budget)


def _residuals(
    store: Store, name: str, domain: MediaDomain, inputs: Sequence[TruthInput]
) -> list[Row]:
    """Rows with the residuals of csd and sds at the true edits, at the scales of these arms."""
    arms = {arm.name: tuned_arm(name, arm) for arm in domain.arms}
    scales = {residual: domain.guidance(arms[residual]) for residual in RESIDUAL_NAMES}
    rows = []
    for given in cast("Sequence[Input]", inputs):
        decides = {"residuals": scales, "prior": weights_digest(PRIOR)}
        decides |= {"source": given.source, "truth": given.truth01}
        decides |= {"prompt": given.edit.instructions}
        trial = Trial({"input": given.name}, decides)
        found = store.run(trial, lambda _, given=given: domain.residuals(given, scales))
        rows += [{"input": given.name, "arm": arm, **found[arm]} for arm in RESIDUAL_NAMES]
    return rows
