"""Sets of pictures, from pictures to pictures and from file to file, by the bundled prior."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd_nerf import cli, priors
from csd_nerf.adapters.options import ImageOptions, VideoOptions
from csd_nerf.adapters.picture_set import edit_pictures
from csd_nerf.adapters.pictures import Picture
from csd_nerf.adapters.presets import image_values
from csd_nerf.adapters.reporter import SilentReporter
from csd_nerf.adapters.video import edit_frames
from csd_nerf.media.images import read_raster
from csd_nerf.media.rasters import Raster

pytestmark = pytest.mark.usefixtures("coarse_kernel")

METHODS = ["csd", "csd-no-stein", "sds", "ip2p"]


@pytest.fixture(scope="module")
def tiny():
    return priors.load("tiny")


def options(**changes: Any) -> ImageOptions:
    few = {"prompt": "make it night", "iterations": 3, "steps": 3, "size": 32}
    return ImageOptions(**{"preset": "tiny", **few, **changes})


def image(seed: int, size: tuple[int, int] = (30, 47)) -> Tensor:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(coarse).resize(size[::-1])))


def set_of(*images: Tensor) -> list[Picture]:
    return [
        Picture(f"{n}.png", (one.shape[0], one.shape[1]), lambda one=one: Raster.of(one))
        for n, one in enumerate(images)
    ]


def edited(prior: Any, images: list[Tensor], asked: ImageOptions, **how: Any):
    """Results in the order of the pictures, and the facts."""
    results: dict[int, Tensor] = {}

    def keep(number: int, result: Raster) -> None:
        results[number] = result.pixels

    facts = edit_pictures(prior, set_of(*images), asked, keep, **how)
    return [results[n] for n in range(len(images))], facts


@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_one_size_are_edited_as_the_frames_of_a_video(tiny, method):
    frames = torch.stack([image(seed) for seed in range(5)])
    asked = {"prompt": "make it night", "method": method, "iterations": 3, "steps": 3, "batch": 2}
    asked |= {"preset": "tiny", "size": 32, "seed": 4}
    video, of_video = edit_frames(tiny, frames, VideoOptions(**asked))
    results, facts = edited(tiny, [*frames], ImageOptions(**asked))
    assert torch.equal(torch.stack(results), video)
    assert facts["evaluations"] == of_video["evaluations"]
    json.dumps(facts)


def test_pictures_of_other_shapes_are_groups_with_their_own_scores(tiny):
    wide, high = [image(0), image(1), image(2)], [image(3, (50, 31)), image(4, (100, 62))]
    mixed = [wide[0], high[0], wide[1], high[1], wide[2]]
    results, facts = edited(tiny, mixed, options())
    assert [one.shape for one in results] == [one.shape for one in mixed]
    assert [g["pictures"] for g in facts["groups"]] == [
        ["0.png", "2.png", "4.png"],
        ["1.png", "3.png"],
    ]
    assert [g["work_size"] for g in facts["groups"]] == [[32, 16], [16, 32]]
    assert facts["groups"][1]["input_sizes"] == [[31, 50], [62, 100]]
    assert [g["iterations"] for g in facts["groups"]] == [3, 3]
    # The first group doesn't know of the second, and shares its scores.
    alone, _ = edited(tiny, wide, options())
    for n, one in zip((0, 2, 4), alone, strict=True):
        assert torch.equal(results[n], one)
    single, _ = edited(tiny, wide[:1], options())
    assert not torch.equal(single[0], results[0])
    assert any("groups of one size" in notice for notice in facts["notices"])


def test_results_go_where_the_instruction_says(tiny):
    pictures = [image(0), image(1, (60, 40))]
    results, _ = edited(tiny, pictures, options(iterations=20, size=48))
    for before, after in zip(pictures, results, strict=True):
        assert after.float().mean() < 0.8 * before.float().mean()


def test_what_is_cut_from_an_overlong_prompt_to_avoid_is_told(tiny):
    _, facts = edited(tiny, [image(0)], options(negative_prompt="make it foggy " * 40))
    assert any("foggy' is cut off" in notice for notice in facts["notices"])


@pytest.mark.parametrize("method", ["csd", "ip2p"])
def test_a_seed_gives_the_same_pictures_and_another_seed_others(tiny, method):
    pictures = [image(0), image(1, (60, 40))]
    asked = options(method=method)
    first, again = edited(tiny, pictures, asked)[0], edited(tiny, pictures, asked)[0]
    other = edited(tiny, pictures, options(method=method, seed=1))[0]
    for one, same, differs in zip(first, again, other, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, differs)


class Stopping(SilentReporter):
    """Keeps the states in the form of files, and stops after one of them."""

    def __init__(self, stop_after: int | None = None, state: Any = None) -> None:
        self.stop_after, self.state = stop_after, state
        self.begun: list[tuple[str, int, int]] = []
        self.previews: list[Tensor] = []

    def restored(self):
        return self.state

    def begin(self, label, total, *, done=0):
        self.begun.append((label, total, done))

    def tick(self, done, *, state=None, preview=None):
        if preview is not None:
            self.previews.append(preview())
        if state is not None and done == self.stop_after:
            file = io.BytesIO()
            torch.save(state(), file)
            file.seek(0)
            self.state = {**torch.load(file, weights_only=True), "done": done}
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["csd", "ip2p"])
@pytest.mark.parametrize("stop_after", [2, 3, 4, 5])
def test_an_interrupted_set_goes_on_to_the_same_pictures(tiny, method, stop_after):
    pictures = [image(0), image(1, (60, 40)), image(2)]
    asked = options(method=method, batch=1)
    whole, facts = edited(tiny, pictures, asked)
    stopped = Stopping(stop_after)
    with pytest.raises(KeyboardInterrupt):
        edited(tiny, pictures, asked, reporter=stopped)
    going_on = Stopping(state=stopped.state)
    resumed, facts_now = edited(tiny, pictures, asked, reporter=going_on)
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one, other)
    assert facts_now["evaluations"] == facts["evaluations"]
    label, total, done = going_on.begun[2]
    assert (label, done) == ("sample" if method == "ip2p" else "edit", stop_after)
    assert total >= 6


def test_previews_are_of_the_group_that_is_being_edited(tiny):
    reporter = Stopping()
    edited(tiny, [image(0), image(1, (60, 40)), image(2)], options(), reporter=reporter)
    assert [tuple(one.shape[:2]) for one in reporter.previews] == [(16, 64)] * 3 + [(32, 16)] * 3


def test_steps_do_not_depend_on_the_number_of_pictures():
    """With the row sum, alike pictures move as one picture alone would."""
    values = image_values("full", "csd")
    assert (values["normalize"], values["batch"], values["mixing"]) == ("rowsum", None, "stein")
    assert image_values("full", "csd-no-stein")["learning_rate"] == values["learning_rate"]


def save(path: Path, seed: int = 0, size: tuple[int, int] = (64, 80), **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image(seed, size).numpy()).save(path, **how)
    return path


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str]:
        """Exit code and what went to stderr."""
        quick = (
            "--preset",
            "tiny",
            "--prompt",
            "make it night",
            "--iterations",
            "2",
            "--size",
            "32",
        )
        code = 0
        try:
            cli.main(["image", *map(str, words), *quick])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return run


def test_one_picture_becomes_one_file_with_its_record_and_its_metadata(run, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a vase"
    source = save(tmp_path / "a.jpg", exif=exif)
    assert run(source, "--output", "out.jpg")[0] == 0
    assert Image.open("out.jpg").size == (80, 64)
    assert Image.open("out.jpg").getexif()[0x010E] == "a vase"
    assert read_raster(Path("out.jpg")).metadata == read_raster(source).metadata
    record = json.loads(Path("out.jpg.json").read_text())
    assert record["input"]["path"] == str(source)
    assert record["facts"]["groups"][0]["pictures"] == ["a.jpg"]
    assert record["settings"]["prompt"] == "make it night"
    assert {path.name for path in tmp_path.iterdir()} == {"a.jpg", "out.jpg", "out.jpg.json"}


def test_each_of_several_results_has_the_metadata_of_its_own_picture(run, tmp_path):
    for name in ("a", "b"):
        exif = Image.Exif()
        exif[0x010E] = f"vase {name}"
        save(tmp_path / f"in/{name}.jpg", exif=exif)
    assert run("in", "--output", "out")[0] == 0
    told = [Image.open(f"out/{name}.jpg").getexif()[0x010E] for name in ("a", "b")]
    assert told == ["vase a", "vase b"]


def test_several_inputs_become_a_folder_of_results_named_like_them(run, tmp_path):
    first, second = save(tmp_path / "in/2.bmp", 1), save(tmp_path / "in/10.png", 2, (90, 50))
    single = save(tmp_path / "third.webp", 3)
    assert run("in", single, "--output", "out")[0] == 0
    assert {path.name for path in Path("out").iterdir()} == {"2.png", "10.png", "third.webp"}
    assert Image.open("out/10.png").size == (50, 90)
    record = json.loads(Path("out.json").read_text())
    assert record["input"]["path"] == [
        str(p) for p in (Path("in/2.bmp"), Path("in/10.png"), single)
    ]
    assert [g["pictures"] for g in record["facts"]["groups"]] == [
        ["2.bmp", "third.webp"],
        ["10.png"],
    ]
    # Each is the edit of its own picture, and all are edited together.
    for source, result in ((first, "2.png"), (second, "10.png"), (single, "third.webp")):
        before, after = (
            np.asarray(Image.open(p).convert("RGB")) for p in (source, f"out/{result}")
        )
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.7
    assert run(first, "--output", "alone.png")[0] == 0
    assert Path("alone.png").read_bytes() != Path("out/2.png").read_bytes()


def test_a_finished_set_is_kept_and_an_input_that_changed_is_told(run, tmp_path):
    save(tmp_path / "in/a.png", 1)
    save(tmp_path / "in/b.png", 2)
    assert run("in", "--output", "out")[0] == 0
    assert run("in", "--output", "out")[0] == 1
    assert run("in", "--output", "out", "--resume")[0] == 0
    save(tmp_path / "in/b.png", 3)
    code, told = run("in", "--output", "out", "--resume")
    assert (code, "an input of other contents" in told) == (1, True)
    assert run("in", "--output", "out", "--overwrite")[0] == 0


MISTAKES = {
    "a.png b.png --output out.png": "--output must be a folder for several pictures",
    "in --output out.png": "--output must be a folder for several pictures",
    "a.png in/a.png --output out": "Inputs need names of their own",
    "in --output in": "The output must not be the input",
    "empty --output out": "A folder of pictures needs some (.png",
    "absent.png --output out.png": "which does not exist",
    "a.png --output out.tif": "The output's suffix must be one of .png",
    "a.png cut.png --output out": "The picture must be whole, got cut.png",
    "a.png --output out.png --control depth": "needs a scene",
    "a.png --output out.png --region fog@0,0,9,9": "needs a place without an instruction",
    "a.png --output out.png --region 0,0,99,9": "needs to lie within the picture of 80 x 64 pixels",
    "a.png --output out.png --batch 0": "--batch must be at least 1, got 0.",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_end_in_one_line(run, words, tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    shutil.copytree(save(tmp_path / "in/a.png").parent, tmp_path / "more")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    monkeypatch.setattr(priors, "load", lambda *_, **__: pytest.fail("The prior was loaded."))
    code, told = run(*words.split())
    assert code == 1
    assert MISTAKES[words] in told
    assert told.count("\n") == 1


def test_outside_of_a_region_the_very_pixels_stay_and_inside_it_is_edited(tiny):
    pictures = [image(0), image(1), image(2, (60, 40))]
    results, facts = edited(tiny, pictures, options(region="0,0,50%,100%", iterations=10))
    for before, after in zip(pictures, results, strict=True):
        half = before.shape[1] / 2
        assert torch.equal(after[:, round(half + 1) :], before[:, round(half + 1) :])
        inner = slice(0, round(half / 2))
        assert after[:, inner].float().mean() < 0.9 * before[:, inner].float().mean()
    assert [group["edited"] for group in facts["groups"]] == [2, 1]


def mask(folder: Path, name: str, size: tuple[int, int], columns: slice) -> None:
    white = np.zeros(size, np.uint8)
    white[:, columns] = 255
    folder.mkdir(exist_ok=True)
    Image.fromarray(white).save(folder / name)


@pytest.mark.parametrize("method", ["csd", "ip2p"])
def test_masks_are_found_by_name_and_pictures_without_one_are_not_evaluated(tiny, tmp_path, method):
    pictures = [image(0), image(1), image(2, (60, 40)), image(3)]
    mask(tmp_path / "masks", "0.png", (30, 47), slice(20))
    mask(tmp_path / "masks", "3.png", (30, 47), slice(30, 47))
    asked = options(region=str(tmp_path / "masks"), method=method, image_scale=1.1)
    results, facts = edited(tiny, pictures, asked)
    assert torch.equal(results[1], pictures[1])
    assert torch.equal(results[2], pictures[2])
    assert torch.equal(results[0][:, 20:], pictures[0][:, 20:])
    assert torch.equal(results[3][:, :30], pictures[3][:, :30])
    for number, inside in ((0, slice(10)), (3, slice(37, 47))):
        assert not torch.equal(results[number][:, inside], pictures[number][:, inside])
    assert [group["edited"] for group in facts["groups"]] == [2, 0]
    # Two pictures; a group without any takes no evaluation.
    assert facts["evaluations"] == {"csd": 3 * 2 * 5, "ip2p": 3 * 2 * 3}[method]


def test_a_word_is_looked_for_in_each_picture(tiny):
    pictures, asked = [image(0), image(1, (60, 40))], []

    def segmenter(image01: Tensor, word: str) -> Tensor:
        asked.append((tuple(image01.shape), word, float(image01.mean())))
        share = torch.zeros(image01.shape[1:])
        share[: image01.shape[1] // 2] = 1
        return share

    results, _ = edited(tiny, pictures, options(region="the vase"), segmenter=segmenter)
    means = [float(one.float().mean() / 255) for one in pictures]
    assert asked == [
        ((3, 30, 47), "the vase", pytest.approx(means[0])),
        ((3, 60, 40), "the vase", pytest.approx(means[1])),
    ]
    for before, after in zip(pictures, results, strict=True):
        middle = before.shape[0] // 2
        assert torch.equal(after[middle:], before[middle:])
        assert not torch.equal(after[: middle // 2], before[: middle // 2])


def test_a_region_that_is_in_no_picture_is_told(tiny):
    with pytest.raises(ValueError, match=r"cover half a pixel or more of a picture, got the vase"):
        edited(
            tiny,
            [image(0)],
            options(region="the vase"),
            segmenter=lambda image01, _: torch.zeros(image01.shape[1:]),
        )
    with pytest.raises(ValueError, match=r"needs a place without an instruction"):
        edited(tiny, [image(0)], options(region="fog@0,0,9,9"))


def test_looks_with_the_bundled_prior_keep_the_pictures_detail_unless_told_otherwise(tiny):
    grain = torch.randint(0, 60, (120, 188, 3), dtype=torch.uint8)
    pictures = [image(0, (120, 188)) // 2 + grain]
    kept, facts = edited(tiny, pictures, options(iterations=10))
    plain, _ = edited(tiny, pictures, options(iterations=10, keep_detail=False))
    assert facts["keep_detail"] is True

    def fine(one: Tensor) -> Tensor:
        return one[:-1].float() - one[1:].float()

    assert np.corrcoef(fine(kept[0]).ravel(), fine(pictures[0]).ravel())[0, 1] > 0.8
    assert np.corrcoef(fine(plain[0]).ravel(), fine(pictures[0]).ravel())[0, 1] < 0.5
    assert kept[0].float().mean() == pytest.approx(float(plain[0].float().mean()), abs=12)
    _, facts = edited(tiny, pictures, options(prompt="a thing nobody knows"))
    assert facts["keep_detail"] is False


def test_an_interrupted_set_with_a_region_goes_on_to_the_same_pictures(tiny, tmp_path):
    pictures = [image(0), image(1, (60, 40)), image(2)]
    mask(tmp_path / "masks", "2.png", (30, 47), slice(20))
    mask(tmp_path / "masks", "1.png", (60, 40), slice(20))
    asked = options(region=str(tmp_path / "masks"))
    whole, _ = edited(tiny, pictures, asked)
    stopped = Stopping(4)
    with pytest.raises(KeyboardInterrupt):
        edited(tiny, pictures, asked, reporter=stopped)
    resumed, _ = edited(tiny, pictures, asked, reporter=Stopping(state=stopped.state))
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one, other)


def test_masks_reach_the_run_from_the_command_line(run, tmp_path):
    for number in (1, 2):
        save(tmp_path / f"in/{number}.png", number)
    mask(tmp_path / "masks", "2.png", (64, 80), slice(40))
    assert run("in", "--output", "out", "--region", "masks")[0] == 0
    assert np.array_equal(Image.open("out/1.png"), Image.open("in/1.png"))
    before, after = (np.asarray(Image.open(f"{folder}/2.png")) for folder in ("in", "out"))
    assert np.array_equal(before[:, 40:], after[:, 40:])
    assert not np.array_equal(before[:, :20], after[:, :20])
    # A mask that changed is another input.
    mask(tmp_path / "masks", "2.png", (64, 80), slice(20))
    code, told = run("in", "--output", "out", "--region", "masks", "--resume")
    assert (code, "an input of other contents" in told) == (1, True)
    code, told = run("in", "--output", "other", "--region", "mosks/")
    assert (code, "--region must be a picture or a folder of masks" in told) == (1, True)
    mask(tmp_path, "wrong.png", (64, 20), slice(10))
    code, told = run("in", "--output", "other", "--region", "wrong.png")
    assert (code, "A mask needs the picture's shape" in told) == (1, True)


def test_a_word_reaches_the_segmenter_that_the_options_name(run, tmp_path, monkeypatch):
    from csd_nerf.priors import segmenters

    asked = []

    def load_segmenter(name: str, *, device: Any):
        def left_half(image01: Tensor, word: str) -> Tensor:
            asked.append((name, str(device), word))
            share = torch.zeros(image01.shape[1:])
            share[:, : image01.shape[2] // 2] = 1
            return share

        return left_half

    monkeypatch.setattr(segmenters, "load_segmenter", load_segmenter)
    save(tmp_path / "a.png")
    words = ("--region", "the vase", "--segmenter", "some/model")
    assert run("a.png", "--output", "out.png", *words)[0] == 0
    assert asked == [("some/model", "cpu", "the vase")]
    before, after = (np.asarray(Image.open(name)) for name in ("a.png", "out.png"))
    assert np.array_equal(before[:, 40:], after[:, 40:])
    assert not np.array_equal(before[:, :20], after[:, :20])
