"""Tags of a picture file that its edit keeps: EXIF and XMP.

They say how to show a picture, such as XMP's `GPano`, by which viewers know a 360° panorama, and
what is known of it. What no longer holds is left out: the orientation, which was applied, the
thumbnail, and the layout of a TIFF's pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

_JPEG_EXIF, _JPEG_XMP = 65533, 65504
"""The most bytes of each that a JPEG can hold."""
_SRGB = 1
"""EXIF's `ColorSpace`."""
_OF_PIXELS = (
    *("Orientation", "ProcessingSoftware", "NewSubfileType", "SubfileType", "BitsPerSample"),
    *("Compression", "PhotometricInterpretation", "FillOrder", "StripOffsets", "SamplesPerPixel"),
    *("RowsPerStrip", "StripByteCounts", "PlanarConfiguration", "TransferFunction", "Predictor"),
    *("ColorMap", "TileWidth", "TileLength", "TileOffsets", "TileByteCounts", "SubIFDs", "InkSet"),
    *("ExtraSamples", "SampleFormat", "JPEGTables", "JpegIFOffset", "JpegIFByteCount"),
    *("YCbCrCoefficients", "YCbCrSubSampling", "YCbCrPositioning", "ReferenceBlackWhite"),
    *("XMLPacket", "IPTCNAA", "ImageResources", "InterColorProfile"),
)
"""EXIF tags (and TIFF's, which share their numbers) of how the pixels or other tags are stored."""
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>\s*))[0-9]+""")


@dataclass(frozen=True)
class PictureMetadata:
    """EXIF and XMP of a picture, for an upright picture of the same size in sRGB."""

    exif: bytes = b""
    """Begins with `Exif`; empty without tags."""
    xmp: bytes = b""
    """The packet; empty without one."""

    def options(self, kind: str, note: Callable[[str], None]) -> dict[str, Any]:
        """Pillow's options to save them.

        Args:
            kind: The format: JPEG, PNG or WEBP.
            note: Called with a notice for the user if the format can't hold them.
        """
        exif, xmp = self.exif, self.xmp
        if kind == "JPEG" and len(exif) > _JPEG_EXIF:
            note("EXIF tags left out: there are more than a JPEG can hold")
            exif = b""
        if kind == "JPEG" and len(xmp) > _JPEG_XMP:
            note("XMP left out: it is longer than a JPEG can hold")
            xmp = b""
        options: dict[str, Any] = {"exif": exif} if exif else {}
        if xmp and kind == "PNG":
            # Pillow has no option for it.
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        elif xmp:
            options["xmp"] = xmp
        return options


def metadata_of(image: Image.Image, *, size: tuple[int, int]) -> tuple[PictureMetadata, list[str]]:
    """EXIF and XMP of a loaded picture, with notices of what was left out.

    Args:
        image: The picture as Pillow opened it.
        size: Height and width of the upright picture, which replace those in the tags.
    """
    xmp = image.info.get("xmp", b"")
    xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp.encode() if isinstance(xmp, str) else xmp)
    try:
        return PictureMetadata(_exif(image, size), xmp), []
    # On damaged tags Pillow raises struct.error, KeyError, SyntaxError and others.
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        return PictureMetadata(xmp=xmp), ["EXIF tags left out: they are damaged"]


def _exif(image: Image.Image, size: tuple[int, int]) -> bytes:
    exif = image.getexif()
    for name in _OF_PIXELS:
        exif.pop(ExifTags.Base[name].value, None)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    height, width = size
    for tags, (across, down) in (
        (exif, (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)),
        (details, (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)),
    ):
        for tag, length in ((across, width), (down, height)):
            if tag in tags:
                tags[tag] = length
    if image.info.get("icc_profile") and ExifTags.Base.ColorSpace in details:
        details[ExifTags.Base.ColorSpace] = _SRGB
        # It may name Adobe RGB.
        details.pop(ExifTags.IFD.Interop, None)
    return exif.tobytes() if len(exif) else b""
