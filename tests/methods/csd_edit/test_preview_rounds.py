"""A cell of a preview is a round of the scene method, to the last bit."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from edit_runs import shrink_model, start, write_dataset
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from PIL import Image

from csd_nerf import cli
from csd_nerf.scene.report import RoundReport

SIZES = [(180, 120)] * 5
QUICK = ["--iterations", "2", "--edit-size", "32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs larger than csd-edit-tiny takes, of which the last is held out."""
    folder = write_dataset(tmp_path_factory.mktemp("data") / "scene", sizes=SIZES)
    only_these(folder, [0, 1, 2, 3])
    return folder


def only_these(folder: Path, views: list[int], *, held_out: int = 4) -> None:
    """Let these be the training views."""
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    content["train_filenames"] = [f"images/frame_{view:05d}.png" for view in views]
    content["val_filenames"] = content["test_filenames"] = [f"images/frame_{held_out:05d}.png"]
    path.write_text(json.dumps(content))


def preview(*words: object) -> dict[str, Any]:
    """Make a preview; gives its record."""
    arguments = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", open("/dev/null", "w"))  # noqa: SIM115, PTH123
        cli.main(["preview", *arguments])
    return json.loads(
        (Path(arguments[arguments.index("--output") + 1]) / "preview.json").read_text()
    )


def round_of(command: str, output: Path, *, data: Path, views: int) -> RoundReport:
    """The first round of the run that a cell's command starts, from the photographs."""
    program, *words = shlex.split(command)
    assert program == "ns-train"
    words[words.index("--data") + 1] = str(data)
    config: Any = tyro.cli(AnnotatedBaseConfigUnion, args=words)
    config.pipeline.datamanager.data = config.data
    config.output_dir, config.timestamp, config.vis = output, "run", "tensorboard"
    config.pipeline.edit_views, config.pipeline.start = views, "original"
    if "splat" not in config.method_name:
        shrink_model(config.pipeline.model)
    trainer = start(config)
    trainer.pipeline.stage.plan_run(source_is_trained=True)
    report = trainer.pipeline.stage.before_step(0)
    assert report is not None
    return report


def pixels(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / name))


def assert_is_round(folder: Path, cell: dict[str, Any], report: RoundReport) -> None:
    assert len(cell["pictures"]) == len(report.edits)
    for view, name in enumerate(cell["pictures"]):
        edit = report.edits[view]
        assert np.array_equal(pixels(folder, name), edit.image.numpy())
        change = float((edit.edited01 - edit.source01).abs().mean())
        assert cell["changes"][view] == round(change, 5)


@pytest.mark.parametrize("method", ["csd-edit-tiny", "csd-edit-splat-tiny"])
def test_every_cell_is_the_first_round_of_the_run_that_its_command_starts(
    data, tmp_path, method, monkeypatch
):
    folder = tmp_path / "preview"
    found = preview(
        *("--data", data, "--output", folder, "--method", method, "--views", 4, *QUICK),
        *("--prompt", "make it night", "--prompt", "swap red and blue"),
        *("--text-scale", 1, 2, "--image-scale", 1.2, "--seeds", 2),
    )
    assert found["state"] == "finished"
    asked = [(c["seed"], c["prompt"], c["text_scale"], c["image_scale"]) for c in found["cells"]]
    prompts = ("make it night", "swap red and blue")
    assert asked == [(s, p, t, 1.2) for s in (0, 1) for p in prompts for t in (1.0, 2.0)]
    names = [f"images/frame_{view:05d}.png" for view in range(4)]
    assert [view["name"] for view in found["views"]] == names
    # A cell of each prompt, scale and seed; the command alone says which run it stands for.
    for number in (0, 3, 5, 6):
        cell = found["cells"][number]
        report = round_of(cell["command"], tmp_path / str(number), data=data, views=4)
        assert sorted(report.names) == names
        assert (report.request.prompt, report.request.settings.text_scale) == (
            cell["prompt"],
            cell["text_scale"],
        )
        assert_is_round(folder, cell, report)
    pictures = [pixels(folder, name) for cell in found["cells"] for name in cell["pictures"]]
    for number, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[:number])


def test_some_views_are_edited_as_by_a_run_on_these_alone(data, tmp_path):
    folder = tmp_path / "preview"
    found = preview(
        *("--data", data, "--output", folder, "--method", "csd-edit-tiny", *QUICK),
        *("--prompt", "make it night", "--view", "frame_00003.png", "--view", "frame_00001.png"),
    )
    assert [Path(view["name"]).name for view in found["views"]] == [
        "frame_00001.png",
        "frame_00003.png",
    ]
    alone = write_dataset(tmp_path / "alone", sizes=SIZES)
    only_these(alone, [1, 3])
    (cell,) = found["cells"]
    report = round_of(cell["command"], tmp_path / "run", data=alone, views=2)
    assert_is_round(folder, cell, report)
    for view, number in zip(found["views"], (1, 3), strict=True):
        shown, source = (
            pixels(folder, view["picture"]),
            Image.open(data / f"images/frame_{number:05d}.png"),
        )
        assert shown.shape == (160, 107, 3)
        near = np.asarray(source.resize((107, 160), Image.Resampling.BILINEAR))
        assert np.abs(shown.astype(int) - near).max() < 12


