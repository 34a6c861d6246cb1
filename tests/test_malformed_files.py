"""JSON files of the user that are malformed in many ways: every reader ends in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import check_reader

import csd_nerf
from csd_nerf.evaluation.captures import read_capture
from csd_nerf.evaluation.compare import true_edit
from csd_nerf.evaluation.inputs import at_work_size, find_borders, read_facts
from csd_nerf.priors.families import INDEX, family_of
from csd_nerf.priors.unet import load_schedule
from csd_nerf.synthetic.edits import find_edit

TINY = Path(csd_nerf.__file__).parent / "assets" / "tiny"


def written(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_records_of_edits(tmp_path):
    facts = {
        "frames": 24,
        "work_size": [64, 32],
        "canvas_cells": [16, 8],
        "window_cells": [8, 8],
        "stride_cells": 2,
        "wrap": True,
        "notices": ["enlarged"],
    }
    edited = tmp_path / "a.png"
    path = written(tmp_path / "a.png.json", {"facts": facts, "seed": 0})
    assert read_facts(edited) == facts

    def read() -> None:
        found = read_facts(edited)
        find_borders(found)
        # A length that is possible but needs too much memory.
        if max(found.get("work_size", [1])) < 1000:
            at_work_size(torch.zeros(1, 3, 4, 4), found)

    check_reader(path, read)
    written(path, {"facts": dict.fromkeys(("work_size", "canvas_cells"))})
    read()


def test_captures(tmp_path):
    frames = [
        {
            "file_path": f"images/{k}.png",
            "transform_matrix": torch.eye(4).tolist(),
            "depth_file_path": "0.npy",
        }
        for k in range(2)
    ]
    np.save(tmp_path / "0.npy", np.ones((2, 4)))
    lens = {"fl_x": 4.0, "fl_y": 2.0, "cx": 3.5, "cy": 0.5, "w": 8, "h": 4}
    value = {**lens, "camera_model": "OPENCV", "k1": 0.0, "frames": frames}
    path = written(tmp_path / "transforms.json", value)

    def read() -> None:
        views = read_capture(tmp_path).views
        if views is not None:
            views.intrinsics((4, 8))
            if (tmp_path / "0.npy") in views.depth:
                views.distance(views.depth.index(tmp_path / "0.npy"), (4, 8))

    check_reader(path, read, least=12)


def test_records_of_data_sets(tmp_path):
    path = written(tmp_path / "edit.json", {"edit": "night", "scene": 0})
    photograph01 = torch.zeros(1, 3, 4, 4)
    check_reader(
        path, lambda: true_edit(find_edit("sepia"), photograph01, [Path("a")], data=tmp_path)
    )


def test_indices_of_priors(tmp_path):
    path = written(tmp_path / INDEX, json.loads((TINY / INDEX).read_text()))
    check_reader(path, lambda: family_of(path), least=10)


def test_schedules_of_priors(tmp_path):
    shutil.copytree(TINY / "scheduler", tmp_path / "scheduler")
    path = tmp_path / "scheduler" / "scheduler_config.json"
    # diffusers reads no byte-order mark.
    check_reader(path, lambda: load_schedule(tmp_path), least=10, mark=b"")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("unet/config.json", '{"_class_name": "UNet2DConditionModel", "down_block_types": 3}'),
        ("unet/config.json", "[]"),
        ("unet/config.json", "{"),
        ("vae/config.json", '{"block_out_channels": "x"}'),
        ("text_encoder/config.json", '{"hidden_size": "wide"}'),
        ("text_encoder/config.json", "3"),
        ("tokenizer/tokenizer_config.json", "[]"),
        ("tokenizer/tokenizer.json", "{"),
        ("unet/diffusion_pytorch_model.safetensors", "no weights"),
    ],
)
def test_damaged_parts_of_priors(tmp_path, file, text):
    folder = tmp_path / "prior"
    shutil.copytree(TINY, folder)
    assert (folder / file).is_file()
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=str(folder)) as told:
        csd_nerf.load(folder)
    assert "\n" not in str(told.value)
