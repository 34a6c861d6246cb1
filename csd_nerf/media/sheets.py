"""Labelled contact sheets and videos of images in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from csd_nerf.media.files import written_whole
from csd_nerf.media.frames import frame_writer
from csd_nerf.media.images import write_image
from csd_nerf.media.pixels import resize01, to_bytes

LABEL_HEIGHT = 18
"""Height in pixels of the label above a picture."""
_LINES = ((1.0, 1.0, 0.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Colours of outlines."""


def enlarge(image01: Float[Tensor, "n 3 h w"], *, edge: int = 256) -> Float[Tensor, "n 3 H W"]:
    """Enlarge by repeating pixels, so that the longer edge is about `edge` pixels."""
    factor = max(1, round(edge / max(image01.shape[2:])))
    return image01.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def enlarge_smoothly(
    image01: Float[Tensor, "n 3 h w"], *, edge: int = 256
) -> Float[Tensor, "n 3 H W"]:
    """The size of `enlarge`, without visible pixels: for films, which nobody measures."""
    factor = max(1, round(edge / max(image01.shape[2:])))
    size = (factor * image01.shape[2], factor * image01.shape[3])
    return resize01(image01, size).clamp(0, 1)


def outlined(
    image01: Float[Tensor, "3 h w"], inside: Bool[Tensor, "h w"]
) -> Float[Tensor, "3 h w"]:
    """Draw a thin line along the border of a part of a picture, just outside of it.

    Of a few strong colours it has the one that differs most from the picture on both sides.
    """
    from scipy import ndimage

    part = inside.cpu().numpy()
    border = np.asarray(ndimage.binary_dilation(part)) & np.logical_not(part)
    if not border.any():
        return image01
    line, rim = (
        torch.from_numpy(place).to(image01.device)
        for place in (border, part & np.logical_not(ndimage.binary_erosion(part)))
    )
    beside = [image01[:, place].mean(1) for place in (line, rim)]

    def contrast(colour: tuple[float, float, float]) -> float:
        return min(float((image01.new_tensor(colour) - one).norm()) for one in beside)

    colour = image01.new_tensor(max(_LINES, key=contrast))
    return torch.where(line, colour[:, None, None], image01)


def label_columns(pictures: Mapping[str, Float[Tensor, "n 3 h w"]]) -> Float[Tensor, "n 3 H W"]:
    """Put pictures of one size side by side, each labelled with its name."""
    return torch.cat([_labelled(name, images) for name, images in pictures.items()], dim=3)


def _labelled(name: str, image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 H w"]:
    strip = Image.new("L", (image01.shape[3], LABEL_HEIGHT), 255)
    ImageDraw.Draw(strip).text((4, 3), name, fill=0)
    label = torch.from_numpy(np.array(strip)).float() / 255
    label = label.expand(len(image01), 3, -1, -1)
    return torch.cat([label, image01.cpu()], dim=2)


def contact_sheet(pictures: Mapping[str, Float[Tensor, "n 3 h w"]]) -> UInt8[Tensor, "H W 3"]:
    """A grid of pictures: one row per image, one labelled column per name."""
    rows = label_columns(pictures)
    return to_bytes(torch.cat([rows[0], *(row[:, LABEL_HEIGHT:] for row in rows[1:])], dim=1))


def save_contact_sheet(path: Path, pictures: Mapping[str, Float[Tensor, "n 3 h w"]]) -> None:
    """Write the `contact_sheet` of pictures to a file."""
    write_image(path, contact_sheet(pictures))


def save_rows(path: Path, pictures: Mapping[str, Float[Tensor, "n 3 h w"]]) -> None:
    """Write a grid with one row per name, labelled on the left, and one column per image."""
    width = max(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(name) for name in pictures)
    rows = [_named_row(name, math.ceil(width) + 8, images) for name, images in pictures.items()]
    write_image(path, to_bytes(torch.cat(rows, dim=1)))


def _named_row(name: str, width: int, image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "3 h W"]:
    label = Image.new("L", (width, image01.shape[2]), 255)
    ImageDraw.Draw(label).text((4, image01.shape[2] // 2 - 6), name, fill=0)
    beside = (torch.from_numpy(np.array(label)).float() / 255).expand(3, -1, -1)
    return torch.cat([beside, *image01.cpu()], dim=2)


def save_video(path: Path, frames01: Float[Tensor, "n 3 h w"], *, fps: int = 24) -> None:
    """Write a film; the last row or column of an odd size is left out, for players' sake."""
    height, width = (edge // 2 * 2 for edge in frames01.shape[2:])
    with frame_writer(path, size=(height, width), fps=Fraction(fps)) as write:
        for frame01 in frames01:
            write(to_bytes(frame01[:, :height, :width]))


def save_loop(path: Path, frames01: Float[Tensor, "n 3 h w"], *, fps: int = 24) -> None:
    """Write a picture that moves, over and over: a .webp, which pages show where no film plays."""
    first, *others = (Image.fromarray(frame.numpy()) for frame in to_bytes(frames01.cpu()))
    with written_whole(path) as temporary:
        first.save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=others,
            duration=round(1000 / fps),
            loop=0,
            quality=75,
        )
