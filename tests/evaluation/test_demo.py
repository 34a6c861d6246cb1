from __future__ import annotations

import json
from pathlib import Path

import pytest

from csd_nerf.evaluation import demo
from csd_nerf.evaluation.options import DemoSettings
from csd_nerf.evaluation.scene_runs import SceneRun


@pytest.fixture
def rounds(monkeypatch) -> list[int]:
    """The number of rounds that a run makes, in place of training."""
    number = [3]

    def train(run: SceneRun) -> Path:
        (run.folder / "rounds").mkdir(parents=True)
        for index in range(number[0]):
            (run.folder / "rounds" / f"round_{index:03d}.png").write_text("sheet")
        return run.folder / "config.yml"

    measured = {"psnr_source": 10.0, "psnr_edited": 20.0}
    monkeypatch.setattr(SceneRun, "train", train)
    monkeypatch.setattr(demo, "compare_scene", lambda *_, **__: measured.copy())
    return number


def make(output: Path, **options) -> None:
    demo.run_demo(DemoSettings(output=output, size=16, **options))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_demo_is_replaced_only_when_asked_and_what_was_added_stays(tmp_path, rounds):
    output = tmp_path / "demo"
    make(output)
    assert (output / "round_3.png").is_file()
    mine = [output / "round_9.png", output / "nerfstudio" / "mine" / "config.yml"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    before = files(output)
    with pytest.raises(FileExistsError, match=r"must be a new one, got .*; pass --overwrite"):
        make(output)
    assert files(output) == before

    rounds[0] = 2
    make(output, overwrite=True)
    pictures = {path.name for path in output.glob("round_*.png")}
    assert pictures == {"round_1.png", "round_2.png", "round_9.png"}
    assert all(path.read_text() == "mine" for path in mine)
    assert json.loads((output / "metrics.json").read_text())["psnr_edited"] == 20


@pytest.mark.usefixtures("rounds")
def test_a_demo_by_another_method_leaves_no_run_of_the_first(tmp_path):
    make(tmp_path / "demo")
    runs = tmp_path / "demo/nerfstudio/demo"
    assert [path.parent.name for path in runs.glob("*/run")] == ["csd-edit-splat-tiny"]
    make(tmp_path / "demo", overwrite=True, method="csd-edit-tiny")
    assert [path.parent.name for path in runs.glob("*/run")] == ["csd-edit-tiny"]


@pytest.mark.usefixtures("rounds")
@pytest.mark.parametrize("name", ["round_1.png", "nerfstudio/a/config.yml", "metrics.json"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=r"must be new or that of an earlier demo, got"):
        make(tmp_path, overwrite=True)
    assert list(files(tmp_path).values()) == [b"mine"]


@pytest.mark.usefixtures("rounds")
def test_a_demo_ends_with_what_to_look_at_and_what_to_type_next(tmp_path, capsys):
    make(tmp_path / "demo")
    told = capsys.readouterr().out
    assert "before and 20.0 dB after" in told
    for name in (*demo.FILES[1:3], "round_1.png"):
        assert f"  {tmp_path / 'demo' / name}" in told
    config = tmp_path / "demo/nerfstudio/demo/csd-edit-splat-tiny/run/config.yml"
    assert f"  ns-viewer --load-config {config}\n" in told
    assert f"  csd-nerf demo --overwrite --output {tmp_path / 'demo'} --scene" in told
