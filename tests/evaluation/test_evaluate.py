from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from csd_nerf import cli
from csd_nerf.evaluation import clip, fid, similarity
from csd_nerf.evaluation.evaluate import run_evaluate
from csd_nerf.evaluation.inputs import at_work_size
from csd_nerf.evaluation.options import EvaluateSettings
from csd_nerf.evaluation.similarity import Lpips, psnr, ssim
from csd_nerf.synthetic.dataset import SceneSettings, write_dataset

FACTS = {"work_size": [32, 16], "canvas_cells": [8, 4], "window_cells": [4, 4], "stride_cells": 4}


class Difference(torch.nn.Module):
    """In the place of LPIPS's network."""

    def forward(self, image01, other01, normalize):
        return (image01 - other01).abs().mean(dim=(1, 2, 3), keepdim=True)


class Networks:
    """Stand-ins whose results can be computed by hand."""

    def image_features(self, image01, max_batch=16):
        assert len(image01) <= max_batch
        return torch.nn.functional.normalize(image01.mean(dim=(2, 3)), dim=1)

    def text_features(self, texts):
        return torch.eye(3)[[len(text) % 3 for text in texts]]

    def inception(self, image01):
        return image01.mean(dim=(2, 3)).double()


@pytest.fixture
def offline(monkeypatch):
    """No weights can be had."""

    def missing(*_, **__):
        raise FileNotFoundError("No weights here;\nfetch them.")

    monkeypatch.setattr(similarity, "load_lpips", missing)
    monkeypatch.setattr(clip, "load_clip", missing)
    monkeypatch.setattr(fid, "load_inception", missing)


@pytest.fixture
def networks(monkeypatch):
    made = Networks()
    lpips = Lpips(Difference(), torch.device("cpu"))
    monkeypatch.setattr(similarity, "load_lpips", lambda device: lpips)
    monkeypatch.setattr(clip, "load_clip", lambda name, device: made)
    monkeypatch.setattr(fid, "load_inception", lambda weights, device: made.inception)


def save(path, array):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def save_frames(folder, values, size=(16, 32)):
    """Grey frames."""
    for k, value in enumerate(values):
        save(folder / f"{k}.png", np.full((*size, 3), value))
    return folder


def measured(tmp_path, notes=None, *, overwrite=True, **options):
    """Values and reasons of the only run."""
    output = tmp_path / "out" / "r.json"
    settings = EvaluateSettings(output=output, overwrite=overwrite, **options)
    told = [] if notes is None else notes
    run_evaluate(settings, note=told.append)
    (run,) = json.loads((tmp_path / "out" / "r.json").read_text())["runs"].values()
    return run["values"], run["left_out"]


def test_a_picture_with_its_record_is_measured_by_hand(tmp_path, offline):
    """The negative of 100 is 155; the second window is 10 too bright, a step at its border."""
    source, edited = tmp_path / "source.png", tmp_path / "edited.png"
    save(source, np.full((16, 32, 3), 100))
    array = np.full((16, 32, 3), 155)
    array[:, 16:] += 10
    save(edited, array)
    (tmp_path / "edited.png.json").write_text(json.dumps({"facts": FACTS}))
    values, _ = measured(tmp_path, source=source, edited=(str(edited),), look="negative")
    assert values["psnr_source"] == pytest.approx(-20 * np.log10(55 / 255), abs=1e-4)
    assert values["psnr_edited"] == pytest.approx(-10 * np.log10(0.5 * (10 / 255) ** 2), abs=1e-4)
    assert values["seams"] == pytest.approx(10 / 255, abs=1e-4)


