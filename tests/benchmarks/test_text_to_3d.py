from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import __main__ as cli
from benchmarks.paper.inputs import read_texts
from benchmarks.text_to_3d import run as text_to_3d
from benchmarks.text_to_3d import runs as text_to_3d_runs
from benchmarks.text_to_3d.measures import Judges, load_judges, measure
from benchmarks.text_to_3d.object_truth import (
    AMBIENT,
    VIEWS,
    best_overlap,
    colour_distance,
    knows,
    silhouette_overlap,
    true_views,
)
from benchmarks.text_to_3d.report import MEASURES, as_csv, markdown
from benchmarks.text_to_3d.run import TextTo3dSettings, read_prompts, run_text_to_3d
from benchmarks.text_to_3d.runs import (
    RunFailedError,
    RunViews,
    method_config,
    train_and_render,
)

SIZE = 48
BUNDLED = Path(text_to_3d.__file__).parents[1] / "assets" / "tiny_text"


def own_coverage(prompt: str, *, scale: float = 1.0, size: int = SIZE) -> torch.Tensor:
    return true_views(prompt, size=size, scale=scale, supersample=1).coverage


def slow_overlap(masks, candidates, max_shift):
    """The definition by loops over Python sets of pixels."""

    def pixels(mask):
        return {(int(y), int(x)) for y, x in mask.nonzero()}

    best = (-1.0, 0)
    steps = range(-max_shift, max_shift + 1)
    for index, candidate in enumerate(candidates):
        for down in steps:
            for right in steps:
                values = []
                for mask, other in zip(masks, candidate, strict=True):
                    moved = {(y + down, x + right) for y, x in pixels(other)}
                    values.append(len(pixels(mask) & moved) / len(pixels(mask) | moved))
                if sum(values) / len(values) > best[0]:
                    best = (sum(values) / len(values), index)
    return best


def at_shift(masks, candidate, shift):
    """Mean intersection over union at one shift, by numpy on a wide canvas."""
    values = []
    for mask, other in zip(masks.numpy(), candidate.numpy(), strict=True):
        edge = len(mask)
        canvas, moved = np.zeros((2, 3 * edge, 3 * edge), bool)
        canvas[edge : 2 * edge, edge : 2 * edge] = mask
        down, right = edge + shift[0], edge + shift[1]
        moved[down : down + edge, right : right + edge] = other
        values.append((canvas & moved).sum() / (canvas | moved).sum())
    return float(np.mean(values))


def test_the_best_overlap_is_that_of_a_search_by_loops():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 9, 9, generator=generator) < 0.4
    candidates = torch.rand(3, 2, 9, 9, generator=generator) < torch.tensor(
        [0.2, 0.5, 0.8]
    ).reshape(3, 1, 1, 1)
    value, index, shift = best_overlap(masks, candidates, max_shift=2)
    expected, expected_index = slow_overlap(masks, candidates, 2)
    assert value == pytest.approx(expected, abs=1e-12)
    assert index == expected_index
    assert value == pytest.approx(at_shift(masks, candidates[index], shift), abs=1e-12)


@pytest.mark.parametrize("place", [(0, 0), (0, 7), (7, 0), (7, 7)])
def test_pixels_at_the_border_do_not_come_back_on_the_other_side(place):
    mask, candidate = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[0, place[0], place[1]] = candidate[0, 7 - place[0], 7 - place[1]] = True
    assert best_overlap(mask, candidate[None], max_shift=3)[0] == 0
    assert best_overlap(mask, candidate[None], max_shift=7)[0] == 1


def test_a_known_shift_is_found_with_its_sign():
    mask, candidate = torch.zeros(2, 2, 12, 12, dtype=torch.bool)
    candidate[:, 3:6, 4:9] = True
    mask[:, 5:8, 3:8] = True
    assert best_overlap(mask, candidate[None], max_shift=3) == (1.0, 0, (2, -1))


