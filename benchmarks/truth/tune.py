"""Runs `python -m benchmarks truth DOMAIN --tune`: chooses the options of each arm.

All inputs are of the validation split. For scenes, panoramas and videos their edits are
`TUNING_EDITS`, none of which is among the edits of the benchmark. Every candidate gets the same
budget of U-Net evaluations.
"""

from __future__ import annotations

import dataclasses
import json
import pkgutil
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.engine.identity import plain, weights_digest
from benchmarks.truth.domains import Arm, chosen_arms
from benchmarks.truth.grids import Grid, candidates, grid_of
from benchmarks.truth.run import run_arms
from benchmarks.truth.settings import DOMAINS, TruthSettings
from benchmarks.truth.tuned import Entry, tuned_file, write_tuned
from csd_nerf.evaluation.paired import paired_difference
from csd_nerf.evaluation.tables import Row

MEASURE = "psnr"
"""Key of the measure whose mean is made as large as possible."""
LEAST_CHANGED = 0.8
"""For choices, the best candidate changes at least this share of the images that any candidate
changes: where the target is small, an unchanged image has a higher PSNR than most edits. A higher
share would let candidates decide that change all images and spoil them."""
_DIGITS = 3


def run_tune(settings: TruthSettings) -> str:
    """Tune the chosen arms, and write each into the domain's file as soon as it is done.

    An entry of the file holds `options`, the best ones; `tried`, all candidates with their means
    and the paired difference to the best (mean, standard error); `at_edge`, the options whose best
    value is the first or last of its grid, so that a wider grid may find more; and the split, the
    inputs, their edits, the seeds, the budget, the digest of the prior's weights and the command.
    Learning rates are those at budget 1.

    Returns:
        A table of the chosen options in markdown.

    Raises:
        ValueError: If an arm is unknown.
    """
    kind: Any = pkgutil.resolve_name(DOMAINS[settings.domain])
    chosen = chosen_arms(kind.arms, kind.ablations, settings.arms, ablate=settings.ablations)
    lines = ["| arm | PSNR, dB | options | at the edge of its grid |", "| --- | --- | --- | --- |"]
    for arm in chosen:
        grid = None if arm.method is None else grid_of(settings.domain, arm)
        if grid is None or not grid.stages:
            continue  # A reference, or an arm that sets all options itself.
        entry = _tuned(arm, grid, settings)
        write_tuned(settings.domain, arm.name, entry)
        options = ", ".join(f"{key} {value}" for key, value in entry["options"].items())
        edges = ", ".join(entry["at_edge"])
        lines.append(f"| {arm.name} | {entry[MEASURE]:.2f} | {options} | {edges} |")
    return "\n".join([*lines, "", f"Written to {tuned_file(settings.domain)}."])


def _tuned(arm: Arm, grid: Grid, settings: TruthSettings) -> Entry:
    """Search an arm's grid stage by stage."""
    tried: dict[str, dict[str, Any]] = {}
    rows: list[Row] = []
    best = dict(grid.start)
    for stage in grid.stages:
        asked = {_text(best): best}
        asked |= {_text(options): options for options in _with(best, stage)}
        new = {name: options for name, options in asked.items() if name not in tried}
        tried |= new
        rows += _rows(arm, new, settings)
        best = tried[_best(rows, [*tried])]
    return {
        "options": best,
        MEASURE: round(_mean(rows, _text(best), MEASURE), _DIGITS),
        "at_edge": _at_edge(grid, best),
        "tried": [_figures(rows, options, best) for options in tried.values()],
        **_origin(settings, arm, rows),
    }


def _with(best: Mapping[str, Any], stage: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [{**best, **values} for values in candidates(stage)]


def _rows(arm: Arm, tried: Mapping[str, Mapping[str, Any]], settings: TruthSettings) -> list[Row]:
    """Run an arm with each of these options on all inputs and seeds; rows name the options."""
    counts = settings.counts
    validation = dataclasses.replace(
        settings, split="validation", tune=False, inputs=counts.inputs, seeds=counts.seeds
    )
    names = {f"{arm.name} {text}": text for text in tried}
    arms = [
        dataclasses.replace(arm, name=name, options={**tried[text], **arm.options})
        for name, text in names.items()
    ]
    runs = run_arms(validation, arms)
    rows = [row for trial in runs.trials if (row := runs.store.row(trial)) is not None]
    return [{**row, "options": names[row["arm"]]} for row in rows]


def _best(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The candidate with the highest mean among those that change enough images."""
    changed = {name: _mean(rows, name, "changed") for name in names}
    enough = LEAST_CHANGED * max(changed.values())
    able = [name for name in names if changed[name] >= enough]
    return max(able, key=lambda name: _mean(rows, name, MEASURE))


def _mean(rows: Sequence[Row], name: str, key: str) -> float:
    """Mean of a measure of a candidate; 1 for rows without it."""
    return fmean(row.get(key, 1.0) for row in rows if row["options"] == name)


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
    """The options that have an order and whose best value is an end of their grid."""
    return [
        key
        for stage in grid.stages
        for key, values in stage.items()
        if not isinstance(values[0], str) and best[key] in (values[0], values[-1])
    ]


def _origin(settings: TruthSettings, arm: Arm, rows: Sequence[Row]) -> Entry:
    """How an entry was made."""
    counts, (budget, *_) = settings.counts, settings.budgets
    media = "" if settings.media is None else f"--media {' '.join(settings.media)} "
    prior = "" if settings.prior == "tiny" else "--prior FOLDER "
    command = (
        f"python -m benchmarks truth {settings.domain} --tune --arms {arm.name} "
        f"--inputs {counts.inputs} --seeds {counts.seeds} --budgets {budget:g} {media}{prior}"
        "--output DIR"
    )
    return {
        "split": "validation",
        "inputs": counts.inputs,
        "seeds": counts.seeds,
        "budget": budget,
        "edits": list(dict.fromkeys(row["edit"] for row in rows)),
        "prior": weights_digest(settings.prior),
        "command": command,
    }


def _text(options: Mapping[str, Any]) -> str:
    return json.dumps(plain(options), sort_keys=True)
