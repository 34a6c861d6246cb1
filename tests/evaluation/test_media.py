from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from csd_nerf import cli
from csd_nerf.evaluation.media import evaluate_edit

FACTS = {
    "work_size": [32, 16],
    "canvas_cells": [8, 4],
    "window_cells": [4, 4],
    "stride_cells": 4,
}


def save(path, array):
    Image.fromarray(array.astype(np.uint8)).save(path)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.png"
    save(path, np.full((16, 32, 3), 100))
    return path


def test_a_picture_is_measured_by_hand(tmp_path, source):
    """The negative of 100 is 155; the second window is 10 too bright, a step at its border."""
    edited = np.full((16, 32, 3), 155)
    edited[:, 16:] += 10
    save(tmp_path / "edited.png", edited)
    (tmp_path / "edited.png.json").write_text(json.dumps({"facts": FACTS}))
    row = evaluate_edit(source, tmp_path / "edited.png", look="negative")
    assert row["psnr_source"] == pytest.approx(-20 * np.log10(55 / 255), abs=0.01)
    assert row["psnr_edited"] == pytest.approx(-10 * np.log10(0.5 * (10 / 255) ** 2), abs=0.01)
    assert row["seams"] == pytest.approx(10 / 255, abs=1e-4)


def test_a_video_is_measured_by_hand(tmp_path):
    """Still frames, of which the edit of one is 30 brighter than of the others."""
    for name, last in (("frames", 100), ("edited", 185)):
        (tmp_path / name).mkdir()
        for k in range(3):
            value = last if k == 2 else {"frames": 100, "edited": 155}[name]
            save(tmp_path / name / f"{k}.png", np.full((16, 32, 3), value))
    record = {"facts": {"work_size": [32, 16], "frames": 3}}
    (tmp_path / "edited.json").write_text(json.dumps(record))
    row = evaluate_edit(tmp_path / "frames", tmp_path / "edited", look="invert it")
    assert row["flicker"] == row["extra_change"] == pytest.approx(15 / 255, abs=1e-4)
    assert row["extra_change_of_look"] == 0


@pytest.mark.parametrize(
    ("look", "name", "message"),
    [
        ("fog", "edited.png", "--look needs a look"),
        ("sepia", "edited.png", "there is no"),
    ],
)
def test_mistakes_are_told(tmp_path, source, capsys, look, name, message):
    arguments = ["evaluate", str(source), str(tmp_path / name), "--look", look]
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert message in capsys.readouterr().err