@pytest.mark.parametrize("prompt", ["a red cube", "a blue ball", "a green cone", "a pink cylinder"])
def test_a_true_object_overlaps_with_itself_at_its_own_scale_and_place(prompt):
    found = silhouette_overlap(own_coverage(prompt), prompt)
    assert found.value == 1
    assert (found.scale, found.shift) == (1.0, (0, 0))


def test_softened_edges_hardly_matter():
    soft = true_views("a red cone", size=SIZE, supersample=3).coverage
    assert silhouette_overlap(soft, "a red cone").value > 0.97


@pytest.mark.parametrize(
    ("scale", "shift"), [(0.7, (3, -5)), (1.0, (-5, 6)), (1.2, (1, -2)), (1.5, (0, 0))]
)
def test_a_shifted_and_scaled_object_overlaps_with_the_truth(scale, shift):
    # Where they are shifted, none reaches the edge, so that rolling is shifting.
    moved = own_coverage("a red cube", scale=scale).roll(shift, dims=(1, 2))
    found = silhouette_overlap(moved, "a red cube")
    assert found.value == 1
    assert (found.scale, found.shift) == (scale, shift)


def test_a_scale_between_those_tried_overlaps_nearly():
    found = silhouette_overlap(own_coverage("a red cube", scale=1.025), "a red cube")
    assert 0.93 < found.value < 1
    assert found.scale in (1.0, 1.05)


def test_another_shape_overlaps_clearly_less():
    cube, ball = own_coverage("a red cube"), own_coverage("a red ball")
    assert 0.5 < silhouette_overlap(cube, "a red ball").value < 0.9
    assert silhouette_overlap(ball, "a red cube").value < 0.9
    assert silhouette_overlap(own_coverage("a red cone"), "a red ball").value < 0.85


def test_one_shift_holds_for_all_views():
    cube = own_coverage("a red cube")
    apart = torch.cat([cube[:6].roll(5, dims=2), cube[6:].roll(-5, dims=2)])
    assert silhouette_overlap(apart, "a red cube").value < 0.85


def test_nothing_rendered_overlaps_not_at_all():
    assert silhouette_overlap(torch.zeros(VIEWS, 16, 16), "a red cube").value == 0


def test_the_truth_is_seen_as_the_method_renders():
    """A sphere's silhouette by hand: its angle from the distance, the pinhole's focal length."""
    mask = own_coverage("a red ball", size=96)[0] > 0.5
    radius = 1.15 * 96 * 0.55 / math.sqrt(2.5**2 - 0.55**2)
    assert float(mask.sum()) == pytest.approx(math.pi * radius**2, rel=0.02)


def test_views_are_in_the_order_in_which_the_method_renders():
    """The method's cameras, and what of a cube they see: it repeats every quarter turn."""
    datamanager = pytest.importorskip("csd_nerf.methods.csd_dreamfusion.datamanager")
    from benchmarks.text_to_3d.object_truth import ELEVATION, FOCAL, RADIUS
    from csd_nerf.synthetic.cameras import Cameras
    from csd_nerf.synthetic.objects import render_objects, true_object

    azimuth = 2 * torch.pi * torch.arange(VIEWS) / VIEWS
    cameras = datamanager.orbit_cameras(
        azimuth, torch.full((VIEWS,), ELEVATION), radius=RADIUS, focal=FOCAL, size=SIZE
    )
    seen = render_objects(
        true_object("a red cube", views=VIEWS),
        Cameras(cameras.camera_to_worlds, cameras.fx[:, 0] / SIZE),
        size=SIZE,
        supersample=1,
    )
    assert (seen.coverage != own_coverage("a red cube")).float().mean() < 1e-3
    assert (seen.coverage.roll(1, 0) != own_coverage("a red cube")).float().mean() > 1e-3


