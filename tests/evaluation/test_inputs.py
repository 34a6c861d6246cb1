from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from csd_nerf.evaluation.inputs import open_input, read_facts


def save(path, value, size=(16, 32)):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def values(frames):
    return [round(float(255 * frame.mean())) for frame in frames]


def test_a_picture_is_one_frame(tmp_path):
    save(tmp_path / "a.png", 51)
    frames = open_input(tmp_path / "a.png")
    assert (frames.count, frames.size) == (1, (16, 32))
    (frame,) = frames
    torch.testing.assert_close(frame, torch.full((1, 3, 16, 32), 0.2))


def test_frames_come_in_natural_order_again_and_again(tmp_path):
    for value in (2, 10, 1):
        save(tmp_path / "f" / f"{value}.png", value)
    frames = open_input(tmp_path / "f")
    assert values(frames) == values(frames) == [1, 2, 10]
    assert values(open_input(tmp_path / "f", frames="2")) == [1, 10]


def test_a_capture_is_read_by_its_transforms(tmp_path):
    for value in (10, 2, 1):
        save(tmp_path / "images" / f"{value}.png", value)
    frames = [{"file_path": f"images/{value}.png"} for value in (10, 1)]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    frames = open_input(tmp_path)
    assert values(frames) == [1, 10]
    assert frames.views is None
    assert "depth_file_path" in frames.obstacle


def test_frames_of_a_capture_need_one_size(tmp_path):
    save(tmp_path / "images" / "0.png", 0)
    save(tmp_path / "images" / "1.png", 0, size=(16, 16))
    frames = [{"file_path": f"images/{k}.png"} for k in (0, 1)]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    with pytest.raises(ValueError, match="32 x 16 and, as frame 1, 16 x 16; resize"):
        list(open_input(tmp_path))


def test_what_is_missing_is_told(tmp_path):
    for name in ("a.png", "film.mp4", "folder"):
        with pytest.raises(FileNotFoundError, match=name):
            open_input(tmp_path / name)


def test_a_result_without_a_record_has_no_facts_and_a_damaged_one_is_told(tmp_path):
    assert read_facts(tmp_path / "a.png") == {}
    (tmp_path / "a.png.json").write_text("{")
    with pytest.raises(ValueError, match="must be the record of an edit"):
        read_facts(tmp_path / "a.png")
