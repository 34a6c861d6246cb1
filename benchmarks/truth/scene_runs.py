"""Trains, edits and measures scenes for the benchmark, in this process."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.engine.identity import files_digest
from benchmarks.engine.trials import Store, Trial
from benchmarks.method_runs import NEVER, config_content, method_config, place, quiet_trainer
from benchmarks.truth.scene_plans import PLANNED, ROUND_VIEWS, SCENE_ARMS, plan_arm
from csd_nerf.core.settings import EditSettings
from csd_nerf.evaluation.compare import true_edit
from csd_nerf.evaluation.cross_view import cross_view_error
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic.choices import Choice
from csd_nerf.synthetic.edits import Edit

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig

_DEPTH_RAY = 0.25
"""Offset in pixels, right and down, of the rays of a data set's depth from the pixels' centres."""


@dataclass(frozen=True)
class SceneInput:
    """A data set with its true edit."""

    name: str
    edit: Edit
    folder: Path

    def truth01(
        self, photograph01: Float[Tensor, "n 3 h w"], names: Sequence[Path]
    ) -> Float[Tensor, "n 3 h w"]:
        """The true edit of some photographs, given their files."""
        return true_edit(self.edit, photograph01, names, data=self.folder)


@runtime_checkable
class EditedScene(Protocol):
    """What a method needs to know of a data set: `SceneInput`, or one with several answers."""

    @property
    def name(self) -> str:
        """Unique among the benchmark's inputs."""
        ...

    @property
    def edit(self) -> Edit | Choice:
        """What is asked for."""
        ...

    @property
    def folder(self) -> Path:
        """Folder of the data set."""
        ...

    def truth01(
        self, photograph01: Float[Tensor, "n 3 h w"], names: Sequence[Path]
    ) -> Float[Tensor, "n 3 h w"]:
        """A right answer for some photographs, given their files."""
        ...


@dataclass(frozen=True)
class SceneResult:
    """The result of a method on a scene, with its cost.

    Attributes:
        edited01: Renders of the held-out views.
        truth01: True edits of the held-out views.
        views01: The training images at the end, in the order of the views.
        names: Files of the held-out views, and of the training views.
        evaluations: Number of U-Net evaluations.
        seconds: Wall-clock time of editing and training.
        cross_view: `cross_view_error` of the renders, by the true depth.
        cross_view_edits: `cross_view_error` of the training images, which the scene averages.
    """

    edited01: Float[Tensor, "n 3 h w"]
    truth01: Float[Tensor, "n 3 h w"]
    views01: Float[Tensor, "m 3 h w"]
    evaluations: int
    seconds: float
    cross_view: float
    cross_view_edits: float
    names: tuple[Sequence[Path], Sequence[Path]] = ((), ())


NERFACTO, SPLATS = "csd-edit-tiny", "csd-edit-splat-tiny"
"""The methods of ns-train by which scenes are trained."""


def tiny_config(data: Path, *, prompt: str, method: str = NERFACTO) -> Any:
    """The config of a method for the bundled prior, without evaluations during training.

    Args:
        data: Folder of the data set.
        prompt: The instruction.
        method: `NERFACTO` or `SPLATS`.
    """
    config = method_config(method)
    config.data = config.pipeline.datamanager.data = data
    config.pipeline.prompt = prompt
    # As it was when the records were made.
    config.pipeline.keep_detail = False
    config.steps_per_eval_batch = config.steps_per_eval_image = NEVER
    if method == NERFACTO:
        # Half the rays of the preset, so that most of the time goes to the edits.
        config.pipeline.datamanager.edit_num_rays_per_batch = 256
    return config


def set_options(config: TrainerConfig, options: Mapping[str, Any]) -> None:
    """Set options in the part of a config that has them.

    Args:
        config: Config of the scene method, changed in place.
        options: Fields of `EditSettings` (its other fields get their defaults), of the pipeline's
            config or of the datamanager's config.

    Raises:
        ValueError: If there is no such option.
    """
    pipeline: Any = config.pipeline
    edit: dict[str, Any] = {}
    settings = {field.name for field in dataclasses.fields(EditSettings)}
    for key, value in options.items():
        if key in settings:
            edit[key] = value
        elif hasattr(pipeline, key):
            setattr(pipeline, key, value)
        elif hasattr(pipeline.datamanager, key):
            setattr(pipeline.datamanager, key, value)
        else:
            raise ValueError(
                "An option needs to be one of the edit's, of the pipeline's or of the "
                f"datamanager's in {config.method_name}, got {key!r}."
            )
    pipeline.edit = EditSettings(**edit)


def train_source(
    given: EditedScene, store: Store, *, steps: int, representation: str = NERFACTO
) -> Path:
    """Train the unedited scene, unless it is in the store; all methods start from it.

    Args:
        given: The input.
        store: Store of the run.
        steps: Training steps.
        representation: `NERFACTO` or `SPLATS`.

    Returns:
        The folder of its checkpoint, for `run_scene_arm`.
    """
    config = tiny_config(given.folder, prompt=given.edit.instructions[0], method=representation)
    config.pipeline.source_steps = config.max_num_iterations = steps
    decides = {"config": config_content(config), "data": files_digest(given.folder)}
    trial = Trial({"input": given.name, "arm": "training of the source"}, decides)

    def train(folder: Path) -> dict[str, Any]:
        with quiet_trainer(config, folder / "log.txt") as trainer:
            trainer.train()
        return {}

    place(config, store.folder(trial))
    store.run(trial, train)
    return config.get_checkpoint_dir()