def test_the_colour_is_that_of_covered_pixels_weighted_by_coverage():
    colour01 = torch.ones(2, 3, 4, 4)
    coverage = torch.zeros(2, 4, 4)
    # Red is (0.82, 0.10, 0.10): one pixel of it, one of half green's weight, one left out.
    coverage[0, 0, 0], colour01[0, :, 0, 0] = 1.0, torch.tensor([0.82, 0.10, 0.10])
    assert colour_distance(colour01, coverage, "a red cube") == pytest.approx(0, abs=1e-6)
    assert colour_distance(colour01, coverage, "a blue cube") == pytest.approx(
        math.dist((0.82, 0.10, 0.10), (0.10, 0.24, 0.82)), abs=1e-6
    )
    coverage[1, 2, 3], colour01[1, :, 2, 3] = 0.75, torch.tensor([0.12, 0.60, 0.16])
    coverage[1, 3, 3] = 0.5
    mean = [(a + 0.75 * b) / 1.75 for a, b in zip((0.82, 0.1, 0.1), (0.12, 0.6, 0.16), strict=True)]
    assert colour_distance(colour01, coverage, "a red cube") == pytest.approx(
        math.dist(mean, (0.82, 0.10, 0.10)), abs=1e-6
    )


def test_nothing_covered_has_no_colour():
    assert colour_distance(torch.ones(2, 3, 4, 4), torch.zeros(2, 4, 4), "a red cube") is None


def views_of(prompt: str, *, size: int = 16) -> RunViews:
    truth, lit = (true_views(prompt, size=size, ambient=ambient) for ambient in (1.0, AMBIENT))
    grey = truth.coverage[:, None].expand(-1, 3, -1, -1)
    return RunViews(truth.image01, lit.image01, grey, truth.coverage)


def test_only_known_objects_are_compared_with_the_truth():
    row = measure(views_of("a red cube"), "a red cube", Judges())
    assert row.keys() == {"overlap", "scale", "shift", "colour_distance"}
    assert row["overlap"] == 1
    assert row["colour_distance"] == pytest.approx(0, abs=1e-6)
    assert measure(views_of("a red cube"), "a corgi", Judges()) == {}


def test_clip_judges_colour_and_depth_views_and_fid_the_colours():
    """A stand-in whose features are the mean colour, and (1, 0, 0) for any text."""
    clip: Any = SimpleNamespace(
        image_features=lambda image01: image01.mean((2, 3)),
        text_features=lambda texts: torch.tensor([[1.0, 0.0, 0.0]] * len(texts)),
    )
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(VIEWS, 3, 8, 8)
    views = RunViews(red, red, torch.ones(VIEWS, 3, 8, 8), torch.ones(VIEWS, 8, 8))
    row = measure(views, "a corgi", Judges(clip, lambda image01: float(image01.mean())))
    assert row["clip_colour"] == pytest.approx(1)
    assert row["clip_geometry"] == pytest.approx(1 / math.sqrt(3))
    assert row["fid"] == pytest.approx(1 / 3)


def row(prompt: str, arm: str, seed: int, **values: Any) -> dict[str, Any]:
    return {"prompt": prompt, "arm": arm, "seed": seed, "failure": None, **values}


ROWS = [
    row("a red cube", "csd", 0, overlap=0.9, colour_distance=0.1),
    row("a red cube", "csd", 1, overlap=0.7, colour_distance=0.3),
    row("a red cube", "sds", 0, overlap=0.5, colour_distance=0.2),
    row("a red cube", "sds", 1) | {"failure": "The object has vanished by step 60."},
    row("a corgi", "csd", 0),
    row("a corgi", "csd", 1) | {"failure": "Renders need to be finite."},
    row("a corgi", "sds", 0),
    row("a corgi", "sds", 1),
]


def test_the_tables_show_means_deviations_and_failures():
    text = markdown(ROWS, MEASURES[:2])
    cube, corgi, both, failures = re.split(r"(?m)^### ", text)[1:]
    assert "| method | runs | failures | silhouette overlap ↑ | colour distance ↓ |" in cube
    assert "| csd | 2 | 0 | **0.800** ± 0.141 | **0.200** ± 0.141 |" in cube
    assert "| sds | 2 | 1 | 0.500 | **0.200** |" in cube
    assert "| csd | 2 | 1 |  |  |" in corgi
    assert "| sds | 2 | 0 |  |  |" in corgi
    assert both.startswith("All prompts")
    assert "| csd | 4 | 1 | **0.800** ± 0.141 |" in both
    assert "- a red cube, sds, seed 1: The object has vanished by step 60.\n" in failures
    assert "- a corgi, csd, seed 1: Renders need to be finite.\n" in failures


