"""Reads and writes picture files.

Every picture is converted to upright RGB with 8 bits per channel; notices tell the user what was
converted. Embedded colour profiles are not applied.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from csd_nerf.media.files import written_whole

MAX_PIXELS = 2**30
"""Largest number of pixels of a picture that is read, such as 32768 x 32768."""

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
PICTURE_SUFFIXES = tuple(_FORMATS)
"""Suffixes of the pictures that can be written."""

_ORIENTATION = 0x0112
"""The EXIF tag."""
_LYING = range(5, 9)
"""EXIF orientations that swap width and height."""
_DEEP = "16 bits a channel brought to 8"
_LONGEST_EDGE = {"JPEG": 65500, "WEBP": 16383}
_NAMES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey",
    "P": "palette",
    "PA": "palette",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "LAB",
    "HSV": "HSV",
}


def read_image(
    path: Path, *, keep_alpha: bool = False, upright: bool = True
) -> tuple[UInt8[Tensor, "H W c"], list[str]]:
    """Read a picture with 8 bits per channel; returns it with notices of what was converted.

    Args:
        path: The file.
        keep_alpha: Return RGBA if the picture has transparency. Otherwise transparent pictures are
            composited over white, so that all pictures are RGB.
        upright: Turn the picture as its EXIF orientation says.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is not a picture, is damaged, or has more than `MAX_PIXELS`.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"The input must be a picture file, got {path}, which {what}.")
    with _no_pixel_limit(), _open(path) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"A picture may have {MAX_PIXELS} pixels, got {path} with {width} x {height}; "
                "shrink it."
            )
        notices = _load(image, path)
        if upright and image.getexif().get(_ORIENTATION, 1) != 1:
            notices.append("turned upright, as its EXIF orientation says")
            ImageOps.exif_transpose(image, in_place=True)
        whole = _rgb(image, path, notices, keep_alpha=keep_alpha)
        return torch.from_numpy(np.array(whole)), notices


def read_mask(path: Path, *, upright: bool = True) -> Bool[Tensor, "H W"]:
    """Read a mask: True where a picture is neither black nor fully transparent.

    Args:
        path: The file, grey, palette or colour.
        upright: As for `read_image`.

    Raises:
        FileNotFoundError: As `read_image` does.
        ValueError: As `read_image` does.
    """
    image, notices = read_image(path, keep_alpha=True, upright=upright)
    if _DEEP in notices:
        # A grey mask of 0 and 1 would be black after its scaling to 8 bits.
        with _no_pixel_limit(), _open(path) as deep:
            whole = np.asarray(ImageOps.exif_transpose(deep) if upright else deep)
        if whole.ndim == 2:
            return torch.from_numpy(whole > 0)
    white = image[..., :3].amax(2) > 0
    return white & (image[..., 3] > 0) if image.shape[2] == 4 else white


def image_size(path: Path, *, upright: bool = True) -> tuple[int, int]:
    """Height and width of the picture that `read_image` would return, from the file's header.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is not a picture.
    """
    try:
        with _no_pixel_limit(), Image.open(path) as image:
            lying = upright and image.getexif().get(_ORIENTATION) in _LYING
            return image.size if lying else (image.height, image.width)
    except OSError:
        # read_image raises a better message.
        image = read_image(path, upright=upright)[0]
        return (image.shape[0], image.shape[1])


def check_picture_path(path: Path, *, size: tuple[int, int] | None = None) -> None:
    """Check that a picture of this height and width can be written to this path.

    Raises:
        ValueError: If the suffix is not in `PICTURE_SUFFIXES`, or the format can't hold the size.
    """
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"The output's suffix must be one of {', '.join(_FORMATS)}, got {path}; name "
            "another --output."
        )
    if size is not None and max(size) > (longest := _LONGEST_EDGE.get(kind, max(size))):
        raise ValueError(
            f"A {kind} picture may be {longest} pixels long, the result would be {size[1]} x "
            f"{size[0]}; let --output end in .png."
        )


def write_image(path: Path, image: UInt8[Tensor, "H W 3"], *, compress_level: int = 4) -> None:
    """Write a picture atomically, in the format of the path's suffix.

    Args:
        path: File to write.
        image: The picture.
        compress_level: Level of a PNG's lossless compression, 0 to 9.

    Raises:
        ValueError: As `check_picture_path` does.
    """
    check_picture_path(path, size=(image.shape[0], image.shape[1]))
    kind = _FORMATS[path.suffix.lower()]
    options = {"compress_level": compress_level} if kind == "PNG" else {"quality": 95}
    with written_whole(path) as temporary:
        Image.fromarray(image.cpu().numpy()).save(temporary, format=kind, **options)


class _PixelLimit:
    """State of `_no_pixel_limit`: how many threads read, and Pillow's own limit."""

    lock = threading.Lock()
    readers = 0
    before: int | None = None


@contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Lift Pillow's limit of pixels, a protection of servers; ours is `MAX_PIXELS`."""
    with _PixelLimit.lock:
        if _PixelLimit.readers == 0:
            _PixelLimit.before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _PixelLimit.readers += 1
    try:
        yield
    finally:
        with _PixelLimit.lock:
            _PixelLimit.readers -= 1
            if _PixelLimit.readers == 0:
                Image.MAX_IMAGE_PIXELS = _PixelLimit.before


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        raise ValueError(
            f"The input must be a picture that Pillow can read, such as PNG, JPEG or WebP, "
            f"got {path}; convert it."
        ) from None
    except Exception as error:
        _raise_broken(path, error)


def _load(image: Image.Image, path: Path) -> list[str]:
    """Load the pixels; returns the notices that need the opened file."""
    try:
        notices = [*_notices_of_file(image)]
        image.load()
        return notices
    # On damaged files decoders raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        _raise_broken(path, error)


def _raise_broken(path: Path, error: Exception) -> NoReturn:
    """Raise a one-line ValueError, unless the file is not at fault."""
    if isinstance(error, (MemoryError, PermissionError)):
        raise error
    raise ValueError(
        f"The picture must be whole, got {path}, which breaks off or is damaged ({error}); "
        "fetch or save it again."
    ) from None


def _notices_of_file(image: Image.Image) -> Iterator[str]:
    # Phones append further pictures to a JPEG (MPO), which are ignored without a notice.
    if image.format != "MPO" and (count := getattr(image, "n_frames", 1)) > 1:
        yield f"only the first of its {count} frames is used"
    if any(";16" in str(part[3]) for part in getattr(image, "tile", [])):
        yield _DEEP


def _rgb(image: Image.Image, path: Path, notices: list[str], *, keep_alpha: bool) -> Image.Image:
    """Convert to RGB, or RGBA, and add to the notices what was lost."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_16_bits(image, path, notices)
    if name := _NAMES.get(image.mode):
        notices.append(f"{name} converted to RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    if keep_alpha:
        return rgba
    if rgba.getchannel("A").getextrema() != (255, 255):
        notices.append("transparent parts put over white")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _from_16_bits(image: Image.Image, path: Path, notices: list[str]) -> Image.Image:
    """Convert 16-bit grey; Pillow's own conversion would clip it to white instead of scaling."""
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
        raise ValueError(
            f"A picture may have 8 or 16 bits a channel, got {path} with 32; save it with 16."
        )
    notices.extend(text for text in (_DEEP, "grey converted to RGB") if text not in notices)
    scaled = (grey.astype(np.uint32) + 128) // 257
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
