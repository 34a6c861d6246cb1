from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from csd_nerf.media.images import (
    MAX_PIXELS,
    check_picture_path,
    image_size,
    read_image,
    write_image,
)

WIDTH, HEIGHT = 24, 16


def noise(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def png_of_16_bit_colour(path: Path, value: int) -> Path:
    """Pillow can't write one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = b"\0" + struct.pack(">H", value) * 3 * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row * 2)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_a_plain_picture_is_read_as_it_is_without_a_notice(tmp_path):
    pixels = noise()
    image, notices = read_image(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert torch.equal(image, torch.from_numpy(pixels))
    assert notices == []


def test_exif_orientation_is_applied(tmp_path):
    pixels = noise()
    exif = Image.Exif()
    exif[0x0112] = 6  # The picture is to be turned clockwise.
    path = saved(tmp_path / "a.png", Image.fromarray(pixels), exif=exif)
    image, notices = read_image(path)
    assert np.array_equal(image.numpy(), np.rot90(pixels, -1))
    assert notices == ["turned upright, as its EXIF orientation says"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone_as_pillow_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(noise()), exif=exif)
    image, notices = read_image(path)
    with Image.open(path) as opened:
        assert np.array_equal(image.numpy(), np.asarray(ImageOps.exif_transpose(opened)))
    assert image_size(path) == tuple(image.shape[:2])
    assert len(notices) == (orientation > 1)


@pytest.mark.parametrize(
    ("mode", "suffix", "notice"),
    [
        ("L", ".png", "grey converted to RGB"),
        ("1", ".png", "black and white converted to RGB"),
        ("P", ".png", "palette converted to RGB"),
        ("CMYK", ".tif", "CMYK converted to RGB"),
    ],
)
def test_other_colours_are_converted_and_told(tmp_path, mode, suffix, notice):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[:2] = 255
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(colours).convert(mode))
    image, notices = read_image(path)
    assert np.array_equal(image.numpy(), colours)
    assert notices == [notice]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257 * 7, 257 * 128, 65535]] * 4, np.uint16)
    image, notices = read_image(saved(tmp_path / f"a{suffix}", Image.fromarray(values)))
    assert image[0, :, 1].tolist() == [0, 7, 128, 255]
    assert notices == [
        "16 bits a channel brought to 8",
        "grey converted to RGB",
    ]


def test_colour_of_16_bits_is_told(tmp_path):
    image, notices = read_image(png_of_16_bit_colour(tmp_path / "a.png", 0xC000))
    assert image.unique().tolist() == [0xC0]
    assert notices == ["16 bits a channel brought to 8"]


def test_a_picture_of_32_bits_is_refused(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(np.full((4, 4), 0.5, np.float32)))
    with pytest.raises(ValueError, match=r"may have 8 or 16 bits a channel, got .*a.tif with 32"):
        read_image(path)


def test_transparency_goes_over_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = [255, 0, 51]
    image, notices = read_image(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert image[0].tolist() == [[200, 0, 0], [255, 255, 255], [244, 204, 204]]
    assert notices == ["transparent parts put over white"]


def test_a_high_transparent_picture_goes_over_white_row_by_row(tmp_path):
    shares = np.random.default_rng(4).integers(0, 256, (700, 5, 1), dtype=np.uint8)
    given = np.concatenate([noise(700, 5), shares], axis=2)
    image, _ = read_image(saved(tmp_path / "x.png", Image.fromarray(given)))
    share = shares / 255
    expected = share * given[..., :3] + (1 - share) * 255
    assert np.abs(image.numpy() - expected).max() <= 1


def test_a_transparent_palette_colour_goes_over_white(tmp_path):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 9, 9, 9])
    path = saved(tmp_path / "a.png", picture, transparency=1)
    image, notices = read_image(path)
    assert image.unique().tolist() == [255]
    assert len(notices) == 2


def test_an_opaque_alpha_channel_is_no_news(tmp_path):
    pixels = noise()
    path = saved(tmp_path / "a.png", Image.fromarray(pixels).convert("RGBA"))
    image, notices = read_image(path)
    assert np.array_equal(image.numpy(), pixels)
    assert notices == []


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_of_an_animation_the_first_frame_is_used(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
    image, notices = read_image(path)
    assert image[0, 0].tolist() == [255, 0, 0]
    assert notices[0] == "only the first of its 3 frames is used"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif"])
@pytest.mark.parametrize("kept", [0.2, 0.6])
def test_a_truncated_picture_ends_in_one_line(tmp_path, suffix, kept):
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(noise(64, 64)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"The picture must be whole, got .*a\.") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("hello"), "must be a picture that Pillow can read"),
        (lambda path: path.touch(), "must be a picture that Pillow can read"),
        (lambda path: path.mkdir(), "must be a picture file, got .*, which is a folder"),
        (lambda path: None, "must be a picture file, got .*, which does not exist"),
    ],
)
def test_what_is_no_picture_ends_in_one_line(tmp_path, make, message):
    make(tmp_path / "a.png")
    with pytest.raises((ValueError, OSError), match=message) as caught:
        read_image(tmp_path / "a.png")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_pillows_own_limit_of_pixels_is_lifted_for_the_reading_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = saved(tmp_path / "a.png", Image.fromarray(noise()))
    image, _ = read_image(path)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_picture_beyond_our_own_limit_is_refused(tmp_path, monkeypatch):
    assert MAX_PIXELS > 20_000**2
    monkeypatch.setattr("csd_nerf.media.images.MAX_PIXELS", 100)
    path = saved(tmp_path / "a.png", Image.fromarray(noise()))
    with pytest.raises(ValueError, match=r"may have 100 pixels, got .* with 24 x 16"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_a_written_picture_has_the_format_of_its_suffix(tmp_path, suffix):
    smooth = np.stack([np.arange(64, dtype=np.uint8)] * 64)[..., None].repeat(3, 2)
    path = tmp_path / f"a{suffix}"
    write_image(path, torch.from_numpy(smooth))
    with Image.open(path) as image:
        assert image.format == {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
        error = np.abs(np.asarray(image.convert("RGB")).astype(int) - smooth).max()
    assert error <= (0 if suffix == ".png" else 6)
    assert [*tmp_path.iterdir()] == [path]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_text("before")

    def fails(self, name, **_):
        name.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, torch.zeros(2, 2, 3, dtype=torch.uint8))
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("a.bmp", None, r"suffix must be one of .png, .jpg, .jpeg, .webp, got a.bmp"),
        ("a", None, "suffix must be one of"),
        ("a.webp", (20, 20_000), "WEBP picture may be 16383 pixels long, .* 20000 x 20;"),
    ],
)
def test_names_that_cannot_be_written_are_known_beforehand(name, size, message):
    with pytest.raises(ValueError, match=message):
        check_picture_path(Path(name), size=size)