def test_one_prompt_needs_no_table_of_all():
    text = markdown(ROWS[:3], MEASURES[:2])
    assert "All prompts" not in text
    assert "Failures" not in text


def test_the_csv_has_a_line_for_each_prompt_and_arm():
    lines = list(csv.DictReader(as_csv(ROWS, MEASURES[:2]).splitlines()))
    assert [(line["prompt"], line["arm"]) for line in lines] == [
        ("a red cube", "csd"),
        ("a red cube", "sds"),
        ("a corgi", "csd"),
        ("a corgi", "sds"),
    ]
    assert [line["failures"] for line in lines] == ["0", "1", "1", "0"]
    assert float(lines[0]["overlap"]) == pytest.approx(0.8)
    assert float(lines[0]["overlap_deviation"]) == pytest.approx(math.sqrt(0.02))
    assert (lines[1]["overlap"], lines[1]["overlap_deviation"]) == ("0.5", "")
    assert lines[3]["overlap"] == ""


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
    monkeypatch.setattr(text_to_3d, "fetch", lambda name, *, kind: Path(name))
    return runner


def settings(*prompts: str, **options: Any) -> TextTo3dSettings:
    values = {"method": "csd-dreamfusion-tiny", "seeds": 2, **options}
    return TextTo3dSettings(prompts=prompts or ("a red cube", "a corgi"), **values)


def run(output: Path, asked: TextTo3dSettings) -> str:
    return run_text_to_3d(output, asked, note=lambda text: None)


def test_every_prompt_arm_and_seed_is_run_and_reported(tmp_path, runner):
    notes = []
    text = run_text_to_3d(tmp_path, settings(), note=notes.append)
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
    assert "| csd | 2 | 0 | **1.000** ± 0.000 | **0.000** ± 0.000 |  |  |" in text
    assert "FID" not in text
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["rows"]) == 8
    assert results["settings"]["steps"] == runner.configs[0].max_num_iterations
    assert results["settings"]["prior"] == "tiny-text"
    assert {"torch", "nerfstudio", "csd_nerf"} <= results["versions"].keys()
    assert (tmp_path / "results.csv").read_text().count("\n") == 5


def test_the_views_are_kept_as_table5_reads_them(tmp_path, runner):
    run(tmp_path, settings("a red cube", arms=("csd",), seeds=1))
    (folder,) = (tmp_path / "runs" / "csd").iterdir()
    for kind in ("colour", "depth"):
        assert len(list((folder / kind).glob("*.png"))) == VIEWS
    shown = np.array(Image.open(sorted((folder / "colour").glob("*.png"))[0]))
    expected = true_views("a red cube", size=16).image01[0].permute(1, 2, 0)
    assert np.abs(shown / 255 - expected.numpy()).max() < 0.003


def test_table5_finds_the_objects_that_no_arm_failed_to_make(tmp_path, runner):
    runner.failing = {("sds", 1)}
    run(tmp_path, settings("a red cube"))
    texts = read_texts(tmp_path)
    assert list(texts.values()) == ["a red cube"]
    for scene in texts:
        assert scene.endswith("-seed0")
        for arm in ("csd", "sds"):
            assert (tmp_path / "runs" / arm / scene / "colour").is_dir()


def test_finished_runs_are_not_run_again_and_more_are_added(tmp_path, runner):
    first = run(tmp_path, settings("a red cube", seeds=1))
    assert len(runner.configs) == 2
    assert run(tmp_path, settings("a red cube", seeds=1)) == first
    assert len(runner.configs) == 2
    run(tmp_path, settings("a red cube", "a blue ball", seeds=2))
    assert len(runner.configs) == 8
    new = {(c.pipeline.prompt, c.pipeline.distillation, c.pipeline.seed) for c in runner.configs}
    assert len(new) == 8


