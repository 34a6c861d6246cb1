from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import __main__ as command
from benchmarks.paper.inputs import read_texts
from benchmarks.text_to_3d import run as text_to_3d
from benchmarks.text_to_3d.object_truth import AMBIENT, VIEWS, knows, true_views
from benchmarks.text_to_3d.run import run_text_to_3d
from benchmarks.text_to_3d.settings import TextTo3dSettings, read_prompts
from benchmarks.text_to_3d.training import RunFailedError, object_config
from benchmarks.text_to_3d.views import RunViews
from csd_nerf import priors

BUNDLED = Path(priors.__file__).parents[1] / "assets" / "tiny_text"


def views_of(prompt: str) -> RunViews:
    truth, lit = (true_views(prompt, size=16, ambient=ambient) for ambient in (1.0, AMBIENT))
    grey = truth.coverage[:, None].expand(-1, 3, -1, -1)
    return RunViews(truth.image01, lit.image01, grey, truth.coverage)


class Runner:
    """Stands for training: makes the true object, or fails for the seeds that are named."""

    def __init__(self) -> None:
        self.configs: list[Any] = []
        self.failing: set[tuple[str, int]] = set()
        self.interrupted_at: int | None = None

    def __call__(self, config: Any, folder: Path, *, on_step: Any) -> RunViews:
        if len(self.configs) == self.interrupted_at:
            (folder / "half").write_text("done")
            raise KeyboardInterrupt
        self.configs.append(config)
        assert config.output_dir / config.experiment_name == folder
        on_step()
        pipeline = config.pipeline
        if (pipeline.distillation, pipeline.seed) in self.failing:
            raise RunFailedError("The object has vanished by step 60.")
        return views_of(pipeline.prompt if knows(pipeline.prompt) else "a black ball")


@pytest.fixture
def runner(monkeypatch):
    runner = Runner()
    monkeypatch.setattr(text_to_3d, "train_and_render", runner)
    monkeypatch.setattr(text_to_3d, "weights_digest", lambda name, *, kind: name)
    return runner


def settings(output: Path, *prompts: str, **options: Any) -> TextTo3dSettings:
    path = output.with_name(f"{output.name}-prompts.txt")
    path.write_text("\n".join(prompts or ("a red cube", "a corgi")))
    values = {"method": "csd-dreamfusion-tiny", "seeds": 2, **options}
    return TextTo3dSettings(prompts=path, output=output, **values)


def run(output: Path, *prompts: str, **options: Any) -> str:
    return run_text_to_3d(settings(output, *prompts, **options), note=lambda text: None)


def test_every_prompt_arm_and_seed_is_run_and_reported(tmp_path, runner):
    notes = []
    text = run_text_to_3d(settings(tmp_path), note=notes.append)
    asked = [
        (c.pipeline.prompt, c.pipeline.distillation, c.pipeline.seed, c.machine.seed)
        for c in runner.configs
    ]
    assert asked == [
        (prompt, arm, seed, seed)
        for prompt in ("a red cube", "a corgi")
        for arm in ("csd", "sds")
        for seed in (0, 1)
    ]
    assert {c.vis for c in runner.configs} == {"tensorboard"}
    assert notes == ["CLIP similarities are left out: they need --clip MODEL_OR_DIR."]
    assert (tmp_path / "results.md").read_text() == text
    assert "| csd | 2 | 0 | 1.000 ± 0.000 | 0.000 ± 0.000 |  |  |" in text
    assert "FID" not in text
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["rows"]) == 8
    assert results["settings"]["arms"] == ["csd", "sds"]
    assert {"torch", "nerfstudio", "csd_nerf"} <= results["versions"].keys()
    assert (tmp_path / "results.csv").read_text().count("\n") == 5


def test_the_views_are_kept_as_table5_reads_them(tmp_path, runner):
    run(tmp_path, "a red cube", arms=("csd",), seeds=1)
    (folder,) = (tmp_path / "runs" / "csd").iterdir()
    for kind in ("colour", "depth"):
        assert len(list((folder / kind).glob("*.png"))) == VIEWS
    shown = np.array(Image.open(sorted((folder / "colour").glob("*.png"))[0]))
    expected = true_views("a red cube", size=16).image01[0].permute(1, 2, 0)
    assert np.abs(shown / 255 - expected.numpy()).max() < 0.003


def test_table5_finds_the_objects_that_no_arm_failed_to_make(tmp_path, runner):
    runner.failing = {("sds", 1)}
    run(tmp_path, "a red cube")
    texts = read_texts(tmp_path)
    assert list(texts.values()) == ["a red cube"]
    for scene in texts:
        assert scene.endswith("-seed0")
        for arm in ("csd", "sds"):
            assert (tmp_path / "runs" / arm / scene / "colour").is_dir()


