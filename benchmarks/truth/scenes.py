"""The benchmark on scenes: one trained source, edited by every method, against the true edit.

The scene method runs in this process, through its nerfstudio config. All methods use the bundled
prior, the same number of training steps and the same budget of U-Net evaluations; see
`scene_plans`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.engine.identity import files_digest
from benchmarks.engine.trials import Store, Trial
from benchmarks.method_runs import config_content
from benchmarks.truth.budgets import rate_at
from benchmarks.truth.domains import SEEDS_APART, Arm, Job, Outcome, column_of, edit_at
from benchmarks.truth.scene_plans import REFERENCES, SCENE_ARMS
from benchmarks.truth.scene_runs import (
    NERFACTO,
    SPLATS,
    EditedScene,
    SceneInput,
    SceneResult,
    arm_config,
    run_scene_arm,
    train_source,
)
from csd_nerf.evaluation.similarity import psnr, ssim
from csd_nerf.evaluation.tables import Column
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic.dataset import SceneSettings, render_views, view_cameras, write_dataset
from csd_nerf.synthetic.edits import Edit
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Split, draw_scenes

SCENE_VIEWS = 40
"""Views of a scene; every eighth is held out."""
SCENE_SIZE = 64
"""Edge of a view in pixels."""
SOURCE_STEPS = 900
"""Training steps of the unedited scene."""
_TRIED = 400
"""Largest number of scenes that are searched for one to which an edit applies."""


_PATCH = {"mixing": "patch", "noise": "independent"}
_ROUNDS = tuple(
    Arm(name, "csd", {**_PATCH, **options}, tuned_as="csd-patch-own-noise-share")
    for name, options in {
        # All training views together, and then training alone.
        "one-round": {"rounds": 1, "round_views": 35},
        "6-rounds-of-8": {"rounds": 6, "round_views": 8},
        "12-rounds-of-4": {"rounds": 12, "round_views": 4},
        # Rounds of 16 views that begin with what training made of the last.
        "warm": {"start": "render"},
        "warm-6-rounds": {"start": "render", "rounds": 6},
        "half-training": {"edit_steps": 240},
    }.items()
)
"""Rounds of other numbers and sizes, with as many evaluations."""


class SceneDomain:
    """The domain of scenes."""

    arms = (
        *(Arm(name, None if name in REFERENCES else name) for name in SCENE_ARMS),
        # With the share of the source's estimate that is best on validation inputs.
        Arm("csd-share", "csd"),
        Arm("csd-patch", "csd", {"mixing": "patch"}),
        Arm("csd-patch-own-noise", "csd", _PATCH),
        Arm("csd-patch-own-noise-share", "csd", _PATCH),
        # Like the others, which never train on a photograph once there is an edit.
        Arm("in2n-edited-only", "in2n", {"only_edited_views": True}),
    )
    ablations = (
        Arm("csd-independent-noise", "csd", {"noise": "independent"}),
        Arm("csd-no-stein-independent-noise", "csd-no-stein", {"noise": "independent"}),
        Arm("csd-clean-kernel", "csd", {"noise": "independent", "kernel_on": "clean"}),
        Arm("csd-from-renders", "csd", {"start": "render"}),
    )
    columns = (
        column_of("psnr_edited", "psnr"),
        column_of("ssim_edited", "ssim"),
        Column("cross_view_edits", "disagreement of the edits, 1/1000", 1000, better="lower"),
        Column("cross_view", "of the renders, 1/1000", 1000),
    )
    consistency = "cross_view_edits"
    baseline = "csd"
    representation = NERFACTO

    def __init__(self, prior: Prior, options: Mapping[str, Any], store: Store) -> None:
        """Take a prior, options that replace those of all arms, and the store for scenes."""
        self._prior, self._options, self._store = prior, options, store

    def draw(self, position: int, split: Split) -> SceneInput:
        """The input at a position of the benchmark."""
        return draw_scene(position, split, self._store)

    def decides(self, job: Job, given: EditedScene) -> dict[str, Any]:
        """Everything but the prior that decides a job's result; trains the source if needed."""
        method, options = self._method_and_options(job)
        config = arm_config(
            method,
            given,
            options,
            budget=job.budget,
            csd=self._options,
            seed=job.seed,
            representation=self.representation,
        )
        source = self._source(given)
        return {
            "method": method,
            "config": config_content(config),
            "data": files_digest(given.folder),
            "source": files_digest(source),
        }

    def measure(self, job: Job, given: SceneInput, folder: Path) -> Outcome:
        """Run a method on a scene, and measure the result against the truth."""
        result = self._run(job, given, folder)
        row = {
            "psnr": psnr(result.edited01, result.truth01),
            "ssim": ssim(result.edited01, result.truth01),
            "cross_view": result.cross_view,
            "cross_view_edits": result.cross_view_edits,
            "evaluations": result.evaluations,
            "seconds": result.seconds,
        }
        return Outcome(row, result.edited01, result.truth01)

    def _run(self, job: Job, given: EditedScene, folder: Path) -> SceneResult:
        method, options = self._method_and_options(job)
        return run_scene_arm(
            method,
            given,
            self._source(given),
            folder,
            prior=self._prior,
            options=options,
            budget=job.budget,
            csd=self._options,
            seed=job.seed,
            representation=self.representation,
        )

    def _source(self, given: EditedScene) -> Path:
        return train_source(
            given, self._store, steps=SOURCE_STEPS, representation=self.representation
        )

    def _method_and_options(self, job: Job) -> tuple[str, dict[str, Any]]:
        method = job.arm.method or job.arm.name
        options = {**job.arm.options, **self._options}
        rate = {**SCENE_ARMS[method], **options}.get("learning_rate")
        if rate is not None:
            options["learning_rate"] = rate_at(job.budget, rate)
        return method, options


class SplatSceneDomain(SceneDomain):
    """The same scenes as Gaussian splats."""

    ablations = (*SceneDomain.ablations, *_ROUNDS)
    representation = SPLATS


def draw_scene(position: int, split: Split, store: Store) -> SceneInput:
    """The input at a position of the benchmark; its data set is written to the store once.

    Beginning at a seed that depends on the position, it is the first scene in which the edit
    applies to at least half of the views.

    Raises:
        ValueError: If no such scene is found.
    """
    edit = edit_at(position, split)
    name = f"{position:02d} {edit.name}"
    decides = {"edit": edit.name, "position": position, "split": split}
    decides |= {"views": SCENE_VIEWS, "size": SCENE_SIZE}
    trial = Trial({"input": name, "arm": "data set"}, decides)

    def write(folder: Path) -> dict[str, Any]:
        scene = _scene_that_shows(edit, position, split)
        settings = SceneSettings(scene=scene, split=split, views=SCENE_VIEWS, size=SCENE_SIZE)
        write_dataset(folder / "data", settings, edit=edit.name)
        return {"scene": scene}

    store.run(trial, write)
    return SceneInput(name, edit, store.folder(trial) / "data")


def _scene_that_shows(edit: Edit, position: int, split: Split) -> int:
    cameras = view_cameras(SCENE_VIEWS)
    first = SEEDS_APART * position
    for scene in range(first, first + _TRIED):
        scenes = draw_scenes([SPLIT_SEEDS[split][scene]])
        seen = render_views(scenes, cameras, size=SCENE_SIZE // 2)
        if 2 * sum(edit.applies(scenes.repeat(SCENE_VIEWS), seen)) >= SCENE_VIEWS:
            return scene
    raise ValueError(f"No scene of {split} from position {position} on shows {edit.name!r}.")