def test_an_undistorted_photograph_is_that_of_the_splats(tmp_path):
    folder = write_dataset(tmp_path / "bent", sizes=SIZES)
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    content |= {"camera_model": "OPENCV", "k1": 0.2, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    path.write_text(json.dumps(content))
    only_these(folder, [0, 1, 2, 3])
    words = ("--data", folder, "--prompt", "make it night", "--views", 2, *QUICK)
    bent, straight = (
        preview(*words, "--output", tmp_path / method, "--method", method)
        for method in ("csd-edit-splat-tiny", "csd-edit-tiny")
    )
    assert [v["name"] for v in bent["views"]] == [v["name"] for v in straight["views"]]
    assert bent["photographs"] != straight["photographs"]
    only_these(folder, [0, 2])
    report = round_of(bent["cells"][0]["command"], tmp_path / "run", data=folder, views=2)
    assert_is_round(tmp_path / "csd-edit-splat-tiny", bent["cells"][0], report)


def test_options_after_the_dashes_are_those_of_the_run(data, tmp_path):
    words = (
        *("--data", data, "--method", "csd-edit-tiny", "--prompt", "make it night"),
        *("--views", 2, *QUICK, "--output"),
    )
    plain = preview(*words, tmp_path / "plain")
    options = ("--pipeline.keep-detail", "True", "--pipeline.edit.t-range", "0.1", "0.3")
    kept = preview(*words, tmp_path / "kept", "--", *options)
    assert kept["cells"][0]["command"].endswith(" ".join(options))
    only_these(copy_of(data, tmp_path / "two"), [0, 2])
    report = round_of(kept["cells"][0]["command"], tmp_path / "run", data=tmp_path / "two", views=2)
    assert report.request.settings.t_range == (0.1, 0.3)
    assert_is_round(tmp_path / "kept", kept["cells"][0], report)
    before, after = (
        pixels(tmp_path / name, record["cells"][0]["pictures"][0])
        for name, record in (("plain", plain), ("kept", kept))
    )
    assert not np.array_equal(before, after)


def copy_of(data: Path, folder: Path) -> Path:
    return Path(shutil.copytree(data, folder))


def test_pictures_without_cameras_are_edited_as_photographs_of_a_capture(data, tmp_path):
    words = ("--prompt", "make it night", "--method", "csd-edit-tiny", *QUICK, "--views", 3)
    files = [data / f"images/frame_{view:05d}.png" for view in (0, 1, 2)]
    only_these(copy_of(data, tmp_path / "three"), [0, 1, 2])
    bare = preview("--data", *files, *words, "--output", tmp_path / "bare")
    whole = preview("--data", tmp_path / "three", *words, "--output", tmp_path / "whole")
    assert (bare["cameras"], whole["cameras"]) == (False, True)
    assert "--data DATA " in bare["cells"][0]["command"]
    assert bare["photographs"] == whole["photographs"]
    for one, other in zip(bare["cells"][0]["pictures"], whole["cells"][0]["pictures"], strict=True):
        assert np.array_equal(pixels(tmp_path / "bare", one), pixels(tmp_path / "whole", other))
    folder = preview("--data", data / "images", *words, "--output", tmp_path / "folder")
    assert [v["name"] for v in folder["views"]] == [f"frame_{v:05d}.png" for v in (0, 1, 3)]
    single = preview("--data", files[0], *words, "--output", tmp_path / "single")
    assert [v["name"] for v in single["views"]] == ["frame_00000.png"]


def test_transparent_photographs_lie_over_the_background_of_the_method(tmp_path):
    data = write_dataset(tmp_path / "data", sizes=SIZES)
    only_these(data, [0, 1])
    for path in (data / "images").glob("*.png"):
        picture = Image.open(path).convert("RGBA")
        picture.putalpha(Image.new("L", picture.size, 128))
        picture.save(path)
    words = ("--data", data, "--prompt", "make it night", "--views", 2, *QUICK, "--output")
    options = ("--pipeline.model.background-color", "white")
    found = preview(*words, tmp_path / "out", "--method", "csd-edit-splat-tiny", "--", *options)
    command = found["cells"][0]["command"]
    report = round_of(command, tmp_path / "run", data=data, views=2)
    assert_is_round(tmp_path / "out", found["cells"][0], report)
    source = pixels(tmp_path / "out", found["views"][0]["picture"])
    assert source.min() > 120
