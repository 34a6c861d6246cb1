from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from profile_maker import rgb_profile

from csd_nerf.media.images import image_size, read_image, read_raster, write_image

BASE, IFD = ExifTags.Base, ExifTags.IFD
XMP = (
    b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
    b'GPano:ProjectionType="equirectangular" tiff:Orientation="6"/></x:xmpmeta>'
)


def tags() -> Image.Exif:
    exif = Image.Exif()
    exif[BASE.Orientation], exif[BASE.Make], exif[BASE.Copyright] = 6, "Maker", "someone"
    details = exif.get_ifd(IFD.Exif)
    details[BASE.ExifImageWidth], details[BASE.ExifImageHeight] = 24, 16
    details[BASE.ColorSpace], details[BASE.FNumber] = 65535, 2.5
    exif.get_ifd(IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return exif


def save(path: Path, *, size: tuple[int, int] = (16, 24), **options) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    options = {"exif": tags(), "xmp": XMP, **options}
    if path.suffix == ".png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
    if path.suffix == ".tif":
        exif = options["exif"]
        exif[BASE.XMLPacket] = options.pop("xmp")
        for directory in (IFD.Exif, IFD.GPSInfo):
            exif[directory] = dict(exif.get_ifd(directory))
    Image.fromarray(pixels).save(path, **options)
    return path


def carried(source: Path, target: Path) -> list[str]:
    """Write what was read with its metadata; returns the notices."""
    notes: list[str] = []
    found = read_raster(source)
    notes.extend(notice for notice in found.notices if "left out" in notice)
    write_image(target, found.raster, metadata=found.metadata, note=notes.append)
    return notes


@pytest.mark.parametrize("to", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("of", [".png", ".jpg", ".webp", ".tif"])
def test_exif_and_xmp_are_carried_and_hold_for_the_upright_picture(tmp_path, of, to):
    source, target = save(tmp_path / f"in{of}"), tmp_path / f"out{to}"
    assert carried(source, target) == []
    assert image_size(source) == image_size(target) == (24, 16)
    with Image.open(target) as image:
        image.load()
        exif, xmp = image.getexif(), image.info["xmp"]
        assert image.size == (16, 24)
    assert (exif[BASE.Make], exif[BASE.Copyright]) == ("Maker", "someone")
    assert exif.get(BASE.Orientation, 1) == 1
    details = exif.get_ifd(IFD.Exif)
    assert (details[BASE.ExifImageWidth], details[BASE.ExifImageHeight]) == (16, 24)
    assert (details[BASE.FNumber], details[BASE.ColorSpace]) == (2.5, 65535)
    assert exif.get_ifd(IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    assert b"equirectangular" in xmp
    assert b'tiff:Orientation="6"' not in xmp
    # Nothing of how a TIFF stores its pixels.
    assert not {BASE.StripOffsets, BASE.Compression, BASE.BitsPerSample} & exif.keys()


def test_converted_colours_are_tagged_as_srgb(tmp_path):
    carried(save(tmp_path / "in.jpg", icc_profile=rgb_profile()), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.getexif().get_ifd(IFD.Exif)[BASE.ColorSpace] == 1
        assert "icc_profile" not in image.info


def test_a_thumbnail_of_the_source_is_left_out(tmp_path):
    """Pillow doesn't write one, so that it is appended by hand: a second directory of tags."""
    thumbnail = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(thumbnail, "JPEG")
    plain = Image.Exif()
    plain[BASE.Make] = "Maker"
    data = plain.tobytes()
    head, directory = data[:14], data[14:]
    entries = int.from_bytes(directory[:2], "big")
    end = 2 + 12 * entries
    second = len(data) - 6
    whole = head + directory[:end] + second.to_bytes(4, "big") + directory[end + 4 :]
    place = second + 2 + 12 * 2 + 4
    whole += (2).to_bytes(2, "big")
    for tag, value in ((0x0201, place), (0x0202, len(thumbnail.getvalue()))):
        whole += (
            tag.to_bytes(2, "big") + b"\0\4" + (1).to_bytes(4, "big") + value.to_bytes(4, "big")
        )
    whole += bytes(4) + thumbnail.getvalue()
    source = save(tmp_path / "in.jpg", exif=whole)
    with Image.open(source) as image:
        assert 0x0201 in image.getexif().get_ifd(IFD.IFD1), "else this shows nothing"
    carried(source, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.getexif()[BASE.Make] == "Maker"
        assert not image.getexif().get_ifd(IFD.IFD1)
    assert thumbnail.getvalue() not in (tmp_path / "out.jpg").read_bytes()


def test_damaged_tags_are_told_and_the_rest_is_kept(tmp_path):
    whole = tags().tobytes()
    north = b"\0\1\0\2\0\0\0\2N"  # The letter of the latitude: tag 1, of type 2.
    assert north in whole
    # As tag 4, the longitude, it should be numbers.
    damaged = whole.replace(north, b"\0\4" + north[2:])
    source = save(tmp_path / "in.jpg", exif=damaged)
    assert carried(source, tmp_path / "out.jpg") == ["EXIF tags left out: they are damaged"]
    with Image.open(tmp_path / "out.jpg") as image:
        assert b"equirectangular" in image.info["xmp"]
        assert BASE.Make not in image.getexif()


def test_what_a_jpeg_can_not_hold_is_told(tmp_path):
    exif = tags()
    exif[BASE.ImageDescription] = "long " * 20_000
    source = save(tmp_path / "in.png", exif=exif, xmp=XMP + b" " * 70_000)
    assert carried(source, tmp_path / "out.jpg") == [
        "EXIF tags left out: there are more than a JPEG can hold",
        "XMP left out: it is longer than a JPEG can hold",
    ]
    assert carried(source, tmp_path / "out.webp") == []


def test_a_picture_without_tags_is_written_as_before(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    plain = torch.zeros(8, 8, 3, dtype=torch.uint8)
    for suffix in (".png", ".jpg", ".webp"):
        assert carried(tmp_path / "in.png", tmp_path / f"a{suffix}") == []
        write_image(tmp_path / f"b{suffix}", plain)
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for read in (read_image, image_size, read_raster):
        with pytest.raises(FileNotFoundError, match=r"got .*a\.png, which is a pipe or a device"):
            read(tmp_path / "a.png")


def test_a_program_is_no_picture(tmp_path, monkeypatch):
    """Pillow would run Ghostscript for PostScript, whatever the file's name is."""
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS", "else this shows nothing"
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match="must be a picture that Pillow can read, such as PNG"):
            read(tmp_path / "a.png")
