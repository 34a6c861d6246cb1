"""Text-to-3D by several distillations, measured: what `python -m benchmarks text-to-3d` runs.

For each prompt, arm and seed an object is trained and rendered from 12 sides (CSD Appendix C.2).
CLIP and Inception judge its views; where the prompt means a synthetic object, so does the truth.
Making an object is one trial, judging it another, so that it can be judged anew by other networks.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.engine.identity import files_digest, versions, weights_digest
from benchmarks.engine.trials import Store, Trial, write_results
from benchmarks.method_runs import config_content, method_config, place
from benchmarks.paper.inputs import PROMPTS
from benchmarks.text_to_3d.judging import measure, require
from benchmarks.text_to_3d.object_truth import VIEW_SETTINGS
from benchmarks.text_to_3d.report import write_report
from benchmarks.text_to_3d.settings import TextTo3dSettings, read_prompts
from benchmarks.text_to_3d.training import RunFailedError, object_config, train_and_render
from benchmarks.text_to_3d.views import read_views
from csd_nerf.evaluation.networks import Name, Networks
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.files import write_json
from csd_nerf.priors.devices import find_device


@dataclass(frozen=True)
class ObjectTrials:
    """An object that is made and judged."""

    prompt: str
    config: Any
    """nerfstudio's, of the training."""
    made: Trial
    judged: Trial

    @property
    def scene(self) -> str:
        """The object's name in `runs/ARM`: equal in all arms, different for different prompts."""
        words = "-".join(re.findall(r"[a-z0-9]+", self.prompt.lower()))[:40]
        # Prompts may differ in signs, or after the fortieth letter.
        different = hashlib.sha256(self.prompt.encode()).hexdigest()[:6]
        return f"{words}-{different}-seed{self.made.labels['seed']}"


def run_text_to_3d(settings: TextTo3dSettings, *, note: Callable[[str], None]) -> str:
    """Run what is missing, and write results.json, .md and .csv, and objects.png.

    runs/ARM in the output folder links to the folders of the objects, with their views in colour/,
    lit/ and depth/. Finished runs, failed ones too, aren't run again; more prompts, arms or seeds
    are added.

    Args:
        settings: What to make and measure.
        note: Told in a line which measures are left out.

    Returns:
        The tables in markdown.

    Raises:
        ValueError: If an option is wrong.
        FileNotFoundError: If weights or a folder are missing.
    """
    store = Store(settings.output)
    runs = list(_runs(settings))
    if settings.clip is None:
        note("CLIP similarities are left out: they need --clip MODEL_OR_DIR.")
    missing = [run for run in runs if _row(store, run) is None]
    if missing:
        _run_all(store, missing, settings)
    rows = [row for run in runs if (row := _row(store, run)) is not None]
    write_results(settings.output, settings, rows)
    _link(store, runs, rows)
    return write_report(store, rows, with_fid=settings.reference is not None)


def _runs(settings: TextTo3dSettings) -> Iterator[ObjectTrials]:
    preset = method_config(settings.method)
    device = settings.device or preset.machine.device_type
    find_device(device)
    steps = settings.steps or preset.max_num_iterations
    prior = settings.prior or preset.pipeline.prior
    weights = weights_digest(prior, kind="text")
    judges = _judges(settings)
    for prompt in read_prompts(settings.prompts):
        for arm in settings.arms:
            for seed in range(settings.seeds):
                config = object_config(
                    settings.method,
                    prompt=prompt,
                    arm=arm,
                    seed=seed,
                    steps=steps,
                    prior=prior,
                    device=device,
                )
                labels = {"prompt": prompt, "arm": arm, "seed": seed}
                decides = {"config": config_content(config), "weights": weights}
                made = Trial(labels, {**decides, "views": VIEW_SETTINGS})
                yield ObjectTrials(
                    prompt, config, made, Trial(labels, {"views": made.id, **judges})
                )


def _judges(settings: TextTo3dSettings) -> dict[str, Any]:
    """What decides a judgement beside the views."""
    clip, reference, inception = settings.clip, settings.reference, settings.inception
    return {
        "clip": files_digest(Path(clip)) if clip and Path(clip).is_dir() else clip,
        "reference": None if reference is None else files_digest(reference),
        "inception": None if inception is None else files_digest(inception),
        "versions": versions(("open_clip_torch", "scipy")),
    }


def _row(store: Store, run: ObjectTrials) -> Row | None:
    """What is known of a finished run."""
    made = store.row(run.made)
    if made is None or made["failure"] is not None:
        return made
    judged = store.row(run.judged)
    return None if judged is None else {**judged, **made}


def _run_all(store: Store, runs: Sequence[ObjectTrials], settings: TextTo3dSettings) -> None:
    """Make and judge objects; each is kept when it is finished."""
    networks = Networks(
        clip=settings.clip,
        reference=settings.reference,
        inception=settings.inception,
        device=settings.device or runs[0].config.machine.device_type,
    )
    judges: list[Name] = []
    if settings.clip is not None:
        judges.append("CLIP")
    if settings.reference is not None:
        judges.append("Inception")
    require(networks, judges)
    steps = runs[0].config.max_num_iterations
    with tqdm(total=len(runs) * steps, unit="step") as bar:
        for number, run in enumerate(runs, start=1):
            labels = run.made.labels
            bar.set_description(f"{labels['arm']}, seed {labels['seed']}: {run.prompt}"[:48])
            made = store.run(run.made, partial(_make, run.config, on_step=bar.update))
            if made["failure"] is None:
                views = read_views(store.folder(run.made))
                measured = partial(measure, views, run.prompt, networks, judges)
                store.run(run.judged, lambda _, measured=measured: measured())
            # A failed run ends before its last step, one that is only judged has none.
            bar.update(number * steps - bar.n)


def _make(config: Any, folder: Path, *, on_step: Callable[[], object]) -> Row:
    """Train one object and keep its views."""
    place(config, folder)
    began = time.perf_counter()
    try:
        views = train_and_render(config, folder, on_step=on_step)
    except RunFailedError as error:
        return {"failure": str(error)}
    seconds = round(time.perf_counter() - began, 1)
    views.save(folder)
    return {"failure": None, "seconds": seconds}


def _link(store: Store, runs: Sequence[ObjectTrials], rows: Sequence[Row]) -> None:
    """Name the objects, and the texts of those that no arm failed to make, for `paper table5`."""
    links = store.output / "runs"
    shutil.rmtree(links, ignore_errors=True)
    failed = {run.scene for run, row in zip(runs, rows, strict=True) if row["failure"]}
    for run in runs:
        link = links / run.made.labels["arm"] / run.scene
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(store.folder(run.made), link.parent), True)
    texts = {run.scene: run.prompt for run in runs if run.scene not in failed}
    write_json(store.output / PROMPTS, texts)
