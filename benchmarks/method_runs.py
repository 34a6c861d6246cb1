"""Runs of the scene method inside this process, through its nerfstudio config."""

from __future__ import annotations

import copy
import dataclasses
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.settings import EditSettings
from csd_nerf.media.pixels import to_01

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import Trainer, TrainerConfig


def tiny_config(data: Path, runs: Path, *, prompt: str) -> TrainerConfig:
    """csd-edit-tiny on a data set, without what a benchmark doesn't look at.

    Args:
        data: The data set.
        runs: nerfstudio's folder of runs.
        prompt: The instruction.
    """
    from nerfstudio.configs.method_configs import all_methods

    config: Any = copy.deepcopy(all_methods["csd-edit-tiny"])
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.experiment_name, config.timestamp = runs, "scene", "run"
    config.pipeline.prompt = prompt
    never = 10**9
    config.steps_per_save = config.steps_per_eval_batch = config.steps_per_eval_image = never
    # Half the preset's rays: the edits, not the training, are to take the time.
    config.pipeline.datamanager.edit_num_rays_per_batch = 256
    config.logging.profiler = "none"
    config.logging.local_writer.enable = False
    return config


def set_options(config: TrainerConfig, options: Mapping[str, Any]) -> None:
    """Set options wherever they belong.

    Args:
        config: The scene method's, changed in place.
        options: Fields of `EditSettings`, whose others get their defaults, of the pipeline's
            config or of the datamanager's.

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
                f"datamanager's in csd-edit-tiny, got {key!r}."
            )
    pipeline.edit = EditSettings(**edit)


@contextmanager
def run(config: TrainerConfig, log: Path) -> Iterator[Trainer]:
    """A trainer that is set up, and leaves no trace in this process.

    nerfstudio's writers and profilers are global and pile up; its random numbers are the
    process's. What it prints goes into the log.

    Args:
        config: The run's; its seed is that of everything random but the rounds.
        log: A file, which is replaced.
    """
    from nerfstudio.utils import profiler, writer

    log.parent.mkdir(parents=True, exist_ok=True)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(config.machine.seed)
    np.random.seed(config.machine.seed)
    torch.manual_seed(config.machine.seed)
    try:
        with (
            log.open("w") as file,
            redirect_stdout(file),
            redirect_stderr(file),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            trainer: Any = config.setup(local_rank=0, world_size=1)
            trainer.setup()
            yield trainer
    finally:
        for one in writer.EVENT_WRITERS:
            if isinstance(one, writer.TensorboardWriter):
                one.tb_writer.close()
        writer.EVENT_WRITERS.clear()
        writer.EVENT_STORAGE.clear()
        writer.GLOBAL_BUFFER.clear()
        profiler.PROFILER.clear()
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@torch.no_grad()
def held_out_renders(pipeline: Any) -> tuple[Float[Tensor, "n 3 h w"], list[Path]]:
    """Renders of the held-out views as the scene is now, and the files of their photographs."""
    data = pipeline.datamanager.eval_dataset
    pipeline.eval()
    renders = [
        pipeline.model.get_outputs_for_camera(data.cameras[view : view + 1])["rgb"]
        for view in range(len(data))
    ]
    names = [Path(path) for path in data.image_filenames]
    return torch.stack(renders).permute(0, 3, 1, 2).float().clamp(0, 1), names


def photographs(data: Any) -> Float[Tensor, "n 3 h w"]:
    """All images of a nerfstudio data set of one size."""
    images = [data.get_image_float32(view)[..., :3] for view in range(len(data))]
    return torch.stack(images).permute(0, 3, 1, 2)


def training_images(manager: Any) -> Float[Tensor, "m 3 h w"]:
    """Edits, and photographs of views whose turn has not come."""
    images01 = photographs(manager.train_dataset)
    for view, image in manager.edited.items():
        images01[view] = to_01(image)
    return images01
