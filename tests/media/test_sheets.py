from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd_nerf.media.pixels import to_bytes
from csd_nerf.media.sheets import (
    LABEL_HEIGHT,
    enlarge,
    enlarge_smoothly,
    label_columns,
    save_contact_sheet,
    save_loop,
    save_rows,
    save_video,
)


def images(n: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 64), 4), ((48, 80), 3), ((300, 500), 1), ((20, 10), 13)]
)
def test_enlarging_repeats_pixels(size, expected):
    small = images(2, *size)
    large = enlarge(small)
    assert large.shape == (2, 3, size[0] * expected, size[1] * expected)
    for y, x in [(0, 0), (1, 2), (size[0] - 1, size[1] - 1)]:
        block = large[..., y * expected : (y + 1) * expected, x * expected : (x + 1) * expected]
        assert (block == small[..., y : y + 1, x : x + 1]).all()


def test_smooth_enlarging_has_the_size_of_the_other_and_steps_between_pixels():
    small = images(1, 16, 20)
    large = enlarge_smoothly(small)
    assert large.shape == enlarge(small).shape
    assert 0 <= large.amin() <= large.amax() <= 1
    assert large.diff(dim=3).abs().amax() < 0.5 * small.diff(dim=3).abs().amax()
    back = torch.nn.functional.avg_pool2d(large, large.shape[2] // 16)
    assert (back - small).abs().mean() < 0.1


def test_a_loop_plays_all_frames_for_ever(tmp_path):
    shades = torch.linspace(0.1, 0.9, 5).view(5, 1, 1, 1).expand(5, 3, 16, 20)
    save_loop(tmp_path / "a.webp", shades, fps=10)
    with Image.open(tmp_path / "a.webp") as loop:
        assert (loop.n_frames, loop.size, loop.info["loop"]) == (5, (20, 16), 0)
        for index, shade in enumerate(shades):
            loop.seek(index)
            assert abs(np.asarray(loop.convert("RGB")).mean() / 255 - float(shade.mean())) < 0.02
            assert loop.info["duration"] == 100


def test_columns_stand_side_by_side_under_their_names():
    before, after = images(2, 30, 40), images(2, 30, 50, seed=1)
    joined = label_columns({"before": before, "after": after})
    assert joined.shape == (2, 3, 30 + LABEL_HEIGHT, 90)
    assert joined[..., LABEL_HEIGHT:, :40].equal(before)
    assert joined[..., LABEL_HEIGHT:, 40:].equal(after)
    label = joined[0, :, :LABEL_HEIGHT]
    assert label.amax() == 1
    for part in (label[..., :40], label[..., 40:]):
        assert part.amin() < 0.3, "There must be dark letters on the white strip."
    assert not label[..., :40].equal(label[..., 40:80])


def test_a_contact_sheet_has_a_row_an_image_and_one_line_of_names(tmp_path):
    columns = {"source": images(3, 20, 24), "edited": images(3, 20, 24, seed=1)}
    save_contact_sheet(tmp_path / "sheet.png", columns)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (LABEL_HEIGHT + 3 * 20, 48, 3)
    for row in range(3):
        top = LABEL_HEIGHT + 20 * row
        for left, column in ((0, columns["source"]), (24, columns["edited"])):
            np.testing.assert_array_equal(
                sheet[top : top + 20, left : left + 24], to_bytes(column)[row].numpy()
            )
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_rows_stand_under_each_other_beside_their_names(tmp_path):
    rows = {"source": images(3, 20, 24), "a much longer name": images(3, 20, 24, seed=1)}
    save_rows(tmp_path / "rows.png", rows)
    sheet = np.asarray(Image.open(tmp_path / "rows.png"))
    assert sheet.shape[0] == 2 * 20
    beside = sheet.shape[1] - 3 * 24
    assert beside > 60
    for top, row in ((0, rows["source"]), (20, rows["a much longer name"])):
        label = sheet[top : top + 20, :beside]
        assert label.min() < 80, "There must be dark letters on the white strip."
        assert (label[:, -4:] == 255).all(), "The names end before the pictures."
        for column in range(3):
            left = beside + 24 * column
            np.testing.assert_array_equal(
                sheet[top : top + 20, left : left + 24], to_bytes(row)[column].numpy()
            )


@pytest.mark.parametrize("size", [(48, 64), (47, 65)])
def test_a_video_shows_the_frames_in_their_order(tmp_path, size):
    height, width = size
    ramp = torch.linspace(0.1, 0.9, width).expand(height, width)
    shades = [0.2, 0.5, 0.8, 0.4, 0.6]
    frames = torch.stack([torch.stack([ramp, ramp.flip(1), torch.full(size, s)]) for s in shades])
    save_video(tmp_path / "video.mp4", frames, fps=12)
    with av.open(str(tmp_path / "video.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 12
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == len(shades)
    even = to_bytes(frames)[:, : height // 2 * 2, : width // 2 * 2].numpy()
    assert decoded[0].shape == even[0].shape
    for shown, meant in zip(decoded, even, strict=True):
        assert np.abs(shown.astype(float) - meant).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
