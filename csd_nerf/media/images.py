"""Reads and writes picture files.

Every picture is converted to upright sRGB with 8 bits per channel, by its embedded colour profile
if it has one; notices tell the user what was converted.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from csd_nerf.media.colour_profiles import to_srgb
from csd_nerf.media.files import written_whole
from csd_nerf.media.metadata import PictureMetadata, metadata_of
from csd_nerf.media.pixels import strips
from csd_nerf.media.rasters import Raster

MAX_PIXELS = 2**30
"""Largest number of pixels of a picture that is read, such as 32768 x 32768."""

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
PICTURE_SUFFIXES = tuple(_FORMATS)
"""Suffixes of the pictures that can be written."""
READ_FORMATS = (
    *("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "DDS"),
    *("PSD", "SGI", "PCX", "QOI"),
)
"""Pillow's names of the formats that are read. Others are programs (PostScript), not pixels."""

_ORIENTATION = 0x0112
"""The EXIF tag."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What EXIF orientations ask for. Pillow's own `exif_transpose` fails if other tags are damaged."""
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
    with _no_pixel_limit(), _open(path) as image:
        whole, notices = _converted(image, path, keep_alpha=keep_alpha, upright=upright)
        return Raster(whole).pixels, notices


@dataclass(frozen=True)
class Reading:
    """What `read_raster` returns."""

    raster: Raster
    """The picture, upright, in RGB."""
    metadata: PictureMetadata
    """EXIF and XMP, as they hold for `raster`."""
    notices: list[str]
    """What was converted, or left out."""


def read_raster(path: Path, *, told: Callable[[int, int], None] | None = None) -> Reading:
    """Read a picture as `read_image` does, but leave it in Pillow's memory.

    Args:
        path: The file.
        told: Called with the bytes that are read so far, and those of the file.

    Raises:
        FileNotFoundError: As `read_image` does.
        ValueError: As `read_image` does.
    """
    _check_file(path)
    with _ToldReader(path, told) as file, _no_pixel_limit(), _open(path, file) as image:
        whole, notices = _converted(image, path)
        metadata, left_out = metadata_of(image, size=(whole.height, whole.width))
        # Pillow would write some of it, such as a profile that was applied, of its own accord.
        whole.info.clear()
        return Reading(Raster(whole), metadata, [*notices, *left_out])


def _converted(
    image: Image.Image, path: Path, *, keep_alpha: bool = False, upright: bool = True
) -> tuple[Image.Image, list[str]]:
    """Load and convert a picture that Pillow has opened; arguments as for `read_image`."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"A picture may have {MAX_PIXELS} pixels, got {path} with {width} x {height}; "
            "shrink it."
        )
    notices = _load(image, path)
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 0)) if upright else None
    if turn is not None:
        notices.append("turned upright, as its EXIF orientation says")
    turned = image if turn is None else image.transpose(turn)
    return _rgb(turned, path, notices, keep_alpha=keep_alpha), notices


class _ToldReader(io.BufferedReader):
    """A file that tells how much of it is read."""

    def __init__(self, path: Path, told: Callable[[int, int], None] | None) -> None:
        super().__init__(io.FileIO(path))
        self._told, self._size = told, path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if self._told is not None:
            self._told(min(self.tell(), self._size), self._size)
        return super().read(size)


class _ToldWriter(io.BufferedWriter):
    """A file that tells how much of it is written."""

    def __init__(self, path: Path, told: Callable[[int, int], None]) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._told = told

    def fileno(self) -> int:
        # Pillow would write everything to it in one go.
        raise io.UnsupportedOperation

    def write(self, data: Any, /) -> int:
        self._told(self.tell(), 0)
        return super().write(data)


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
            turn = _TURNS.get(deep.getexif().get(_ORIENTATION)) if upright else None
            whole = np.asarray(deep if turn is None else deep.transpose(turn))
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
        with _no_pixel_limit(), _open(path) as image:
            # Pillow itself turns a TIFF.
            turned = upright and image.format != "TIFF"
            lying = turned and image.getexif().get(_ORIENTATION) in _LYING
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


def write_image(
    path: Path,
    image: UInt8[Tensor, "H W 3"] | Raster,
    *,
    compress_level: int = 4,
    metadata: PictureMetadata | None = None,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    told: Callable[[int, int], None] | None = None,
) -> None:
    """Write a picture atomically, in the format of the path's suffix.

    Args:
        path: File to write.
        image: The picture.
        compress_level: Level of a PNG's lossless compression, 0 to 9.
        metadata: EXIF and XMP to write with it, of a picture of this size.
        note: Called with a notice for the user if the format can't hold the metadata.
        told: Called with the bytes that are written so far, and 0: their total isn't known.

    Raises:
        ValueError: As `check_picture_path` does.
    """
    raster = image if isinstance(image, Raster) else Raster.of(image)
    check_picture_path(path, size=raster.size)
    kind = _FORMATS[path.suffix.lower()]
    options = {"compress_level": compress_level} if kind == "PNG" else {"quality": 95}
    options |= (metadata or PictureMetadata()).options(kind, note)
    with written_whole(path) as temporary:
        if told is None:
            raster.image.save(temporary, format=kind, **options)
            return
        with _ToldWriter(temporary, told) as file:
            raster.image.save(file, format=kind, **options)


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


def _check_file(path: Path) -> None:
    # A pipe would be waited for.
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        if path.exists() and not path.is_dir():
            what = "is a pipe or a device"
        raise FileNotFoundError(f"The input must be a picture file, got {path}, which {what}.")


def _open(path: Path, file: io.BufferedReader | None = None) -> Image.Image:
    _check_file(path)
    try:
        return Image.open(file or path, formats=READ_FORMATS)
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
    """Convert to sRGB, or RGBA, and add to the notices what was converted or lost."""
    profile = image.info.get("icc_profile")
    if image.mode == "F" or image.mode.startswith("I"):
        image = _from_16_bits(image, path, notices)
    elif name := _NAMES.get(image.mode):
        notices.append(f"{name} converted to RGB")
    if profile:
        image, told = to_srgb(image, profile)
        notices.extend(told)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    if keep_alpha:
        return rgba
    if rgba.getchannel("A").getextrema() != (255, 255):
        notices.append("transparent parts put over white")
    return _over_white(rgba)


def _over_white(rgba: Image.Image) -> Image.Image:
    """Composite a picture over white, some rows at a time: a large one would need much memory."""
    result = Image.new("RGB", rgba.size)
    for top, bottom in strips(rgba.height, rgba.width):
        part = rgba.crop((0, top, rgba.width, bottom))
        white = Image.new("RGBA", part.size, "white")
        result.paste(Image.alpha_composite(white, part).convert("RGB"), (0, top))
    return result


def _from_16_bits(image: Image.Image, path: Path, notices: list[str]) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion would clip it to white."""
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
        raise ValueError(
            f"A picture may have 8 or 16 bits a channel, got {path} with 32; save it with 16."
        )
    notices.extend(text for text in (_DEEP, "grey converted to RGB") if text not in notices)
    scaled = (grey.astype(np.uint32) + 128) // 257
    return Image.fromarray(scaled.astype(np.uint8))
