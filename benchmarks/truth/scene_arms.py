"""The benchmark on scenes: one trained source, edited by every method, against the true edit.

The scene method runs in this process, by its nerfstudio config. All methods edit with the bundled
prior, train for equally many steps and ask as much of the U-Net, see `scene_plans`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.method_runs import (
    held_out_renders,
    photographs,
    run,
    set_options,
    tiny_config,
    training_images,
)
from benchmarks.truth.arms import EDITS, SEEDS_APART
from benchmarks.truth.domains import Arm, Job, Outcome
from benchmarks.truth.scene_plans import REFERENCES, ROUND_VIEWS, SCENE_ARMS, plan_arm
from csd_nerf.evaluation.compare import true_edit
from csd_nerf.evaluation.cross_view import cross_view_error
from csd_nerf.evaluation.similarity import psnr, ssim
from csd_nerf.evaluation.tables import Column
from csd_nerf.media.pixels import to_bytes
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic.dataset import (
    RECORD,
    SceneSettings,
    render_views,
    view_cameras,
    write_dataset,
)
from csd_nerf.synthetic.edits import Edit, all_edits
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Split, draw_scenes

SCENE_VIEWS = 40
"""Views of a scene; every eighth is held out."""
SCENE_SIZE = 64
"""Edge of a view in pixels."""
SOURCE_STEPS = 900
"""Training steps of the unedited scene."""
_DEPTH_RAY = 0.25
"""Pixels by which the rays of a data set's depth lie right of and below the pixels' centres."""


@dataclass(frozen=True)
class SceneInput:
    """A data set with its true edit."""

    name: str
    edit: Edit
    folder: Path


@dataclass(frozen=True)
class SceneResult:
    """What a method made of a scene, with its cost.

    Attributes:
        edited01: Renders of the held-out views.
        truth01: Their true edits.
        views01: The training images at the end, in the order of the views.
        evaluations: U-Net evaluations.
        seconds: Wall-clock time of editing and training.
        cross_view: Disagreement of the renders, by the true depth; see `cross_view_error`.
        cross_view_edits: The same of the training images, before a scene averages them.
    """

    edited01: Float[Tensor, "n 3 h w"]
    truth01: Float[Tensor, "n 3 h w"]
    views01: Float[Tensor, "m 3 h w"]
    evaluations: int
    seconds: float
    cross_view: float
    cross_view_edits: float


class SceneDomain:
    """Scenes, for the benchmark."""

    arms = tuple(Arm(name, None if name in REFERENCES else name) for name in SCENE_ARMS)
    ablations = (
        Arm("csd-independent-noise", "csd", {"noise": "independent"}),
        Arm("csd-no-stein-independent-noise", "csd-no-stein", {"noise": "independent"}),
        Arm("csd-clean-kernel", "csd", {"noise": "independent", "kernel_on": "clean"}),
        Arm("csd-from-renders", "csd", {"start": "render"}),
        Arm("in2n-edited-only", "in2n", {"only_edited_views": True}),
    )
    columns = (
        Column("psnr", "PSNR, dB", better="higher"),
        Column("ssim", "SSIM", digits=3, better="higher"),
        Column("cross_view_edits", "disagreement of the edits, 1/1000", 1000, better="lower"),
        Column("cross_view", "of the renders, 1/1000", 1000),
    )
    consistency = "cross_view_edits"

    def __init__(self, folder: Path, prior: Prior, options: Mapping[str, Any]) -> None:
        """Take a folder for data sets and runs, and options of all arms in place of theirs."""
        self._folder, self._prior, self._options = folder, prior, options

    def draw(self, position: int, split: Split) -> SceneInput:
        """The input at a position of the benchmark."""
        return draw_scene(position, split, self._folder)

    def settings(self, job: Job) -> dict[str, Any]:
        """What decides a job's result."""
        method, options = self._asked(job)
        plan = plan_arm(method, options, budget=job.budget)
        return {**SCENE_ARMS[method], **options, **dataclasses.asdict(plan)}

    def measure(self, job: Job, given: SceneInput) -> Outcome:
        """Run a method on a scene, and measure the result against the truth."""
        source = train_source(given, self._folder, steps=SOURCE_STEPS)
        method, options = self._asked(job)
        result = run_scene_arm(
            method,
            given,
            source,
            self._folder / "runs" / job.arm.name,
            prior=self._prior,
            options=options,
            budget=job.budget,
            seed=job.seed,
        )
        row = {
            "psnr": psnr(result.edited01, result.truth01),
            "ssim": ssim(result.edited01, result.truth01),
            "cross_view": result.cross_view,
            "cross_view_edits": result.cross_view_edits,
            "evaluations": result.evaluations,
            "seconds": result.seconds,
        }
        return Outcome(row, result.edited01, result.truth01)

    def _asked(self, job: Job) -> tuple[str, dict[str, Any]]:
        method = job.arm.method or job.arm.name
        options = {**job.arm.options, **self._options}
        rate = {**SCENE_ARMS[method], **options}.get("learning_rate")
        if rate is not None:
            # As for panoramas and videos: fewer updates need longer steps.
            options["learning_rate"] = rate / math.sqrt(job.budget)
        return method, options


