"""Runs `python -m benchmarks truth DOMAIN --tune`: chooses the options of each arm.

All inputs are of the validation split and their edits are `TUNING_EDITS`, none of which is among
the edits of the benchmark. Every candidate gets the same budget of U-Net evaluations.
"""

from __future__ import annotations

import dataclasses
import json
import pkgutil
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.engine.identity import plain, weights_digest
from benchmarks.engine.trials import Store
from benchmarks.truth.domains import Arm, Domain, Job, TruthInput, chosen_arms
from benchmarks.truth.grids import Grid, candidates, grid_of
from benchmarks.truth.jobs import PRIOR, run_job, trial_of
from benchmarks.truth.settings import DOMAINS, TruthSettings
from benchmarks.truth.tuned import Entry, tuned_file, write_tuned
from csd_nerf import priors
from csd_nerf.evaluation.paired import paired_difference
from csd_nerf.evaluation.tables import Row
from csd_nerf.synthetic.scenes import Split

SPLIT: Split = "validation"
MEASURE = "psnr"
"""Key of the measure whose mean is made as large as possible."""
_DIGITS = 3


def run_tune(settings: TruthSettings) -> str:
    """Tune the chosen arms, and write each into the domain's file as soon as it is done.

    An entry of the file holds `options`, the best ones; `tried`, all candidates with their means
    and the paired difference to the best (mean, standard error); `at_edge`, the options whose best
    value is the first or last of its grid, so that a wider grid may find more; and the inputs,
    their split and edits, the seeds, the budget, the digest of the prior's weights and the command.
    Learning rates are those at budget 1.

    Returns:
        A table of the chosen options in markdown.

    Raises:
        ValueError: If an arm is unknown.
    """
    kind: Any = pkgutil.resolve_name(DOMAINS[settings.domain])
    chosen = chosen_arms(kind.arms, kind.ablations, settings.arms, ablate=settings.ablations)
    grids = [(arm, grid_of(settings.domain, arm)) for arm in chosen if arm.method is not None]
    store = Store(settings.output)
    domain: Domain = kind(priors.load(PRIOR), {}, store)
    inputs = [domain.draw(position, SPLIT) for position in range(settings.counts.inputs)]
    lines = ["| arm | PSNR, dB | options | at the edge of its grid |", "| --- | --- | --- | --- |"]
    for arm, grid in grids:
        if not grid.stages:
            continue  # The arm sets them all itself.
        entry = _tuned(store, domain, arm, grid, inputs, settings)
        write_tuned(settings.domain, arm.name, entry | _origin(settings, arm, inputs))
        options = ", ".join(f"{key} {value}" for key, value in entry["options"].items())
        edges = ", ".join(entry["at_edge"])
        lines.append(f"| {arm.name} | {entry[MEASURE]:.2f} | {options} | {edges} |")
    return "\n".join([*lines, "", f"Written to {tuned_file(settings.domain)}."])


def _tuned(
    store: Store,
    domain: Domain,
    arm: Arm,
    grid: Grid,
    inputs: Sequence[TruthInput],
    settings: TruthSettings,
) -> Entry:
    """Search an arm's grid stage by stage."""
    tried: dict[str, dict[str, Any]] = {}
    rows: list[Row] = []
    best = dict(grid.start)

    def mean(options: Mapping[str, Any]) -> float:
        return fmean(row[MEASURE] for row in rows if row["options"] == _text(options))

    for stage in grid.stages:
        for options in (best, *({**best, **values} for values in candidates(stage))):
            if _text(options) not in tried:
                tried[_text(options)] = options
                rows += _rows(store, domain, arm, options, inputs, settings)
        best = max(tried.values(), key=mean)
    return {
        "options": best,
        MEASURE: round(mean(best), _DIGITS),
        "at_edge": _at_edge(grid, best),
        "tried": [_figures(rows, options, best) for options in tried.values()],
    }


def _rows(
    store: Store,
    domain: Domain,
    arm: Arm,
    options: Mapping[str, Any],
    inputs: Sequence[TruthInput],
    settings: TruthSettings,
) -> list[Row]:
    """Run an arm with these options on all inputs and seeds."""
    name = f"{arm.name} {_text(options)}"
    candidate = dataclasses.replace(arm, name=name, options={**options, **arm.options})
    rows = []
    for given in inputs:
        for seed in range(settings.counts.seeds):
            job = Job(candidate, settings.budgets[0], seed)
            row = run_job(store, trial_of(domain, job, given), domain, job, given)
            rows.append({**row, "options": _text(options)})
    return rows


def _figures(rows: Sequence[Row], options: Mapping[str, Any], best: Mapping[str, Any]) -> Entry:
    """A candidate's mean, and its paired difference to the best."""
    name = _text(options)
    values = [row[MEASURE] for row in rows if row["options"] == name]
    found: Entry = {"options": options, MEASURE: round(fmean(values), _DIGITS)}
    difference = paired_difference(rows, name, _text(best), MEASURE, by="options")
    if options != best and difference is not None:
        error = None if difference.error is None else round(difference.error, _DIGITS)
        found["minus_best"] = [round(difference.mean, _DIGITS), error]
    return found


def _at_edge(grid: Grid, best: Mapping[str, Any]) -> list[str]:
    return [
        key
        for stage in grid.stages
        for key, values in stage.items()
        if len(values) > 1 and best[key] in (values[0], values[-1])
    ]


def _origin(settings: TruthSettings, arm: Arm, inputs: Sequence[TruthInput]) -> Entry:
    """How an entry was made."""
    counts, (budget, *_) = settings.counts, settings.budgets
    command = (
        f"python -m benchmarks truth {settings.domain} --tune --arms {arm.name} "
        f"--inputs {counts.inputs} --seeds {counts.seeds} --budgets {budget:g} --output DIR"
    )
    return {
        "split": SPLIT,
        "inputs": counts.inputs,
        "seeds": counts.seeds,
        "budget": budget,
        "edits": list(dict.fromkeys(given.edit.name for given in inputs)),
        "prior": weights_digest(PRIOR),
        "command": command,
    }


def _text(options: Mapping[str, Any]) -> str:
    return json.dumps(plain(options), sort_keys=True)
