"""Converts the colours of pictures to sRGB by their embedded ICC profiles."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's modes by the colour spaces of profiles."""
_FITTING = {
    "RGB": {"RGB", "RGBA", "RGBX", "P", "PA", "L", "LA", "1", "YCbCr"},
    "GRAY": {"L", "LA", "1"},
    "CMYK": {"CMYK"},
}
"""Modes of the pictures that can have a profile of each colour space."""
_NOT_APPLIED = "its colour profile is damaged or of other colours, and not applied"
_ROUNDING = 1


def to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, list[str]]:
    """Convert to sRGB by a profile's perceptual intent; returns RGB or RGBA, and notices.

    A picture whose profile is sRGB within rounding, in whatever version, comes back unchanged, in
    its own mode, and so does one whose profile can't be applied, which is told.

    Args:
        image: A picture of 8 bits a channel; one in RGB may be changed in place.
        profile: The bytes of its ICC profile.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Pillow's annotation is that of its argument.
        known: Any = source.profile
        space = known.xcolor_space.strip()
        if image.mode not in _FITTING.get(space, ()):
            return image, [_NOT_APPLIED]
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        convert = ImageCms.buildTransform(source, target, _MODES[space], "RGB")
        if space != "CMYK" and _changes_nothing(convert, _MODES[space]):
            return image, []
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        given = image if image.mode == _MODES[space] else image.convert(_MODES[space])
        # In place, where that can be: large pictures need much memory.
        in_place = given.mode == "RGB"
        converted = ImageCms.applyTransform(given, convert, inPlace=in_place) or given
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image, [_NOT_APPLIED]
    if alpha is not None:
        converted.putalpha(alpha)
    name = " ".join((known.profile_description or "its colour profile").split())
    return converted, [f"colours converted from {name} to sRGB"]


def _changes_nothing(convert: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a conversion leaves greys and a lattice of colours as they are."""
    levels = np.arange(256, dtype=np.uint8)
    if mode == "L":
        probe = levels[None]
    else:
        lattice = np.stack(np.meshgrid(*[levels[::17]] * 3, indexing="ij"), -1).reshape(-1, 3)
        probe = np.concatenate([lattice, levels[:, None].repeat(3, 1)])[None]
    before = Image.fromarray(np.ascontiguousarray(probe))
    after = ImageCms.applyTransform(before, convert)
    difference = np.asarray(after, np.int16) - np.asarray(before.convert("RGB"), np.int16)
    return int(np.abs(difference).max()) <= _ROUNDING
