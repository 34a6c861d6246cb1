"""Pictures that trials keep, as PNG files in folders."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.media.frames import frame_writer, open_frames
from csd_nerf.media.pixels import to_01, to_bytes


def save_pictures(folder: Path, image01: Float[Tensor, "n 3 h w"]) -> None:
    """Write pictures of 8 bits, numbered, in place of those of an earlier call."""
    frames = to_bytes(image01)
    with frame_writer(folder, size=(frames.shape[1], frames.shape[2])) as write:
        for frame in frames:
            write(frame)


def read_pictures(folder: Path) -> Float[Tensor, "n 3 h w"]:
    """All pictures of a folder, in their order.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no pictures, or pictures of several sizes.
    """
    return to_01(torch.stack(list(open_frames(folder))))
