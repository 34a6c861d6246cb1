"""Checkpoints: finding, reading and strict loading, and atomic saving."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.engine.trainer import Trainer
from nerfstudio.models.base_model import Model
from torch import Tensor

from csd_nerf.methods.common.errors import MethodError

_STEP = re.compile(r"step-(\d+)\.ckpt")
_WRITER = re.compile("PyTorchStreamWriter|inline_container|write failed|open file", re.IGNORECASE)
OUR_STATE = "_extra_state"
"""Key of a module's extra state; checkpoints of nerfstudio's own methods have none."""
SOURCE_FOLDER = "source_models"
"""Folder of a run with the checkpoint of its unedited scene."""


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
    """Find the checkpoint that nerfstudio's load options name; None if no option is set.

    Raises:
        MethodError: If there is no such checkpoint.
    """
    if load_dir is None:
        if load_checkpoint is not None and not load_checkpoint.is_file():
            raise MethodError(f"--load-checkpoint needs a file, got {load_checkpoint}.")
        return load_checkpoint
    names = {path: _STEP.fullmatch(path.name) for path in load_dir.glob("step-*.ckpt")}
    steps = {int(name[1]): path for path, name in names.items() if name}
    if not steps:
        raise MethodError(
            f"--load-dir needs a folder with step-*.ckpt in it, got {load_dir}; of a nerfstudio "
            "run it is RUN/nerfstudio_models."
        )
    if load_step is not None and load_step not in steps:
        raise MethodError(
            f"{load_dir} has no checkpoint of step {load_step}, only of "
            f"{', '.join(map(str, sorted(steps)))}; choose one of these with --load-step."
        )
    return steps[max(steps) if load_step is None else load_step]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; `weights_only`, so that no code in it runs.

    Raises:
        MethodError: If the file can't be read or is no checkpoint of nerfstudio.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    # The exception of torch for a damaged file depends on where the damage is.
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MethodError(f"{path} can't be read as a checkpoint: {reason}") from None
    if not isinstance(loaded, dict) or not {"step", "pipeline"} <= loaded.keys():
        raise MethodError(f"{path} is not a checkpoint of nerfstudio's: it holds no pipeline.")
    return loaded


@contextmanager
def telling_of_faults(path: Path) -> Iterator[None]:
    """Turn the exceptions of a checkpoint that lacks a part, or has one of another kind.

    Raises:
        MethodError: In place of these.
    """
    try:
        yield
    except MethodError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MethodError(
            f"{path} must be a whole checkpoint that fits the options, got {reason} "
            f"({type(error).__name__}) while it was restored; load an earlier one with "
            "--load-step, or leave out the options that differ from those of its run."
        ) from None


def load_optimizers(
    trainer: Trainer, loaded: Mapping[str, Any], *, only_schedulers: bool = False
) -> None:
    """Restore optimizers, schedulers and scaler of a checkpoint.

    Args:
        trainer: The trainer, with its optimizers set up. Groups that it lacks are left out.
        loaded: The checkpoint.
        only_schedulers: Leave the optimizers as they are.
    """
    ours = trainer.optimizers.optimizers

    def known(states: Mapping[str, Any]) -> dict[str, Any]:
        return {name: state for name, state in states.items() if name in ours}

    if not only_schedulers:
        trainer.optimizers.load_optimizers(known(loaded["optimizers"]))
    if trainer.config.load_scheduler:
        trainer.optimizers.load_schedulers(known(loaded["schedulers"]))
    # A checkpoint written without a GPU has no state of a scaler; an enabled one would refuse it.
    if loaded["scalers"]:
        trainer.grad_scaler.load_state_dict(loaded["scalers"])


def load_strictly(
    model: Model, state: Mapping[str, Any], *, remedy: str, ignored: str | None = None
) -> None:
    """Load a model from a pipeline's state; nerfstudio itself would ignore misfits.

    Args:
        model: The model to load into.
        state: State dict of a pipeline.
        remedy: What the user can do if the state doesn't fit, for the message.
        ignored: Prefix of parameters that are not loaded; None means that all are.

    Raises:
        MethodError: If a parameter is missing, unknown or of another shape.
    """
    given: dict[str, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        name = key.removeprefix("_model.").removeprefix("module.")
        if key.startswith("_model.") and not (ignored and name.startswith(ignored)):
            given[name] = value
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
        raise MethodError(f"The checkpoint does not fit the model: {faults[0]}{more}; {remedy}.")
    model.load_state_dict(given, strict=True)


def save_whole(trainer: Trainer, folder: Path, *, save: Callable[[], None]) -> None:
    """Save a checkpoint atomically: write it beside its folder, then move it there.

    nerfstudio takes every file in the folder for a checkpoint, so an unfinished one must not be
    there.

    Args:
        trainer: The trainer; `checkpoint_dir` is changed while `save` runs.
        folder: Final folder of the checkpoint.
        save: Calls nerfstudio's own `save_checkpoint` for this step.

    Raises:
        MethodError: If it can't be written. Nothing of it is left, and earlier ones are whole.
    """
    unfinished = trainer.base_dir / "unfinished_checkpoint"
    # A save that was killed may have left it.
    shutil.rmtree(unfinished, ignore_errors=True)
    regular, trainer.checkpoint_dir = trainer.checkpoint_dir, unfinished
    try:
        save()
        (saved,) = unfinished.glob("*.ckpt")
        with saved.open("rb+") as file:
            os.fsync(file.fileno())
        folder.mkdir(parents=True, exist_ok=True)
        saved = saved.replace(folder / saved.name)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its writer.
        if isinstance(error, RuntimeError) and not _WRITER.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0]
        raise MethodError(
            f"The checkpoint must be saved, got {reason} for {folder}; make room, and go on from "
            "the last checkpoint, which is whole."
        ) from None
    finally:
        trainer.checkpoint_dir = regular
        shutil.rmtree(unfinished, ignore_errors=True)
    if trainer.config.save_only_latest_checkpoint:
        for other in folder.glob("*.ckpt"):
            if other != saved:
                other.unlink()