def test_finished_runs_are_not_run_again_and_more_are_added(tmp_path, runner):
    first = run(tmp_path, "a red cube", seeds=1)
    assert len(runner.configs) == 2
    assert run(tmp_path, "a red cube", seeds=1) == first
    assert len(runner.configs) == 2
    run(tmp_path, "a red cube", "a blue ball", seeds=2)
    assert len(runner.configs) == 8
    new = {(c.pipeline.prompt, c.pipeline.distillation, c.pipeline.seed) for c in runner.configs}
    assert len(new) == 8


def test_an_interrupted_run_is_made_anew_and_the_finished_ones_kept(tmp_path, runner):
    runner.interrupted_at = 3
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(list(tmp_path.glob("trials/*/colour"))) == 3
    assert len(list(tmp_path.glob("trials/*/half"))) == 1
    runner.interrupted_at = None
    run(tmp_path)
    assert len(runner.configs) == 8
    assert not list(tmp_path.glob("trials/*/half"))
    assert not list(tmp_path.rglob("*.part*"))


def test_failures_are_rows_and_are_not_run_again(tmp_path, runner):
    runner.failing = {("csd", 1), ("sds", 0), ("sds", 1)}
    text = run(tmp_path, "a red cube")
    assert "| csd | 2 | 1 | 1.000 | 0.000 |" in text
    assert "| sds | 2 | 2 |  |  |" in text
    assert "- a red cube, sds, seed 0: The object has vanished by step 60." in text
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["failure"] is None for row in rows] == [True, False, False, False]
    run(tmp_path, "a red cube")
    assert len(runner.configs) == 4


def test_a_picture_can_be_made_where_every_run_failed(tmp_path, runner):
    runner.failing = {("csd", 0)}
    run(tmp_path, "a corgi", arms=("csd",), seeds=1)
    assert Image.open(tmp_path / "objects.png").size[0] > 0


def test_the_picture_has_two_rows_a_prompt_and_a_column_a_run(tmp_path, runner):
    run(tmp_path)
    picture = np.array(Image.open(tmp_path / "objects.png")).astype(int)
    edge, label = 16 * 12, 18
    assert picture.shape == (2 * (2 * edge + label), 5 * edge, 3)
    rows = (slice(label, label + edge), slice(label + edge, label + 2 * edge))
    colour, lit = (picture[row, :edge] for row in rows)
    assert (colour[..., 0] > colour[..., 1] + 100).any()
    assert (colour >= lit).all()
    assert (colour > lit + 50).any()
    # The second prompt is not known: its first column is blank.
    assert (picture[2 * (edge + label) :, :edge] == 204).all()
    # Runs are rendered with one ray a pixel here, the truth with several.
    for row, truth in zip(rows, (colour, lit), strict=True):
        assert np.abs(picture[row, edge : 2 * edge] - truth).mean() < 12


@pytest.mark.parametrize("changes", [{"steps": 7}, {"prior": "other"}])
def test_runs_of_other_options_or_weights_are_not_reported(tmp_path, runner, changes):
    first = run(tmp_path, "a red cube", seeds=1)
    runner.failing = {("csd", 0), ("sds", 0)}
    assert "| csd | 1 | 1 |" in run(tmp_path, "a red cube", seeds=1, **changes)
    assert len(runner.configs) == 4
    assert run(tmp_path, "a red cube", seeds=1) == first
    assert len(runner.configs) == 4


def test_other_judges_judge_the_objects_that_are_there(tmp_path, runner, monkeypatch):
    clip = SimpleNamespace(
        image_features=lambda image01: image01.mean((2, 3)),
        text_features=lambda texts: torch.tensor([[1.0, 0.0, 0.0]] * len(texts)),
    )
    monkeypatch.setattr("csd_nerf.evaluation.clip.load_clip", lambda name, *, device: clip)
    run(tmp_path, "a red cube", seeds=1)
    text = run(tmp_path, "a red cube", seeds=1, clip="another")
    assert len(runner.configs) == 2
    (line,) = [line for line in text.splitlines() if line.startswith("| csd ")]
    similarity = float(line.split("|")[-3].replace("*", ""))
    colour01 = true_views("a red cube", size=16).image01.mean((2, 3)).numpy()
    assert similarity == pytest.approx(
        (colour01[:, 0] / np.linalg.norm(colour01, axis=1)).mean(), abs=2e-3
    )