@pytest.mark.parametrize(
    ("record", "around"),
    [
        ({"facts": FACTS | {"wrap": True}}, True),
        ({"facts": FACTS, "settings": {"wrap": True}}, True),
        ({"facts": FACTS | {"wrap": False}, "settings": {"wrap": True}}, False),
        ({"facts": FACTS}, False),
    ],
)
def test_a_wrapped_panorama_is_measured_across_its_edges(tmp_path, offline, record, around):
    """An error that rises by 1 a column: its only step, 32 less the slope, is where edges meet."""
    source, edited = tmp_path / "source.png", tmp_path / "edited.png"
    save(source, np.full((16, 32, 3), 100))
    array = np.broadcast_to(155 + np.arange(32)[None, :, None], (16, 32, 3))
    save(edited, array)
    (tmp_path / "edited.png.json").write_text(json.dumps(record))
    values, _ = measured(tmp_path, source=source, edited=(str(edited),), look="negative")
    # The mean of this border and of the one between the windows.
    assert values["seams"] == pytest.approx((32 / 2 if around else 0) / 255, abs=1e-4)
    pair = (
        torch.from_numpy(array / 255).permute(2, 0, 1)[None],
        torch.full((1, 3, 16, 32), 155 / 255),
    )
    assert abs(ssim(*pair, wrap=True) - ssim(*pair)) > 1e-4
    assert values["ssim_edited"] == pytest.approx(ssim(*pair, wrap=around), abs=1e-5)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_wrapped_panorama_is_resized_across_its_edges(wrap):
    """Shrunken by two, the first column gets some of the last one."""
    image01 = torch.zeros(1, 3, 16, 32)
    image01[..., -1] = 1
    small = at_work_size(image01, {"work_size": [16, 8], "wrap": wrap})
    assert bool(small[..., 0].abs().max() > 0.05) == wrap


def test_a_video_is_measured_by_hand(tmp_path, offline):
    """Still frames, of which the edit of one is 30 brighter than of the others."""
    source = save_frames(tmp_path / "frames", [100, 100, 100])
    edited = save_frames(tmp_path / "edited", [155, 155, 185])
    values, left_out = measured(tmp_path, source=source, edited=(str(edited),), look="invert it")
    assert values["flicker"] == values["extra_change"] == pytest.approx(15 / 255, abs=1e-4)
    assert values["extra_change_of_truth"] == 0
    assert "seams" in left_out
    # That of the one frame that isn't exact.
    assert values["psnr_edited"] == pytest.approx(-20 * np.log10(30 / 255), abs=1e-4)
    exact = save_frames(tmp_path / "exact", [155, 155, 155])
    _, left_out = measured(tmp_path, source=source, edited=(str(exact),), look="invert it")
    assert left_out["psnr_edited"] == "it equals the truth: the PSNR is infinite"


def test_the_record_says_which_frames_and_what_size_are_compared(tmp_path, offline):
    """Of five frames the edit took every second; at half the size, grain disappears."""
    source = save_frames(tmp_path / "frames", [10, 200, 30, 200, 50])
    edited = save_frames(tmp_path / "edited", [10, 30, 50])
    chess = np.indices((16, 32)).sum(axis=0)[..., None] % 2
    save(edited / "1.png", 60 * chess.repeat(3, axis=-1))
    record = {"facts": {"work_size": [16, 8], "frames": 3}}
    (tmp_path / "edited.json").write_text(json.dumps(record))
    options = {"source": source, "edited": (str(edited),), "truth": None}
    values, _ = measured(tmp_path, **options)
    (tmp_path / "edited.json").write_text(json.dumps({"facts": {"frames": 3}}))
    full, _ = measured(tmp_path, **options)
    assert abs(values["extra_change"]) < 0.005
    # From 10 to 0 and to 60, and on to 50: 30 in the mean instead of 20.
    assert full["extra_change"] == pytest.approx(10 / 255, abs=1e-4)


def test_a_truth_of_frames_is_compared_frame_by_frame(tmp_path, offline):
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.integers(0, 255, (3, 24, 20, 3)) for name in ("source", "edited", "truth")
    }
    for name, frames in arrays.items():
        for k, frame in enumerate(frames):
            save(tmp_path / name / f"{k}.png", frame)
    values, _ = measured(
        tmp_path,
        source=tmp_path / "source",
        edited=(str(tmp_path / "edited"),),
        truth=tmp_path / "truth",
    )
    image01 = {name: torch.from_numpy(a).permute(0, 3, 1, 2) / 255 for name, a in arrays.items()}
    changes = {name: image.diff(dim=0) for name, image in image01.items()}
    for which in ("source", "edited"):
        assert values[f"psnr_{which}"] == pytest.approx(
            psnr(image01[which], image01["truth"]), abs=1e-4
        )
        assert values[f"ssim_{which}"] == pytest.approx(
            ssim(image01[which], image01["truth"]), abs=1e-4
        )
    flicker = (changes["edited"] - changes["truth"]).abs().mean()
    assert values["flicker"] == pytest.approx(float(flicker), abs=1e-4)


