"""The tiny preset made tinier, for tests."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from csd_nerf.methods.csd_dreamfusion.config import csd_dreamfusion_tiny
from csd_nerf.methods.csd_dreamfusion.trainer import CSDDreamFusionTrainerConfig


def tiny_config(folder: Path, *, steps: int, **options: Any) -> CSDDreamFusionTrainerConfig:
    """The tiny preset made tinier; options are those of the pipeline."""
    config = copy.deepcopy(csd_dreamfusion_tiny.config)
    assert isinstance(config, CSDDreamFusionTrainerConfig)
    config.output_dir, config.timestamp = folder, "run"
    config.max_num_iterations, config.steps_per_save = steps, 1000
    config.preview_size, config.result_size = 16, 16
    pipeline = config.pipeline
    pipeline.datamanager.train_resolution = 12
    pipeline.datamanager.eval_resolution = 16
    pipeline.datamanager.num_eval_angles = 8
    pipeline.model.num_samples = 12
    pipeline.prompt = "a bright thing"
    pipeline.distill = replace(pipeline.distill, text_scale=1.0, t_range=(0.3, 0.7))
    for name, value in options.items():
        setattr(pipeline, name, value)
    return config