def test_an_interrupted_run_is_made_anew_and_the_finished_ones_kept(tmp_path, runner):
    runner.interrupted_at = 3
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, settings())
    assert len(list(tmp_path.rglob("result.json"))) == 3
    assert len(list(tmp_path.rglob("half"))) == 1
    runner.interrupted_at = None
    run(tmp_path, settings())
    assert len(runner.configs) == 8
    assert not list(tmp_path.rglob("half"))
    assert not list(tmp_path.rglob("*.part*"))


def test_failures_are_rows_and_are_not_run_again(tmp_path, runner):
    runner.failing = {("csd", 1), ("sds", 0), ("sds", 1)}
    text = run(tmp_path, settings("a red cube"))
    assert "| csd | 2 | 1 | 1.000 | 0.000 |" in text
    assert "| sds | 2 | 2 |  |  |" in text
    assert "- a red cube, sds, seed 0: The object has vanished by step 60." in text
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["failure"] is None for row in rows] == [True, False, False, False]
    run(tmp_path, settings("a red cube"))
    assert len(runner.configs) == 4


def test_a_picture_can_be_made_where_every_run_failed(tmp_path, runner):
    runner.failing = {("csd", 0)}
    run(tmp_path, settings("a corgi", arms=("csd",), seeds=1))
    assert Image.open(tmp_path / "objects.png").size[0] > 0


def test_the_picture_has_two_rows_a_prompt_and_a_column_a_run(tmp_path, runner):
    run(tmp_path, settings())
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


def test_the_true_object_is_lit_from_the_upper_left_of_every_camera():
    flat, lit = (true_views("a white ball", size=32, ambient=a) for a in (1.0, AMBIENT))
    assert torch.equal(flat.coverage, lit.coverage)
    share = (lit.image01 / flat.image01)[:, 0]
    upper_left, lower_right = share[:, 12, 12], share[:, 19, 19]
    assert (upper_left > lower_right + 0.2).all()
    inside = share[flat.coverage > 0.5]
    assert inside.min() >= AMBIENT - 1e-6
    assert inside.max() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"steps": 7}, "steps"), ({"prior": "other", "steps": 5}, "steps, prior")],
)
def test_other_settings_are_an_error_before_anything_is_run(tmp_path, runner, changes, names):
    run(tmp_path, settings("a red cube"))
    count = len(runner.configs)
    with pytest.raises(ValueError, match=rf"other settings of {names}; name another --output\."):
        run(tmp_path, settings("a blue ball", "a red cube", **changes))
    assert len(runner.configs) == count


def test_a_damaged_record_is_an_error(tmp_path, runner):
    run(tmp_path, settings("a red cube", seeds=1))
    next(tmp_path.rglob("result.json")).write_text("{")
    with pytest.raises(ValueError, match=r"can't be read as one; remove it to run anew\."):
        run(tmp_path, settings("a red cube", seeds=1))