def arm_config(
    name: str,
    given: EditedScene,
    options: Mapping[str, Any],
    *,
    budget: float = 1.0,
    csd: Mapping[str, Any] | None = None,
    seed: int = 0,
    representation: str = NERFACTO,
) -> Any:
    """The config by which a method edits a scene; for the arguments see `run_scene_arm`."""
    config = tiny_config(given.folder, prompt=given.edit.instructions[0], method=representation)
    plan = plan_arm(name, options, budget=budget, csd=csd)
    arm = {**SCENE_ARMS[name], **options, **plan.options(), "seed": seed}
    set_options(config, {key: value for key, value in arm.items() if key not in PLANNED})
    return config


def run_scene_arm(
    name: str,
    given: EditedScene,
    source: Path,
    folder: Path,
    *,
    prior: Prior,
    options: Mapping[str, Any],
    budget: float = 1.0,
    csd: Mapping[str, Any] | None = None,
    seed: int = 0,
    representation: str = NERFACTO,
) -> SceneResult:
    """Edit a trained scene by a method, and measure the result.

    Args:
        name: One of `SCENE_ARMS`.
        given: The input.
        source: Folder from `train_source`.
        folder: Folder for the run.
        prior: The bundled prior.
        options: Options that replace those of the method: fields of `EditSettings`, of the
            pipeline's or the datamanager's config, and `updates` and `edit_steps` of `plan_arm`.
        budget: As for `plan_arm`.
        csd: As for `plan_arm`.
        seed: Seed of the rounds.
        representation: That of the source, `NERFACTO` or `SPLATS`.

    Raises:
        ValueError: If an option is unknown.
    """
    config = arm_config(
        name, given, options, budget=budget, csd=csd, seed=seed, representation=representation
    )
    config.load_dir = source
    place(config, folder)
    with quiet_trainer(config, folder / "log.txt") as trainer:
        pipeline: Any = trainer.pipeline
        pipeline.lend_prior(prior)
        began = time.perf_counter()
        if name == "autoencoder":
            _edit_truly(pipeline, given, prior)
        if name != "source":
            trainer.train()
        seconds = time.perf_counter() - began
        return _measured(pipeline, given, seconds)


def _measured(pipeline: Any, given: EditedScene, seconds: float) -> SceneResult:
    edited01, names = held_out_renders(pipeline)
    photograph01 = photographs(pipeline.datamanager.eval_dataset)
    views01 = training_images(pipeline.datamanager)
    train_names = [Path(path) for path in pipeline.datamanager.train_dataset.image_filenames]
    return SceneResult(
        edited01=edited01,
        truth01=given.truth01(photograph01, names),
        views01=views01,
        evaluations=pipeline.stage.state.evaluations,
        seconds=seconds,
        cross_view=disagreement(edited01, names, given.folder),
        cross_view_edits=disagreement(views01, train_names, given.folder),
        names=(names, train_names),
    )


def _edit_truly(pipeline: Any, given: EditedScene, prior: Prior) -> None:
    """Replace the photographs by their true edits after encoding and decoding."""
    data = pipeline.datamanager.train_dataset
    names = [Path(path) for path in data.image_filenames]
    truth01 = given.truth01(photographs(data), names)
    edited01 = torch.cat([prior.decode(prior.encode(part)) for part in truth01.split(ROUND_VIEWS)])
    images = to_bytes(edited01)
    pipeline.datamanager.set_edited(dict(enumerate(images)))
    pipeline.controls.paused = True


@torch.no_grad()
def held_out_renders(pipeline: Any) -> tuple[Float[Tensor, "n 3 h w"], list[Path]]:
    """Renders of the held-out views, and the files of their photographs."""
    data = pipeline.datamanager.eval_dataset
    pipeline.eval()
    renders = [
        pipeline.model.get_outputs_for_camera(data.cameras[view : view + 1])["rgb"]
        for view in range(len(data))
    ]
    names = [Path(path) for path in data.image_filenames]
    return torch.stack(renders).permute(0, 3, 1, 2).float().clamp(0, 1), names


def photographs(data: Any) -> Float[Tensor, "n 3 h w"]:
    """All images of a nerfstudio data set, which must have one size."""
    images = [data.get_image_float32(view)[..., :3] for view in range(len(data))]
    return torch.stack(images).permute(0, 3, 1, 2)


def training_images(manager: Any) -> Float[Tensor, "m 3 h w"]:
    """The current training images: edits, or photographs of views without an edit."""
    images01 = photographs(manager.train_dataset)
    for view, image in manager.edited.items():
        images01[view] = to_01(image)
    return images01


def disagreement(image01: Float[Tensor, "n 3 h w"], names: list[Path], data: Path) -> float:
    """Cross-view error of consecutive views, by a data set's own depth and poses.

    Args:
        image01: The views, at the data set's size.
        names: Their files; only the file names are used.
        data: Folder of the data set, from `write_dataset`.
    """
    transforms = json.loads((data / "transforms.json").read_text())
    poses = {Path(f["file_path"]).name: f["transform_matrix"] for f in transforms["frames"]}
    depth = [np.load(data / "depth" / name.with_suffix(".npy").name) for name in names]
    focal = (transforms["fl_x"], transforms["fl_y"])
    # Move the principal point, so that a pixel's centre lies on the ray of its depth.
    middle = (transforms["cx"] - _DEPTH_RAY, transforms["cy"] - _DEPTH_RAY)
    return cross_view_error(
        image01,
        torch.from_numpy(np.stack(depth)),
        torch.tensor([poses[name.name][:3] for name in names]),
        torch.tensor([[*focal, *middle]]).expand(len(names), 4),
    ).error
