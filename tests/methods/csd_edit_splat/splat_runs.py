"""csd-edit-splat-tiny, smaller still, on a small scene that is known exactly."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csd_nerf.core.settings import EditSettings
from csd_nerf.methods.csd_edit_splat.config import csd_edit_splat_tiny
from csd_nerf.methods.csd_edit_splat.trainer import (
    CSDEditSplatTrainer,
    CSDEditSplatTrainerConfig,
)

VIEWS = 12
SIZE = 40


def splat_config(data: Path, output: Path) -> CSDEditSplatTrainerConfig:
    """Runs of seconds: densification in both stages' reach, rounds of four views."""
    config = copy.deepcopy(csd_edit_splat_tiny.config)
    assert isinstance(config, CSDEditSplatTrainerConfig)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.timestamp = output, "run"
    config.steps_per_save = config.steps_per_eval_image = 10**9
    config.logging.profiler = "none"
    pipeline = config.pipeline
    pipeline.prompt = "swap red and blue"
    # nerfstudio refines after as many steps as there are views, and as `refine_every` says.
    pipeline.source_steps, pipeline.edit_steps, pipeline.edit_every = 22, 8, 3
    pipeline.edit_views = 4
    pipeline.edit = EditSettings(iterations=2, text_scale=1.0)
    model = pipeline.model
    model.warmup_length, model.refine_every, model.stop_split_at = 2, 4, 100
    model.densify_grad_thresh = 1e-4
    return config


def start_splats(config: Any, *, seed: int = 0) -> CSDEditSplatTrainer:
    """What ns-train does with a config, up to the first training step."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def gaussians_of(trainer: CSDEditSplatTrainer) -> dict[str, torch.Tensor]:
    """Copies of the Gaussians' parameters."""
    params = trainer.pipeline.model.gauss_params
    return {name: value.detach().clone() for name, value in params.items()}