def test_learned_measures_get_the_images_that_they_compare(tmp_path, networks):
    source = save_frames(tmp_path / "source", [0, 0])
    edited, truth = tmp_path / "edited", save_frames(tmp_path / "truth", [51, 51], size=(64, 80))
    for k, colour in enumerate(((255, 0, 0), (0, 0, 255))):
        save(edited / f"{k}.png", np.full((64, 80, 3), colour))
        save(source / f"{k}.png", np.full((64, 80, 3), (255, 0, 0)))
    values, left_out = measured(
        tmp_path,
        source=source,
        edited=(str(edited),),
        truth=truth,
        source_caption="red",
        edited_caption="blue",
        reference=source,
    )
    assert values["lpips_edited"] == pytest.approx((0.8 + 0.2 + 0.2) / 3, abs=1e-5)
    assert values["frame_lpips"] == pytest.approx(2 / 3, abs=1e-5)
    assert values["clip_consistency"] == pytest.approx(0, abs=1e-5)
    assert values["clip_source"] == pytest.approx(0.5, abs=1e-5)
    # The caption of the edit is the second axis, green: no frame shows it.
    assert values["clip_text"] == pytest.approx(0, abs=1e-5)
    assert "clip_direction" in values
    # Means differ by (1/2, 0, -1/2); the reference doesn't vary, so that the edit's variances,
    # 1/2 in red and in blue, are what is left of the traces.
    assert values["fid"] == pytest.approx(0.5 + 1.0, abs=1e-4)
    assert set(left_out) == {"seams", "cross_view_source", "cross_view_edited", "cross_view_seen"}


def test_several_runs_stand_side_by_side(tmp_path, offline, capsys):
    source = save_frames(tmp_path / "source", [100, 100])
    good = save_frames(tmp_path / "good", [150, 151])
    bad = save_frames(tmp_path / "bad", [200, 220])
    output = tmp_path / "out" / "results.json"
    cli.main(
        f"evaluate --source {source} --edited ours={good} {bad} --look negative "
        f"--output {output}".split()
    )
    told = capsys.readouterr()
    rows = list(csv.DictReader(output.with_suffix(".csv").open()))
    results = json.loads(output.read_text())
    assert [row["run"] for row in rows] == [*results["runs"]] == ["ours", "bad"]
    for row in rows:
        assert float(row["flicker"]) == results["runs"][row["run"]]["values"]["flicker"]
    assert told.out == output.with_suffix(".md").read_text()
    assert "| ours | " in told.out
    assert "booktabs" not in told.out
    assert "\\toprule" in output.with_suffix(".tex").read_text()
    assert Image.open(output.with_suffix(".png")).format == "PNG"
    assert results["settings"]["look"] == "negative"
    assert torch.__version__.startswith(results["versions"]["torch"])
    assert sorted(path.suffix for path in output.parent.iterdir()) == sorted(
        [".json", ".csv", ".md", ".tex", ".png"]
    )


def test_missing_weights_are_one_line_each_and_the_rest_is_measured(tmp_path, offline):
    source = save_frames(tmp_path / "source", [100, 100])
    edited = save_frames(tmp_path / "edited", [150, 151])
    notes: list[str] = []
    values, left_out = measured(
        tmp_path, notes, source=source, edited=(str(edited),), look="negative", reference=source
    )
    assert len(notes) == 3
    assert all(note.endswith("left out: No weights here; fetch them.") for note in notes)
    assert {"psnr_edited", "ssim_edited", "flicker"} <= {*values}
    for name in ("lpips_edited", "frame_lpips", "clip_source", "clip_text", "fid"):
        assert left_out[name] == "No weights here; fetch them."
    assert not {*values} & {*left_out}


