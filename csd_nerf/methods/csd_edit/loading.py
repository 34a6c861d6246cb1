"""Reads the settings of a loaded run, of nerfacto or csd-edit, and adopts them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.nerfacto import NerfactoModelConfig

from csd_nerf.media import run_config
from csd_nerf.methods.common.errors import MethodError

_KEPT_FIELDS = ("_target", "prompt", "eval_num_rays_per_chunk")
"""Settings of the model that are not adopted from a loaded run."""


def read_run_config(checkpoint: Path) -> TrainerConfig | None:
    """Read the config.yml of the run that a checkpoint belongs to; None if it has none.

    Raises:
        MethodError: If the file can't be read, or is of another method.
    """
    path = checkpoint.parent.parent / "config.yml"
    if not path.is_file():
        return None
    try:
        config = run_config.read_run_config(path)
    except ValueError as error:
        raise MethodError(str(error)) from None
    if not isinstance(config, TrainerConfig):
        raise MethodError(f"{path} is not the config of a nerfstudio run.")
    if not isinstance(config.pipeline.model, NerfactoModelConfig):
        raise MethodError(
            f"csd-edit goes on from runs of nerfacto or its own, got one of {config.method_name}."
        )
    return config


def adopt_settings(config: TrainerConfig, run: TrainerConfig) -> None:
    """Adopt the settings with which a scene was trained: those of model and dataparser.

    The data set is adopted too, unless the user names one.

    Args:
        config: The config of this run, changed in place.
        run: The config of the loaded run.
    """
    for spec in dataclasses.fields(NerfactoModelConfig):
        if spec.name not in _KEPT_FIELDS:
            setattr(config.pipeline.model, spec.name, getattr(run.pipeline.model, spec.name))
    ours: Any = config.pipeline.datamanager
    theirs: Any = run.pipeline.datamanager
    ours.dataparser = theirs.dataparser
    if ours.data is None:
        ours.data = theirs.data
    if isinstance(theirs, type(ours)):
        # Edited images in the checkpoint have the image size of that run.
        ours.camera_res_scale_factor = theirs.camera_res_scale_factor
        ours.max_image_size = theirs.max_image_size
