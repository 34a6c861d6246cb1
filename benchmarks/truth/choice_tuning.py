"""Chooses the options of each arm of the benchmark of choices, on validation inputs.

An arm is searched stage by stage: a stage tries all combinations of its values, with the other
options at the best values so far. The best has the largest mean PSNR to the common answer, among
those that change nearly as many images as any: where the target is small, an unchanged image has a
higher PSNR than most edits.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from benchmarks.engine.identity import plain
from benchmarks.truth.choice_arms import CHOICE_ARMS, TUNED_FILE, read_tuned
from benchmarks.truth.domains import Arm, chosen_arms
from benchmarks.truth.run import run_arms
from benchmarks.truth.settings import TruthSettings
from csd_nerf.media.files import write_json

Stage = Mapping[str, tuple[Any, ...]]
STAGES: dict[str, tuple[Stage, ...]] = {
    "edit": (
        {"learning_rate": (1.0, 2.0, 4.0), "text_scale": (1.5, 3.0, 5.0)},
        {"t_range": ((0.02, 0.8), (0.02, 0.95)), "t_order": ("falling", "random")},
    ),
    "ip2p": ({"text_scale": (1.5, 2.0, 3.0, 5.0), "image_scale": (1.0, 1.5, 2.0)},),
}
"""The searches by method."""
LEAST_CHANGED = 0.9
"""The best candidate changes at least this share of the images that any candidate changes."""


def run_tune(settings: TruthSettings) -> str:
    """Tune the chosen arms, and write each into the file of tuned options as soon as it is done.

    Returns:
        A table of the chosen options in markdown.

    Raises:
        ValueError: If an arm is unknown.
    """
    chosen = chosen_arms(CHOICE_ARMS, (), settings.arms, ablate=False)
    validation = dataclasses.replace(settings, split="validation", tune=False, arms=())
    lines = ["| arm | PSNR, dB | options |", "| --- | --- | --- |"]
    TUNED_FILE.parent.mkdir(exist_ok=True)
    for arm in chosen:
        if arm.method is not None:
            options, psnr = tuned(arm, validation)
            entry = {"options": options, "psnr": round(psnr, 3), "inputs": settings.inputs}
            write_json(TUNED_FILE, {**read_tuned(), arm.name: {**entry, "seeds": settings.seeds}})
            texts = ", ".join(f"{key} {value}" for key, value in options.items())
            lines.append(f"| {arm.name} | {psnr:.2f} | {texts} |")
            print(lines[-1], flush=True)
    return "\n".join([*lines, "", f"Written to {TUNED_FILE}."])


def tuned(arm: Arm, settings: TruthSettings) -> tuple[dict[str, Any], float]:
    """The best options of an arm on the inputs of these settings, and their mean PSNR."""
    best: dict[str, Any] = {}
    psnr = 0.0
    for stage in STAGES[arm.method or ""]:
        tried = {}
        for values in itertools.product(*stage.values()):
            options = {**best, **dict(zip(stage, values, strict=True))}
            name = f"{arm.name} {json.dumps(plain(options), sort_keys=True)}"
            tried[name] = dataclasses.replace(arm, name=name, options={**options, **arm.options})
        runs = run_arms(settings, [*tried.values()])
        rows = [row for trial in runs.trials if (row := runs.store.row(trial)) is not None]
        means = {
            name: {
                key: fmean(row[key] for row in rows if row["arm"] == name)
                for key in ("changed", "psnr")
            }
            for name in tried
        }
        name = _best(means)
        best = {key: tried[name].options[key] for key in {**best, **stage}}
        psnr = means[name]["psnr"]
    return best, psnr


def _best(means: Mapping[str, Mapping[str, float]]) -> str:
    """The name with the highest PSNR among those that change enough images."""
    enough = LEAST_CHANGED * max(mean["changed"] for mean in means.values())
    able = [name for name, mean in means.items() if mean["changed"] >= enough]
    return max(able, key=lambda name: means[name]["psnr"])