def test_prompts_that_differ_in_signs_have_folders_of_their_own(tmp_path, runner):
    run(tmp_path, settings("a red cube", "A red cube!", arms=("sds",), seeds=1))
    assert len(list((tmp_path / "runs" / "sds").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": "no/such/folder"}, "CLIP needs a folder or a model that OpenCLIP knows"),
        ({"clip": "."}, "A CLIP folder needs open_clip_config.json"),
        ({"reference": Path("missing")}, "A folder of pictures must exist, got missing"),
        ({"reference": Path()}, "--reference needs 2 pictures or more, got 0"),
    ],
)
def test_missing_judges_are_found_before_anything_is_run(
    tmp_path, runner, monkeypatch, options, message
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises((ValueError, OSError), match=message):
        run(tmp_path / "out", settings(**options))
    assert not runner.configs


def test_a_missing_prior_is_found_before_anything_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(text_to_3d, "train_and_render", Runner())
    with pytest.raises(OSError, match="no-such-prior"):
        run(tmp_path, settings(prior=str(tmp_path / "no-such-prior" / "here")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("vsd",)}, r"--arms needs one or more of csd, sds, each once, got vsd\."),
        ({"arms": ()}, "each once, got none"),
        ({"arms": ("csd", "csd")}, "each once, got csd csd"),
        ({"method": "csd-edit"}, "--method must be one of csd-dreamfusion, csd-dreamfusion-tiny"),
        ({"seeds": 0}, r"--seeds must be at least 1, got 0\."),
        ({"steps": 0}, r"--steps must be at least 1, got 0\."),
        ({"device": "tpu"}, "--device must be cpu or cuda, got 'tpu'"),
        ({"inception": Path("w.pth")}, r"--inception w.pth is for FID: add --reference DIR\."),
    ],
)
def test_wrong_options_are_told_in_a_line(options, message):
    with pytest.raises(ValueError, match=message):
        settings("a red cube", **options)


def test_prompts_must_be_there_once():
    with pytest.raises(ValueError, match=r"--prompts needs a prompt or more, got none"):
        TextTo3dSettings(prompts=())
    with pytest.raises(ValueError, match="must name each prompt once, got 'a corgi' again"):
        settings("a corgi", "a red cube", "a corgi")


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
        cli.main(
            f"evaluate-text-to-3d --prompts {tmp_path}/p.txt --output {tmp_path}/out "
            "--method csd-dreamfusion-tiny --arms csd vsd".split()
        )
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("csd-nerf: --arms needs one or more of csd, sds")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_hands_its_options_on(tmp_path, runner, capsys):
    (tmp_path / "p.txt").write_text("a red cube\n")
    cli.main(
        f"evaluate-text-to-3d --prompts {tmp_path}/p.txt --output {tmp_path}/out --seeds 1 "
        "--method csd-dreamfusion-tiny --arms sds --steps 9 --prior tiny-text --device cpu".split()
    )
    (config,) = runner.configs
    assert (config.max_num_iterations, config.pipeline.distillation) == (9, "sds")
    out, err = capsys.readouterr()
    assert "### a red cube" in out
    assert "csd-nerf: CLIP similarities are left out" in err


def configured(tmp_path: Path, **options: Any) -> Any:
    values: dict[str, Any] = {
        "method": "csd-dreamfusion-tiny",
        "prompt": "a red cube",
        "arm": "csd",
        "seed": 4,
        "steps": 3,
        "prior": "tiny-text",
        "device": "cpu",
        **options,
    }
    return method_config(values.pop("method"), tmp_path / "run", **values)


def test_shorter_runs_keep_the_shares_of_their_phases(tmp_path):
    whole = configured(tmp_path, method="csd-dreamfusion", steps=10_000)
    half = configured(tmp_path, method="csd-dreamfusion", steps=5_000)
    schedule = [c.optimizers["fields"]["scheduler"] for c in (whole, half)]
    assert (schedule[0].warmup_steps, schedule[0].max_steps) == (2000, 10_000)
    assert (schedule[1].warmup_steps, schedule[1].max_steps) == (1000, 5_000)
    assert (whole.pipeline.albedo_steps, half.pipeline.albedo_steps) == (1000, 500)
    shortest = configured(tmp_path, method="csd-dreamfusion", steps=1)
    assert shortest.optimizers["fields"]["scheduler"].warmup_steps == 1


def test_arms_differ_in_the_distillation_alone(tmp_path):
    csd, sds = (dataclasses.asdict(configured(tmp_path, arm=arm)) for arm in ("csd", "sds"))
    assert csd["pipeline"].pop("distillation") == "csd"
    assert sds["pipeline"].pop("distillation") == "sds"
    assert str(csd) == str(sds)
    assert csd["machine"]["seed"] == csd["pipeline"]["seed"] == 4


def test_the_registered_config_is_left_as_it_was(tmp_path):
    before = str(text_to_3d_runs.preset("csd-dreamfusion-tiny"))
    configured(tmp_path)
    assert str(text_to_3d_runs.preset("csd-dreamfusion-tiny")) == before


