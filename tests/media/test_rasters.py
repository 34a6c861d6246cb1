from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from csd_nerf.media import pixels as pixels_module
from csd_nerf.media.images import read_image, read_raster, write_image
from csd_nerf.media.pixels import Change, add_change, resize
from csd_nerf.media.rasters import Raster


def noise(height: int, width: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (height, width, channels), generator=generator).byte()


@pytest.fixture
def few_rows(monkeypatch):
    """Strips of seven rows, of which the last is shorter."""
    monkeypatch.setattr(pixels_module, "_ROWS", 7)


@pytest.mark.parametrize("channels", [3, 4])
def test_rows_are_taken_and_replaced(few_rows, channels):
    pixels = noise(30, 20, channels)
    raster = Raster.of(pixels)
    assert raster.size == (30, 20)
    assert torch.equal(raster[3:11], pixels[3:11])
    assert torch.equal(raster.pixels, pixels)
    raster[25:30] = pixels[:5]
    pixels[25:30] = pixels[:5].clone()
    assert torch.equal(raster.pixels, pixels)


def test_all_rows_are_replaced_in_order_and_told(few_rows):
    pixels, told = noise(30, 20), []
    raster = Raster.of(pixels)

    def inverted(rows, top):
        assert torch.equal(rows, pixels[top : top + len(rows)])
        return 255 - rows

    raster.replace(inverted, after_rows=lambda *done: told.append(done))
    assert torch.equal(raster.pixels, 255 - pixels)
    assert told == [(n, 30) for n in (0, 7, 14, 21, 28, 30)]


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("size", [(11, 17), (60, 33), (30, 99), (30, 20), (12, 20)])
def test_it_is_resized_as_a_whole_picture_is_to_the_last_bit(few_rows, size, wrap):
    pixels = noise(30, 20)
    found = Raster.of(pixels).resized(size, wrap=wrap)
    assert torch.equal(found, resize(pixels, size, wrap=wrap))


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("size", [(60, 31), (150, 62), (300, 40)])
def test_a_change_by_strips_is_that_of_the_whole_picture(monkeypatch, size, wrap):
    """Means of means reach across two squares, so that a strip needs both around it."""
    generator = torch.Generator().manual_seed(0)
    before, after = torch.rand(2, 3, *size, generator=generator)
    original = noise(300, 62)
    monkeypatch.setattr(pixels_module, "_ROWS", 300)
    whole = add_change(original, before, after, wrap=wrap)
    monkeypatch.setattr(pixels_module, "_ROWS", 13)
    off = (add_change(original, before, after, wrap=wrap).short() - whole.short()).abs()
    # The places of a strip's rows are rounded otherwise.
    assert off.max() <= 1
    assert off.count_nonzero() <= 3


def test_a_change_of_8_bits_is_that_of_its_values_in_01():
    before, after = noise(20, 22).movedim(2, 0), noise(20, 44).movedim(2, 0)[..., 22:]
    original = noise(40, 44)
    found = Change(before, after).applied(original[5:30], top=5, height=40)
    wanted = add_change(original, before / 255, after / 255)[5:30]
    assert (found.short() - wanted.short()).abs().max() <= 1


@pytest.mark.parametrize("target", ["b.png", "b.jpg", "b.webp"])
@pytest.mark.parametrize("source", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_a_file_of_a_raster_is_that_of_its_pixels(tmp_path, source, target):
    """Pillow would copy comments, a palette or a profile from the file that was read."""
    path = tmp_path / source
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngInfo()
    text.add_text("Comment", "a text")
    extra = {"a.png": {"pnginfo": text, "dpi": (72, 72)}, "a.jpg": {"comment": b"a text"}}
    Image.fromarray(noise(40, 30).numpy()).save(path, icc_profile=profile, **extra.get(source, {}))
    read, told = [], []
    raster = read_raster(path, told=lambda *done: read.append(done)).raster
    pixels, _ = read_image(path)
    assert torch.equal(raster.pixels, pixels)
    write_image(tmp_path / target, raster, told=lambda *done: told.append(done))
    write_image(tmp_path / f"of_pixels_{target}", pixels)
    written = (tmp_path / target).read_bytes()
    assert written == (tmp_path / f"of_pixels_{target}").read_bytes()
    assert read[0] == (0, path.stat().st_size)
    assert told[0] == (0, 0)
    assert told[-1][0] <= len(written)