def test_unequal_sizes_leave_out_what_compares_pixels(tmp_path, networks):
    source = save_frames(tmp_path / "source", [100, 100], size=(64, 80))
    edited = save_frames(tmp_path / "edited", [150, 151], size=(64, 64))
    notes: list[str] = []
    values, left_out = measured(
        tmp_path, notes, source=source, edited=(str(edited),), look="negative"
    )
    assert len(notes) == 2
    assert "got 80 x 64 in the truth and 64 x 64 in the edit; resize one" in notes[0]
    assert {"psnr_edited", "lpips_edited", "flicker", "extra_change"} <= {*left_out}
    assert {"psnr_source", "clip_consistency", "frame_lpips"} <= {*values}


def test_what_images_are_too_small_for_is_left_out(tmp_path, offline):
    save_frames(tmp_path / "source", [100], size=(8, 8))
    path = tmp_path / "source" / "0.png"
    values, left_out = measured(tmp_path, source=path, edited=(str(path),), look="negative")
    assert left_out["ssim_edited"].startswith("SSIM needs images of at least 11x11")
    assert values["psnr_edited"] > 0


def test_a_scene_with_depth_is_measured_across_views(tmp_path, offline):
    data = write_dataset(tmp_path / "s", SceneSettings(scene=3, views=40, size=24), edit="sepia")
    flickering = tmp_path / "flickering"
    for k, path in enumerate(sorted((data / "edited").iterdir())):
        save(flickering / path.name, np.array(Image.open(path)) * (0.6 if k % 2 else 1.0))
    output = tmp_path / "r.json"
    edits = (f"a={data / 'edited'}", f"b={flickering}")
    run_evaluate(EvaluateSettings(source=data, edited=edits, output=output), note=lambda _: None)
    true, bad = (run["values"] for run in json.loads(output.read_text())["runs"].values())
    assert 0.4 < true["cross_view_seen"] == bad["cross_view_seen"] < 1
    assert true["cross_view_source"] == bad["cross_view_source"]
    assert true["cross_view_edited"] < 0.05
    assert bad["cross_view_edited"] > 3 * true["cross_view_edited"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--look fog", "--look needs a look"),
        ("--look sepia --truth TMP/source.png", "The true edit is --truth or --look, got both"),
        ("--source-caption cat", "needs both --source-caption and --edited-caption"),
        ("--device tpu9", "A device needs a name such as cpu"),
        ("--depth-unit 0", "--depth-unit must be positive, got 0.0"),
        ("--edited TMP/none.png", "none.png, which does not exist"),
        ("--edited TMP/edited.png TMP/edited.png", "Edits need names of their own"),
        ("--edited TMP/three", "as many frames as its source, 1, got 3"),
        ("--truth TMP/three", "as many frames as the truth, 3, got 1"),
        ("--output TMP/r.csv", "--output must end in .json"),
        ("--reference TMP/source.png", "--reference must be a folder of pictures"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, capsys, offline, options, message):
    save(tmp_path / "source.png", np.full((16, 32, 3), 100))
    save(tmp_path / "edited.png", np.full((16, 32, 3), 150))
    save_frames(tmp_path / "three", [1, 2, 3])
    edited = "" if "--edited " in options else "--edited TMP/edited.png"
    base = f"--source TMP/source.png {edited} --output TMP/r.json"
    given = f"evaluate {base} {options}".replace("TMP", str(tmp_path)).split()
    with pytest.raises(SystemExit) as stop:
        cli.main(given)
    assert stop.value.code == 1
    told = capsys.readouterr().err.splitlines()
    assert message in told[-1]
    assert not [*tmp_path.glob("r.*")]


def test_an_evaluation_replaces_no_other_files_and_no_input(tmp_path, offline):
    source = tmp_path / "out" / "r.png"
    save(source, np.full((16, 32, 3), 100))
    with pytest.raises(ValueError, match=r"must not be a file that is written, got .*r.png"):
        measured(tmp_path, source=source, edited=(str(source),), overwrite=True)
    other = tmp_path / "x.png"
    save(other, np.full((16, 32, 3), 100))
    given = {"source": other, "edited": (str(other),), "look": "negative"}
    with pytest.raises(FileExistsError, match=r"got .*r.png; pass --overwrite"):
        measured(tmp_path, **given, overwrite=False)
    source.unlink()
    measured(tmp_path, **given, overwrite=False)
    with pytest.raises(FileExistsError, match=r"got .*r.json; pass --overwrite"):
        measured(tmp_path, **given, overwrite=False)
    measured(tmp_path, **given)
