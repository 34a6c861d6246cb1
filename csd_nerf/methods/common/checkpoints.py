"""Checkpoints that are whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from nerfstudio.engine.trainer import Trainer


def save_whole(trainer: Trainer, folder: Path, *, save: Callable[[], None]) -> None:
    """Save a checkpoint under a temporary name first, then move it into its folder.

    nerfstudio takes every file in the folder for a checkpoint, so that an unfinished one is
    written beside it.

    Args:
        trainer: Whose `checkpoint_dir` the saving writes to.
        folder: Where the checkpoint goes.
        save: Saves as nerfstudio does.
    """
    unfinished = trainer.base_dir / "unfinished_checkpoint"
    # What a save that was killed has left.
    shutil.rmtree(unfinished, ignore_errors=True)
    regular, trainer.checkpoint_dir = trainer.checkpoint_dir, unfinished
    try:
        save()
    finally:
        trainer.checkpoint_dir = regular
    folder.mkdir(parents=True, exist_ok=True)
    (saved,) = unfinished.glob("*.ckpt")
    saved = saved.replace(folder / saved.name)
    unfinished.rmdir()
    if trainer.config.save_only_latest_checkpoint:
        for other in folder.glob("*.ckpt"):
            if other != saved:
                other.unlink()
