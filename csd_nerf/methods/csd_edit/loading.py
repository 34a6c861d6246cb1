"""Going on from a checkpoint, nerfacto's own or one of ours."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from torch import Tensor

from csd_nerf.methods.csd_edit.errors import EditError

OUR_STATE = "_extra_state"
"""Where torch puts a module's extra state; nerfacto's own checkpoints have none."""

_KEPT_FIELDS = ("_target", "prompt", "eval_num_rays_per_chunk")
"""Settings of the model that are not taken over from a loaded run."""


def allow_nerfstudio_checkpoints() -> None:
    """Let torch.load read nerfstudio's checkpoints, whose schedulers hold numpy scalars.

    torch 2.6 and later refuse types they don't know. numpy 1 and numpy 2 write the same function
    under different names.
    """
    scalar: Any = np.float64(0).__reduce__()[0]
    torch.serialization.add_safe_globals(
        [
            scalar,
            (scalar, "numpy.core.multiarray.scalar"),
            (scalar, "numpy._core.multiarray.scalar"),
            np.dtype,
            type(np.dtype(np.float64)),
        ]
    )


def find_checkpoint(
    *, load_dir: Path | None, load_step: int | None, load_checkpoint: Path | None
) -> Path | None:
    """Find the file that nerfstudio's load options name; None if they name none.

    Raises:
        EditError: If there is none.
    """
    if load_dir is None:
        if load_checkpoint is not None and not load_checkpoint.is_file():
            raise EditError(f"--load-checkpoint needs a file, got {load_checkpoint}.")
        return load_checkpoint
    steps = {int(path.stem.split("-")[1]): path for path in load_dir.glob("step-*.ckpt")}
    if not steps:
        raise EditError(
            f"--load-dir needs a folder with step-*.ckpt in it, got {load_dir}; of a nerfstudio "
            "run it is RUN/nerfstudio_models."
        )
    if load_step is not None and load_step not in steps:
        raise EditError(
            f"{load_dir} has no checkpoint of step {load_step}, only of "
            f"{', '.join(map(str, sorted(steps)))}; choose one of these with --load-step."
        )
    return steps[max(steps) if load_step is None else load_step]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, without running code from it.

    Raises:
        EditError: If it is not a checkpoint of nerfstudio's.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EditError(f"{path} can't be read as a checkpoint: {reason}") from None
    if not isinstance(loaded, dict) or not {"step", "pipeline"} <= loaded.keys():
        raise EditError(f"{path} is not a checkpoint of nerfstudio's: it holds no pipeline.")
    return loaded


def read_run_config(checkpoint: Path) -> TrainerConfig | None:
    """Read the config.yml of the run that a checkpoint belongs to; None if it has none.

    As in all of nerfstudio, reading a config.yml runs code that it names: read only your own.

    Raises:
        EditError: If it can't be read.
    """
    import yaml

    path = checkpoint.parent.parent / "config.yml"
    if not path.is_file():
        return None
    try:
        config = yaml.load(path.read_text("utf8"), Loader=yaml.Loader)
    except (yaml.YAMLError, ImportError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EditError(f"{path} can't be read: {reason}; was it written elsewhere?") from None
    if not isinstance(config, TrainerConfig):
        raise EditError(f"{path} is not the config of a nerfstudio run.")
    if not isinstance(config.pipeline.model, NerfactoModelConfig):
        raise EditError(
            f"csd-edit goes on from runs of nerfacto or its own, got one of {config.method_name}."
        )
    return config


def adopt_settings(config: TrainerConfig, run: TrainerConfig) -> None:
    """Take over what a scene was trained with: the model's settings and the dataparser's.

    A data set that the user names stays; otherwise it is the run's too.

    Args:
        config: Our config, changed in place.
        run: The config of the run that is loaded.
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
        # Edited images in the checkpoint have the size at which that run read its photographs.
        ours.camera_res_scale_factor = theirs.camera_res_scale_factor
        ours.max_image_size = theirs.max_image_size


def load_scene(model: NerfactoModel, state: Mapping[str, Any]) -> None:
    """Load a scene strictly; nerfstudio would leave a scene of another grid random.

    Args:
        model: The model to load into.
        state: State of a pipeline; LPIPS, which nerfacto saves along, is left out.

    Raises:
        EditError: If anything is missing, left over or of another shape.
    """
    given: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        if name.startswith("_model.") and not name.startswith("_model.lpips."):
            given[name.removeprefix("_model.").removeprefix("module.")] = value
    wanted = model.state_dict()
    faults = [f"{name} is missing" for name in wanted.keys() - given.keys()]
    faults += [f"{name} is unknown" for name in given.keys() - wanted.keys()]
    faults += [
        f"{name} has shape {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted.keys() & given.keys()
        if given[name].shape != wanted[name].shape
    ]
    if faults:
        faults.sort()
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise EditError(
            f"The checkpoint does not fit the model: {faults[0]}{more}; set --pipeline.model as "
            "the scene was trained, or keep the run's config.yml beside its checkpoints."
        )
    model.load_state_dict(given, strict=True)