def draw_scene(position: int, split: Split, folder: Path) -> SceneInput:
    """The input at a position of the benchmark, written below `folder` once.

    It is the first scene, from a seed that depends on the position, in which half of the views
    show the edit.

    Raises:
        ValueError: If no scene shows it.
    """
    edit = all_edits()[EDITS[position % len(EDITS)]]
    cameras = view_cameras(SCENE_VIEWS)
    name = f"{position:02d} {edit.name}"
    output = folder / "data" / f"{split} {name}".replace(" ", "_")
    if (output / RECORD).is_file():
        return SceneInput(name, edit, output)
    for scene in range(SEEDS_APART * position, SEEDS_APART * position + 400):
        scenes = draw_scenes([SPLIT_SEEDS[split][scene]])
        seen = render_views(scenes, cameras, size=SCENE_SIZE // 2)
        if 2 * sum(edit.applies(scenes.repeat(SCENE_VIEWS), seen)) >= SCENE_VIEWS:
            settings = SceneSettings(scene=scene, split=split, views=SCENE_VIEWS, size=SCENE_SIZE)
            write_dataset(output, settings, edit=edit.name)
            return SceneInput(name, edit, output)
    raise ValueError(f"No scene of {split} from position {position} on shows {edit.name!r}.")


def train_source(given: SceneInput, folder: Path, *, steps: int) -> Path:
    """Train the unedited scene, once for all methods.

    Args:
        given: The input.
        folder: Where runs are kept.
        steps: Training steps.

    Returns:
        The folder of its checkpoint, for `run_scene_arm`.
    """
    runs = folder / "sources" / given.folder.name
    config = tiny_config(given.folder, runs, prompt=given.edit.instructions[0])
    checkpoints = config.get_checkpoint_dir()
    if (checkpoints / f"step-{steps - 1:09d}.ckpt").is_file():
        return checkpoints
    shutil.rmtree(runs, ignore_errors=True)
    pipeline: Any = config.pipeline
    pipeline.source_steps = config.max_num_iterations = steps
    with run(config, runs / "log.txt") as trainer:
        trainer.train()
    return checkpoints


def run_scene_arm(
    name: str,
    given: SceneInput,
    source: Path,
    folder: Path,
    *,
    prior: Prior,
    options: Mapping[str, Any],
    budget: float = 1.0,
    seed: int = 0,
) -> SceneResult:
    """Edit a trained scene by a method, and measure the result.

    Args:
        name: One of `SCENE_ARMS`.
        given: The input.
        source: What `train_source` returned.
        folder: For the run; what was in it is replaced.
        prior: The bundled prior.
        options: Fields of `EditSettings`, of the pipeline's config or of the datamanager's, which
            replace the method's own, and `updates` and `edit_steps`, see `plan_arm`.
        budget: As for `plan_arm`.
        seed: Of the rounds; equal seeds give equal results.

    Raises:
        ValueError: If an option is unknown.
    """
    runs = folder / given.folder.name
    shutil.rmtree(runs, ignore_errors=True)
    plan = plan_arm(name, options, budget=budget)
    config = tiny_config(given.folder, runs, prompt=given.edit.instructions[0])
    config.load_dir = source
    arm = {**SCENE_ARMS[name], **options, **plan.options(), "seed": seed}
    set_options(config, {key: value for key, value in arm.items() if key != "updates"})
    with run(config, runs / "log.txt") as trainer:
        pipeline: Any = trainer.pipeline
        pipeline.lend_prior(prior)
        began = time.perf_counter()
        if name == "autoencoder":
            _edit_truly(pipeline, given, prior)
        if name != "source":
            trainer.train()
        seconds = time.perf_counter() - began
        edited01, names = held_out_renders(pipeline)
        photograph01 = photographs(pipeline.datamanager.eval_dataset)
        views01 = training_images(pipeline.datamanager)
        train_names = [Path(path) for path in pipeline.datamanager.train_dataset.image_filenames]
        evaluations = pipeline.stage.state.evaluations
    return SceneResult(
        edited01=edited01,
        truth01=true_edit(given.edit, photograph01, names, data=given.folder),
        views01=views01,
        evaluations=evaluations,
        seconds=seconds,
        cross_view=disagreement(edited01, names, given.folder),
        cross_view_edits=disagreement(views01, train_names, given.folder),
    )


def _edit_truly(pipeline: Any, given: SceneInput, prior: Prior) -> None:
    """Put true edits in the photographs' place, as the prior's autoencoder renders them."""
    data = pipeline.datamanager.train_dataset
    names = [Path(path) for path in data.image_filenames]
    truth01 = true_edit(given.edit, photographs(data), names, data=given.folder)
    edited01 = torch.cat([prior.decode(prior.encode(part)) for part in truth01.split(ROUND_VIEWS)])
    images = to_bytes(edited01)
    pipeline.datamanager.set_edited(dict(enumerate(images)))
    pipeline.controls.pause.value = True


def disagreement(image01: Float[Tensor, "n 3 h w"], names: list[Path], data: Path) -> float:
    """Cross-view error of each view and the next, by a data set's own depth and poses.

    Args:
        image01: The views, at the data set's size.
        names: Their files, of which the names count.
        data: The data set, written by `write_dataset`.
    """
    transforms = json.loads((data / "transforms.json").read_text())
    poses = {Path(f["file_path"]).name: f["transform_matrix"] for f in transforms["frames"]}
    depth = [np.load(data / "depth" / name.with_suffix(".npy").name) for name in names]
    focal = (transforms["fl_x"], transforms["fl_y"])
    # With the principal point moved, a pixel's centre lies on the ray of its depth.
    middle = (transforms["cx"] - _DEPTH_RAY, transforms["cy"] - _DEPTH_RAY)
    return cross_view_error(
        image01,
        torch.from_numpy(np.stack(depth)),
        torch.tensor([poses[name.name][:3] for name in names]),
        torch.tensor([[*focal, *middle]]).expand(len(names), 4),
    ).error
