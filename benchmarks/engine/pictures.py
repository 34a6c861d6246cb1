"""Saves and reads the pictures of trials, as PNG files in folders."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from csd_nerf.media.frames import frame_writer, open_frames

Frames = UInt8[Tensor, "n h w 3"]


def save_frames(folder: Path, frames: Frames) -> None:
    """Write numbered pictures to a folder, in place of those of an earlier call."""
    with frame_writer(folder, size=(frames.shape[1], frames.shape[2])) as write:
        for frame in frames:
            write(frame)


def kept_frames(folder: Path) -> Frames:
    """Read all pictures of a folder, in natural order.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no pictures, or pictures of different sizes.
    """
    return torch.stack([*open_frames(folder)])
