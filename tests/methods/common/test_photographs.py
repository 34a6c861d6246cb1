from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from csd_nerf.methods.common.photographs import Photographs
from csd_nerf.methods.csd_edit.datamanager import CSDEditDataManager, CSDEditDataManagerConfig

HEIGHT, WIDTH = 20, 30

PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def lying(path: Path) -> None:
    """A picture that is stored as it is, and upright when it is turned clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)


def with_alpha(colours: np.ndarray) -> np.ndarray:
    alpha = np.arange(colours.shape[0] * colours.shape[1], dtype=np.uint8)
    return np.concatenate([colours, alpha.reshape(*colours.shape[:2], 1)], axis=2)


def parsed(folder: Path, save: Callable[[Path], None], *, size=(HEIGHT, WIDTH), suffix=".png"):
    """What nerfstudio's parser makes of two views of one picture and one camera."""
    names = [f"{view}{suffix}" for view in range(2)]
    pose = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    frames = []
    for view, name in enumerate(names):
        save(folder / name)
        matrix = [[*pose[row], float(view * (row == 0) + (row == 3))] for row in range(4)]
        frames.append({"file_path": name, "transform_matrix": matrix})
    height, width = size
    lens = {"w": width, "h": height, "fl_x": 30, "fl_y": 30, "cx": width / 2, "cy": height / 2}
    text = json.dumps({"camera_model": "OPENCV", **lens, "frames": frames})
    (folder / "transforms.json").write_text(text)
    parser = NerfstudioDataParserConfig(data=folder, eval_mode="all", downscale_factor=1)
    return parser.setup().get_dataparser_outputs()


@pytest.mark.parametrize("scale", [1.0, 0.55])
@pytest.mark.parametrize(
    ("suffix", "image"),
    [
        (".png", Image.fromarray(PIXELS)),
        (".jpg", Image.fromarray(PIXELS)),
        (".png", Image.fromarray(with_alpha(PIXELS))),
        (".png", Image.fromarray(PIXELS).convert("L")),
    ],
    ids=["png", "jpeg", "rgba", "grey"],
)
def test_plain_pictures_are_read_as_nerfstudio_reads_them(tmp_path, suffix, image, scale):
    outputs = parsed(tmp_path, image.save, suffix=suffix)
    ours, theirs = Photographs(outputs, scale), InputDataset(outputs, scale)
    assert np.array_equal(ours.get_numpy_image(1), theirs.get_numpy_image(1))
    assert torch.equal(ours[1]["image"], theirs[1]["image"])


def palette(path: Path) -> None:
    Image.fromarray(PIXELS // 128 * 255).quantize(8).save(path)


def cmyk(path: Path) -> None:
    Image.fromarray(PIXELS).convert("CMYK").save(path)


def grey_of_16_bits(path: Path) -> None:
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(path)


def grey_with_alpha(path: Path) -> None:
    Image.fromarray(with_alpha(PIXELS[..., :1])).save(path)


@pytest.mark.parametrize(
    ("save", "suffix", "meant"),
    [
        (palette, ".png", PIXELS // 128 * 255),
        (cmyk, ".tif", PIXELS),
        (grey_of_16_bits, ".png", PIXELS[..., :1].repeat(3, axis=2)),
        (grey_with_alpha, ".png", with_alpha(PIXELS[..., :1].repeat(3, axis=2))),
    ],
    ids=["palette", "CMYK", "16 bits", "grey with alpha"],
)
def test_other_kinds_become_rgb_or_rgba(tmp_path, save, suffix, meant):
    image = Photographs(parsed(tmp_path, save, suffix=suffix)).get_numpy_image(0)
    assert image.shape == meant.shape
    assert np.abs(image.astype(int) - meant).max() <= 1


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_picture_is_turned_upright_where_its_camera_is(tmp_path, scale):
    outputs = parsed(tmp_path, lying, size=(WIDTH, HEIGHT))
    photographs = Photographs(outputs, scale)
    image = photographs.get_numpy_image(0)
    assert image.shape == (int(WIDTH * scale), int(HEIGHT * scale), 3)
    assert photographs.cameras.height[0] == image.shape[0]
    if scale == 1:
        assert np.array_equal(image, np.rot90(PIXELS, -1))


def test_a_picture_stays_on_its_side_where_its_camera_does(tmp_path):
    image = Photographs(parsed(tmp_path, lying)).get_numpy_image(0)
    assert np.array_equal(image, PIXELS)


def test_a_photograph_that_is_cut_off_ends_in_one_line(tmp_path):
    outputs = parsed(tmp_path, Image.fromarray(PIXELS).save)
    path = outputs.image_filenames[1]
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"must be whole, got .*1\.png"):
        Photographs(outputs).get_numpy_image(1)


def test_csd_edit_trains_on_photographs_read_so(tmp_path):
    parsed(tmp_path, palette)
    parser = NerfstudioDataParserConfig(data=tmp_path, eval_mode="all", downscale_factor=1)
    config = CSDEditDataManagerConfig(data=tmp_path, dataparser=parser, edit_patch_size=1)
    manager = CSDEditDataManager(config)
    meant = torch.from_numpy(PIXELS // 128 * 255).float() / 255
    for image in (
        manager._cached["image"][0] / 255,
        manager.photograph01(0),
        manager.eval_dataset[1],
    ):
        image = image["image"] if isinstance(image, dict) else image
        assert torch.equal(image, meant)
