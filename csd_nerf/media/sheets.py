"""Labelled contact sheets and videos, beside which the numbers are read."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

LABEL_HEIGHT = 18
"""Pixels above a picture for its label."""


def to_uint8(image01: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n h w 3"]:
    """Images as 8-bit, channels last."""
    return (255 * image01.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).cpu()


def enlarge(image01: Float[Tensor, "n 3 h w"], *, edge: int = 256) -> Float[Tensor, "n 3 H W"]:
    """Repeat pixels a whole number of times, so that the longer edge comes near `edge`."""
    factor = max(1, round(edge / max(image01.shape[2:])))
    return image01.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def label_columns(pictures: Mapping[str, Float[Tensor, "n 3 h w"]]) -> Float[Tensor, "n 3 H W"]:
    """Set pictures of one size side by side, each under its name."""
    return torch.cat([_labelled(name, images) for name, images in pictures.items()], dim=3)


def _labelled(name: str, image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 H w"]:
    strip = Image.new("L", (image01.shape[3], LABEL_HEIGHT), 255)
    ImageDraw.Draw(strip).text((4, 3), name, fill=0)
    label = torch.from_numpy(np.array(strip)).float() / 255
    label = label.expand(len(image01), 3, -1, -1)
    return torch.cat([label, image01.cpu()], dim=2)


def save_contact_sheet(path: Path, pictures: Mapping[str, Float[Tensor, "n 3 h w"]]) -> None:
    """A row for each of n images, a column for each name; written as PNG."""
    rows = label_columns(pictures)
    sheet = torch.cat([rows[0], *(row[:, LABEL_HEIGHT:] for row in rows[1:])], dim=1)
    partial = path.with_suffix(".part.png")
    Image.fromarray(to_uint8(sheet[None])[0].numpy()).save(partial)
    partial.replace(path)


def save_video(path: Path, frames01: Float[Tensor, "n 3 h w"], *, fps: int = 24) -> None:
    """Write an H.264 mp4 by PyAV; odd sizes lose their last row or column."""
    import av

    frames = to_uint8(frames01)[:, : frames01.shape[2] // 2 * 2, : frames01.shape[3] // 2 * 2]
    partial = path.with_suffix(".part.mp4")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)