class Trainer:
    """Fails as the method's trainer does."""

    def __init__(self, error: BaseException, cause: BaseException | None = None) -> None:
        self.error, self.cause, self.callbacks = error, cause, []

    def train(self) -> None:
        if self.cause is None:
            raise self.error
        try:
            raise self.cause
        except Exception:
            raise self.error from None


@pytest.mark.parametrize(
    "trainer",
    [
        Trainer(FloatingPointError("It\nvanished.")),
        Trainer(SystemExit("csd-dreamfusion: It vanished.")),
        Trainer(SystemExit("csd-dreamfusion: It vanished."), FloatingPointError("It vanished.")),
    ],
)
def test_a_collapse_is_a_failure(tmp_path, monkeypatch, trainer):
    with pytest.raises(RunFailedError, match=r"^It vanished\.$"):
        started(trainer, tmp_path, monkeypatch)


@pytest.mark.parametrize("cause", [ValueError("a mistake"), OSError("no weights")])
def test_a_mistake_is_no_failure(tmp_path, monkeypatch, cause):
    trainer = Trainer(SystemExit(f"csd-dreamfusion: {cause}"), cause)
    with pytest.raises(ValueError, match=f"^{cause}$"):
        started(trainer, tmp_path, monkeypatch)


def started(trainer: Trainer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunViews:
    from contextlib import nullcontext

    monkeypatch.setattr(text_to_3d_runs, "quiet_trainer", lambda config, log: nullcontext(trainer))
    config: Any = None
    return train_and_render(config, folder, on_step=lambda: None)


def test_fid_is_that_of_the_references_features(tmp_path, monkeypatch):
    """With the mean colour as the features, and covariances by numpy."""
    from scipy.linalg import sqrtm

    generator = np.random.default_rng(0)
    for index in range(6):
        pixels = generator.integers(0, 256, (5 + index, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    monkeypatch.setattr(
        "csd_nerf.evaluation.fid.load_inception",
        lambda weights, device: lambda image01: image01.mean((2, 3)),
    )
    judges = load_judges(clip=None, reference=tmp_path, inception=None, device="cpu")
    assert judges.fid is not None
    mine = torch.rand(VIEWS, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    first = mine.double().mean((2, 3)).numpy()
    pictures = [np.array(Image.open(path)) / 255 for path in sorted(tmp_path.glob("*.png"))]
    second = np.stack([picture.mean((0, 1)) for picture in pictures])
    covariances = [np.cov(x, rowvar=False) for x in (first, second)]
    mixed = np.trace(np.real(sqrtm(covariances[0] @ covariances[1])))
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum()
    expected += sum(np.trace(c) for c in covariances) - 2 * mixed
    assert judges.fid(mine) == pytest.approx(expected, abs=1e-5)


def test_a_gpu_that_is_not_there_is_told_of(tmp_path, runner, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"--device needs one that is there, got cuda .* try cpu"):
        run(tmp_path, settings(method="csd-dreamfusion"))
    assert not runner.configs


needs_prior = pytest.mark.skipif(
    not (BUNDLED / "model_index.json").is_file(), reason="the bundled prior is not there"
)


@pytest.fixture
def small(monkeypatch):
    """Runs of the method itself, with small pictures."""

    def configured(*arguments: Any, **options: Any) -> Any:
        config: Any = method_config(*arguments, **options)
        config.result_size = 16
        return config

    monkeypatch.setattr(text_to_3d, "method_config", configured)


@needs_prior
def test_the_method_itself_is_run_and_measured(tmp_path, small):
    text = run(tmp_path, settings("a red cube", seeds=1, arms=("csd",), steps=3))
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
    text = run(tmp_path, settings("a red cube", seeds=1, arms=("sds",), steps=3))
    assert "| sds | 1 | 1 |" in text
    assert "- a red cube, sds, seed 0: The object has vanished by step 1: it covered" in text
