"""Pictures before and after their edits, and how much memory that takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from PIL import Image

from csd_nerf.adapters.pictures import Picture, PictureFile, finished
from csd_nerf.media.pixels import Change, add_change, resize
from csd_nerf.media.rasters import Raster
from csd_nerf.media.regions import PackedMask, keep_outside


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).byte()


def picture_of(pixels: torch.Tensor) -> Picture:
    return Picture("a.png", (pixels.shape[0], pixels.shape[1]), lambda: Raster.of(pixels))


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_the_result_is_that_of_whole_pictures(keep, masked, wrap):
    original = noise(600, 90, 3)
    before, after = torch.rand(2, 3, 60, 30, generator=torch.Generator().manual_seed(1))
    small = noise(60, 30, 3, seed=2)
    mask = torch.zeros(600, 90)
    mask[200:500, :50] = 1
    told = []
    result = finished(
        picture_of(original),
        Change(before, after, wrap) if keep else small,
        inside=PackedMask.of(mask) if masked else None,
        wrap=wrap,
        told=lambda *done: told.append(done),
    )
    if keep:
        wanted = add_change(original, before, after, wrap=wrap)
    else:
        wanted = resize(small, (600, 90), wrap=wrap)
    if masked:
        wanted = keep_outside(original, wanted, mask, wrap=wrap)
    assert torch.equal(result.pixels, wanted)
    assert told == ([(0, 600), (256, 600), (512, 600), (600, 600)] if keep or masked else [])


def test_a_picture_that_changes_while_it_is_edited_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(path)
    picture = PictureFile.checked(path).picture()
    Image.new("RGB", (30, 21)).save(path)
    told = r"must not change while it is edited, got .*a\.png of 30 x 21 pixels instead of 30 x 20"
    with pytest.raises(ValueError, match=told):
        picture.read()


_MEASURED = """
import sys
from pathlib import Path
import torch
from csd_nerf.adapters.pictures import PictureFile, finished
from csd_nerf.adapters.regions import map_prompts, masks_of
from csd_nerf.media.images import write_image
from csd_nerf.media.pixels import Change
from csd_nerf.media.regions import parse_region

def memory(what):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return 1024 * int(line.split()[1])

def edited(path, region):
    picture = PictureFile.checked(path).picture()
    picture.read().resized((50, 100), wrap=True)
    inside = None
    if region:
        regions, masks, size = [parse_region("10%,10%,60%,60%")], masks_of(picture), picture.size
        inside = map_prompts(regions, "x", masks, size=size, grid=(5, 10)).inside
    change = Change(*torch.rand(2, 3, 50, 100), wrap=True)
    result = finished(picture, change, inside=inside, wrap=True)
    write_image(Path(sys.argv[1]), result, compress_level=1)
    return picture.size

large, clear, small = map(Path, sys.argv[2:])
# Libraries load their parts at the first call.
edited(small, True)
before = memory("VmRSS")
# What one leaves behind serves the next.
for path, region in ((large, False), (clear, False), (large, True)):
    Path("/proc/self/clear_refs").write_text("5")
    height, width = edited(path, region)
    print((memory("VmHWM") - before) / (height * width))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_picture_is_in_memory_once(tmp_path):
    """Pillow has it in 4 bytes a pixel; a tensor would add 3, and one of floats 12.

    A transparent one is there twice while it is put over white; a region's weights have 4 bytes.
    """
    paths = [tmp_path / name for name in ("result.png", "a.png", "b.png", "c.png")]
    Image.new("RGB", (8000, 4000), "teal").save(paths[1], compress_level=1)
    Image.new("RGBA", (8000, 4000), (0, 99, 99, 99)).save(paths[2], compress_level=1)
    Image.new("RGB", (800, 400), "teal").save(paths[3])
    command = [sys.executable, "-c", _MEASURED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    opaque, transparent, with_region = map(float, done.stdout.split())
    assert 4 <= opaque < 7
    assert 4 <= transparent < 10
    assert 4 <= with_region < 13