def test_prompts_that_differ_in_signs_have_folders_of_their_own(tmp_path, runner):
    run(tmp_path, "a red cube", "A red cube!", arms=("sds",), seeds=1)
    assert len(list((tmp_path / "runs" / "sds").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": "no/such/folder"}, "CLIP needs a folder or a model that OpenCLIP knows"),
        ({"clip": "."}, "A CLIP folder needs open_clip_config.json"),
        (
            {"reference": Path("missing")},
            "--reference must be a folder of pictures, got missing|must exist, got missing",
        ),
        ({"reference": Path()}, "--reference needs two pictures or more, got 0"),
    ],
)
def test_missing_judges_are_found_before_anything_is_run(
    tmp_path, runner, monkeypatch, options, message
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises((ValueError, OSError), match=message):
        run(tmp_path / "out", **options)
    assert not runner.configs


def test_a_missing_prior_is_found_before_anything_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(text_to_3d, "train_and_render", Runner())
    with pytest.raises(OSError, match="no-such-prior"):
        run(tmp_path, prior=str(tmp_path / "no-such-prior" / "here"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ()}, "each once, got none"),
        ({"arms": ("csd", "csd")}, "each once, got csd csd"),
        ({"seeds": 0}, r"--seeds must be at least 1, got 0\."),
        ({"steps": 0}, r"--steps must be at least 1, got 0\."),
        ({"inception": Path("w.pth")}, r"--inception w.pth is for FID: add --reference DIR\."),
    ],
)
def test_wrong_options_are_told_in_a_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, "a red cube", **options)


def test_prompts_are_read_a_line_each(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# shapes\n\n a red cube \r\n  # more\na café\n".encode())
    assert read_prompts(path) == ("a red cube", "a café")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", ValueError, "--prompts needs a prompt or more, got none in .*; write one a line"),
        (b"# nothing\n\n", ValueError, "--prompts needs a prompt or more, got none in"),
        (b"\xff\xfe\x00", ValueError, "--prompts must be text in UTF-8"),
        (b"a corgi\na cube\na corgi", ValueError, "each prompt once, got 'a corgi' again"),
        (None, FileNotFoundError, "--prompts must be a text file, one prompt a line, got"),
    ],
)
def test_bad_files_of_prompts_are_told_of(tmp_path, content, error, message):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        read_prompts(path)


def test_the_command_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a red cube\n")
    with pytest.raises(SystemExit) as stop:
        command.main(
            f"text-to-3d --prompts {tmp_path}/p.txt --output {tmp_path}/out "
            "--method csd-dreamfusion-tiny --arms csd csd".split()
        )
    assert stop.value.code == 1
    assert capsys.readouterr().err == "benchmarks: --arms needs names, each once, got csd csd.\n"
    assert not (tmp_path / "out").exists()


def test_the_command_hands_its_options_on(tmp_path, runner, capsys):
    (tmp_path / "p.txt").write_text("a red cube\n")
    command.main(
        f"text-to-3d --prompts {tmp_path}/p.txt --output {tmp_path}/out --seeds 1 "
        "--method csd-dreamfusion-tiny --arms sds --steps 9 --prior tiny-text --device cpu".split()
    )
    (config,) = runner.configs
    assert (config.max_num_iterations, config.pipeline.distillation) == (9, "sds")
    out, err = capsys.readouterr()
    assert "### a red cube" in out
    assert "benchmarks: CLIP similarities are left out" in err


def test_a_gpu_that_is_not_there_is_told_of(tmp_path, runner, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"A device needs to be there, got cuda .* try cpu"):
        run(tmp_path, method="csd-dreamfusion")
    assert not runner.configs


needs_prior = pytest.mark.skipif(
    not (BUNDLED / "model_index.json").is_file(), reason="the bundled prior is not there"
)


@pytest.fixture
def small(monkeypatch):
    """Runs of the method itself, with small pictures."""

    def configured(*arguments: Any, **options: Any) -> Any:
        config: Any = object_config(*arguments, **options)
        config.result_size = 16
        return config

    monkeypatch.setattr(text_to_3d, "object_config", configured)


@needs_prior
def test_the_method_itself_is_run_and_measured(tmp_path, small):
    text = run(tmp_path, "a red cube", seeds=1, arms=("csd",), steps=3)
    assert "| csd | 1 | 0 |" in text
    (kept,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert kept["failure"] is None
    # Training begins with a ball in the middle: no cube, but near one.
    assert 0.5 < kept["overlap"] < 0.95
    assert list((tmp_path / "runs" / "csd").glob("*/csd-dreamfusion-tiny/run/config.yml"))
    assert list((tmp_path / "runs" / "csd").glob("*/log.txt"))


@needs_prior
def test_the_methods_own_collapse_is_a_row(tmp_path, small, monkeypatch):
    watch = "csd_nerf.methods.csd_dreamfusion.coverage"
    monkeypatch.setattr(f"{watch}.PATIENCE", 2)
    monkeypatch.setattr(f"{watch}.EMPTY", 0.99)
    text = run(tmp_path, "a red cube", seeds=1, arms=("sds",), steps=3)
    assert "| sds | 1 | 1 |" in text
    assert "- a red cube, sds, seed 0: The object has vanished by step 1: it covered" in text
