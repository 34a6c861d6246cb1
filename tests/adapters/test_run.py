"""Runs from file to file, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from film_maker import write_film
from PIL import Image

from csd_nerf import cli, priors
from csd_nerf.media.files import one_writer, unfinished
from csd_nerf.priors import segmenters

QUICK = ["--preset", "tiny", "--prompt", "make it night", "--iterations", "4"]


def pixels(height: int = 64, width: int = 80, *, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def picture(path: Path, *, seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed=seed)).save(path, **options)
    return path


def film(path: Path, *, count: int = 3, **options) -> Path:
    frames = np.stack([pixels(seed=seed) for seed in range(count)])
    return write_film(path, frames, fps=12, audio="aac", **options)


def truncated(path: Path) -> Path:
    picture(path)
    path.write_bytes(path.read_bytes()[:900])
    return path


@pytest.fixture(scope="module")
def tiny():
    return priors.load("tiny")


@pytest.fixture
def loads(monkeypatch, tiny) -> list[str]:
    """Names of the priors that were loaded; it is always the same one."""
    names: list[str] = []

    def load(name, **_):
        names.append(name)
        return tiny

    monkeypatch.setattr(priors, "load", load)
    return names


@pytest.fixture
def never_loaded(monkeypatch):
    monkeypatch.setattr(priors, "load", lambda *_, **__: pytest.fail("The prior was loaded."))


@pytest.fixture
def run(capsys):
    def run(*arguments: object) -> tuple[int, str]:
        """Exit code and what went to stderr."""
        code = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return run


def record(output: Path) -> dict:
    return json.loads(output.with_name(f"{output.name}.json").read_text())


def contents(output: Path) -> list[bytes]:
    files = sorted(output.iterdir()) if output.is_dir() else [output]
    return [file.read_bytes() for file in files]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


MISTAKES = {
    "text.png --output out.png": "The input must be a picture that Pillow can read",
    "cut.jpg --output out.png": "The picture must be whole, got",
    "deep.tif --output out.png": "A picture may have 8 or 16 bits a channel",
    "absent.png --output out.png": "which does not exist",
    "a --output out.png": "The input must be a picture file, got a, which is a folder",
    "--output out.png": "A run needs one input or more, got none.",
    "a/x.png --output out.bmp": "The output's suffix must be one of .png",
    "a/x.png --output text.png/out.png": "The output needs a folder that can be written to",
    "a/x.png --output text.png": "The output must be a new one, got text.png; pass --overwrite",
    "a/x.png --output a/x.png --overwrite": "The output must not be the input",
    "a/x.png b/x.png --output out": "Inputs need names of their own, since results are named",
    "a/x.png a/y.png --output text.png": "--output must be a folder for several inputs",
    "a/x.png --output out.png --prompt": '--prompt needs an instruction, got " "',
    "a/x.png --output out.png --region fog@0,0,99,10": "within the picture of 80 x 64 pixels",
    "a/x.png --output out.png --region fog@1,2,3": "A box in a picture needs 4 numbers",
    "a/x.png --output out.png --region fog@absent.png": "absent.png",
    "a/x.png --output out.png --region fog@small.png": "A mask needs the picture's shape",
    "a/x.png --output out.png --region 0,0,99,10": "within the picture of 80 x 64 pixels",
    "a/x.png --output out.png --region masks/none": "masks/none, which does not exist",
    "a/x.png --output out.png --region car --prompt": '--prompt needs an instruction, got " "',
    "a/x.png --output out.png --device warp": "A device needs a name such as cpu",
    "a/x.png --output out.png --device cuda:99": "A device needs to be there, got cuda:99",
    "a/x.png --output out.png --batch 0": "--batch must be at least 1, got 0.",
    "a/x.png --output out.png --t-range 0.5 0.2": "--t-range needs 0 <= low < high <= 1",
    "a/x.png --output out.png --text-scale nan": "--text-scale must be finite, got nan.",
    "a/x.png --output out.png --learning-rate inf": "--learning-rate must be finite, got inf.",
    "a/x.png --output out.png --t-range 0 nan": "--t-range must be finite, got (0.0, nan).",
    "a/x.png --output out.png --source-share 2": "--source-share must be from 0 to 1, got 2",
}


VIDEO_MISTAKES = {
    "a --output out --region fog@0,0,9,9": "a place without an instruction, got 'fog@0,0",
    "a --output out --region 0,0,99,10": "within the picture of 80 x 64 pixels",
    "a --output out --region absent.png": "absent.png",
    "a --output out --region empty": "A folder of masks needs files named like the pictures",
    "empty --output out": "A folder of frames needs pictures",
    "mixed --output out": "Frames need one size, got",
    "absent --output out": "The input must be a video file or a folder of pictures",
    "text.png --output out": "The input must be a video",
    "a/x.png --output out": "`csd-nerf panorama` edits a single picture",
    "cut.mp4 --output out": "got cut.mp4, which is none or is damaged",
    "half.mp4 --output out": "The video must be whole, got half.mp4",
    "a --output out.avi": "The output must end in .mp4",
    "a --output a/out.mp4": "The output must lie outside of the input's folder",
    "a --output text.png/out.mp4": "The output needs a folder that can be written to",
    "a b/../a --output out": "Inputs need names of their own",
    "a --output out --frames 0": "--frames needs all or a number from 1 upwards, got '0'",
    "a --output out --prompt": "--prompt needs an instruction, got ' '",
    "a --output out --decoder temporal --decoder-weights a": "No weights for the temporal decoder",
}


@pytest.mark.parametrize("arguments", MISTAKES)
@pytest.mark.usefixtures("never_loaded")
def test_a_mistake_ends_in_one_line_before_the_prior_is_loaded(
    tmp_path, monkeypatch, run, arguments
):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.png", "a/y.png", "b/x.png"):
        picture(Path(name))
    Path("text.png").write_text("text")
    truncated(Path("cut.jpg"))
    Image.fromarray(np.zeros((64, 80), np.float32)).save("deep.tif")
    Image.fromarray(pixels(8, 8)).save("small.png")
    before = sorted(tmp_path.rglob("*"))

    given = arguments.split()
    given += [" "] if given[-1] == "--prompt" else ["--prompt", "make it night"]
    code, told = run("panorama", *given, "--preset", "tiny")
    assert code == 1
    assert told.startswith("csd-nerf: ")
    assert MISTAKES[arguments].replace('"', "'") in told.replace('"', "'")
    assert told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["panorama", "video"])
@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (None, "--method ip2p-windows --text-scale 1e38", "Sampled latents need to be finite"),
        (None, "--learning-rate 1e38", "need"),
        ("decoder", "--updates 1", "Images need to be finite"),
        ("decoder", "--method ip2p-windows --steps 1", "Images need to be finite"),
    ],
)
def test_numbers_that_overflow_never_become_a_picture(
    tmp_path, run, tiny, monkeypatch, command, spoil, options, words
):
    if spoil == "decoder":
        plain = tiny.decode

        def decode(latent):
            image01 = plain(latent)
            image01[..., 0, 0] = float("nan")
            return image01

        monkeypatch.setattr(tiny, "decode", decode)
    monkeypatch.setattr(priors, "load", lambda *_, **__: tiny)
    source = tmp_path / "source"
    for number in range(2):
        picture(source / f"{number}.png")
    given = source / "0.png" if command == "panorama" else source
    output = tmp_path / ("out.png" if command == "panorama" else "out")
    if command == "video":
        options = options.replace("ip2p-windows", "ip2p")
    words_of_command = [command, given, "--output", output, "--prompt", "make it night"]
    code, told = run(*words_of_command, "--preset", "tiny", *options.split())
    assert code == 1
    assert words in told
    assert told.splitlines()[-1].startswith("csd-nerf: ")
    assert not output.exists()


@pytest.mark.parametrize("arguments", VIDEO_MISTAKES)
@pytest.mark.usefixtures("never_loaded")
def test_a_mistake_with_a_video_ends_in_one_line_before_the_prior_is_loaded(
    tmp_path, monkeypatch, run, arguments
):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.png", "a/y.png", "b/x.png", "mixed/1.png"):
        picture(Path(name))
    Image.fromarray(pixels(20, 30)).save("mixed/2.png")
    Path("empty").mkdir()
    Path("text.png").write_text("text")
    for name, options in (("cut.mp4", {}), ("half.mp4", {"movflags": "faststart"})):
        data = film(Path(name), count=9, options=options).read_bytes()
        Path(name).write_bytes(data[: len(data) // 2])
    before = sorted(tmp_path.rglob("*"))

    given = arguments.split()
    given += [" "] if given[-1] == "--prompt" else ["--prompt", "make it night"]
    code, told = run("video", *given, "--preset", "tiny")
    assert code == 1
    assert told.startswith("csd-nerf: ")
    assert VIDEO_MISTAKES[arguments] in told
    assert told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_picture_is_edited_and_its_record_tells_how(tmp_path, run, loads):
    source, output = picture(tmp_path / "in" / "x.png"), tmp_path / "out" / "y.png"
    code, told = run("panorama", source, "--output", output, *QUICK, "--text-scale", "3")
    assert code == 0
    assert "note:" not in told
    assert "edit: 100%" in told
    with Image.open(output) as image:
        assert image.size == (80, 64)
        assert np.abs(np.asarray(image).astype(int) - pixels()).mean() > 1
    assert names(output.parent) == {"y.png", "y.png.json"}
    saved = record(output)
    settings = saved["settings"]
    assert (settings["text_scale"], settings["image_scale"], settings["prior"]) == (3, 1, "tiny")
    assert (saved["seed"], settings["device"], settings["iterations"]) == (0, "cpu", 4)
    assert saved["facts"]["iterations"] == 4
    assert saved["command"].startswith("csd-nerf panorama ")
    assert saved["command"].endswith("--text-scale 3")


def test_a_word_is_found_by_the_segmenter_of_the_options(tmp_path, run, loads, monkeypatch):
    asked = []

    def load_segmenter(name, *, device):
        asked.append((name, str(device)))

        def left_half(image01, word):
            asked.append(word)
            return (torch.arange(80) < 40).float().expand(64, 80)

        return left_half

    monkeypatch.setattr(segmenters, "load_segmenter", load_segmenter)
    sources = [picture(tmp_path / name) for name in ("a.png", "b.png")]
    given = ["--region", "the car", "--segmenter", "mine", *QUICK]
    assert run("panorama", *sources, "--output", tmp_path / "out", *given)[0] == 0
    assert asked[0] == ("mine", "cpu")
    assert set(asked[1:]) == {"the car"}
    edited = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert (edited[:, 40:] == pixels()[:, 40:]).all()
    assert (edited[:, :40] != pixels()[:, :40]).any()

    frames = tmp_path / "frames"
    for seed in range(2):
        picture(frames / f"{seed}.png", seed=seed)
    given = ["--region", "the car", *QUICK, "--size", "32"]
    assert run("video", frames, "--output", tmp_path / "film", *given)[0] == 0
    edited = np.asarray(Image.open(tmp_path / "film" / "00001.png"))
    assert (edited[:, 40:] == pixels(seed=1)[:, 40:]).all()
    assert (edited[:, :40] != pixels(seed=1)[:, :40]).any()


@pytest.mark.usefixtures("never_loaded")
def test_a_segmenter_that_is_not_there_is_told_before_the_prior_is_loaded(tmp_path, run):
    source = picture(tmp_path / "a.png")
    given = ["--region", "the car", "--segmenter", tmp_path / "none", *QUICK]
    code, told = run("panorama", source, "--output", tmp_path / "o.png", *given)
    assert code == 1
    assert told.count("\n") == 1
    assert "The option is --segmenter." in told


def test_a_folder_has_a_mask_for_each_of_several_pictures(tmp_path, run, loads):
    sources = [picture(tmp_path / name, seed=3) for name in ("a.png", "b.png")]
    for name, columns in (("a", slice(0, 20)), ("b", slice(60, 80))):
        mask = np.zeros((64, 80), np.uint8)
        mask[:, columns] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    given = ["--region", tmp_path / "masks", *QUICK]
    assert run("panorama", *sources, "--output", tmp_path / "out", *given)[0] == 0
    first, second = (
        (np.asarray(Image.open(tmp_path / "out" / name)) != pixels(seed=3)).any((0, 2))
        for name in ("a.png", "b.png")
    )
    assert first[:20].any()
    assert not first[20:].any()
    assert second[60:].any()
    assert not second[:60].any()


def test_other_masks_are_another_run(tmp_path, run, loads, monkeypatch):
    """The contents of masks are a part of what a run is known by."""
    source, mask = picture(tmp_path / "a.png"), tmp_path / "mask.png"
    Image.new("L", (80, 64), 255).save(mask)
    given = ["panorama", source, "--output", tmp_path / "o.png", "--region", mask, *QUICK]
    assert run(*given)[0] == 0
    assert run(*given, "--resume")[0] == 0
    Image.new("L", (80, 64), 200).save(mask)
    code, told = run(*given, "--resume")
    assert code == 1
    assert "input" in told


def test_what_a_killed_run_left_half_written_is_gone_once_another_is_done(tmp_path, run, loads):
    source, output = picture(tmp_path / "in" / "x.png"), tmp_path / "out" / "y.png"
    output.parent.mkdir()
    for beside in ("", ".json", ".state.pt", ".preview.png"):
        unfinished(output.with_name(f"y.png{beside}")).write_bytes(b"half")
    (output.parent / "mine.txt").write_text("kept")
    assert run("panorama", source, "--output", output, *QUICK)[0] == 0
    assert names(output.parent) == {"y.png", "y.png.json", "mine.txt"}


def test_equal_seeds_give_equal_files_and_other_seeds_don_t(tmp_path, run, loads):
    source = picture(tmp_path / "x.png")
    for name, seed in (("a.png", 5), ("b.png", 5), ("c.png", 6)):
        run("panorama", source, "--output", tmp_path / name, *QUICK, "--seed", seed)
    one, same, other = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert one == same
    assert one != other


def test_odd_pictures_are_converted_in_one_call_with_one_prior(tmp_path, run, loads):
    folder = tmp_path / "in"
    folder.mkdir()
    image = Image.fromarray(pixels())
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.quantize(8).save(folder / "palette.png")
    image.putalpha(100)
    image.save(folder / "clear.png")
    Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    film = [Image.fromarray(pixels(seed=seed)) for seed in (1, 2)]
    film[0].save(folder / "film.gif", save_all=True, append_images=film[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(folder / "turned.webp", exif=exif)
    inputs = sorted(folder.iterdir())

    code, told = run("panorama", *inputs, "--output", tmp_path / "out", *QUICK, "--iterations", 1)
    assert code == 0
    assert loads == ["tiny"]
    out = tmp_path / "out"
    results = {"cmyk.jpg", "palette.png", "clear.png", "deep.png", "film.png", "turned.webp"}
    assert names(out) == results | {f"{name}.json" for name in results}
    for name, notice in {
        "cmyk.jpg": "CMYK converted to RGB",
        "clear.png": "transparent parts put over white",
        "deep.png": "16 bits a channel brought to 8",
        "film.png": "only the first of its 2 frames is used",
        "palette.png": "palette converted to RGB",
        "turned.webp": "turned upright, as its EXIF orientation says",
    }.items():
        assert notice in record(out / name)["notices"]
        assert f"{Path(name).stem}." in told
        assert f": {notice}" in told
    assert "[6/6] turned.webp: edit: 100%" in told
    with Image.open(out / "turned.webp") as turned:
        assert turned.size == (64, 80)


def test_films_and_folders_are_edited_in_one_call_with_one_prior(tmp_path, run, loads):
    folder = tmp_path / "in" / "frames"
    for number in range(2):
        picture(folder / f"{number}.png", seed=number)
    clip = film(tmp_path / "in" / "clip.avi")
    out = tmp_path / "out"
    code, told = run("video", clip, folder, "--output", out, *QUICK, "--preview-every", 1)
    assert code == 0
    assert loads == ["tiny"]
    assert names(out) == {"clip.mp4", "clip.mp4.json", "frames", "frames.json"}
    assert len([*(out / "frames").iterdir()]) == 2
    with av.open(str(out / "clip.mp4")) as container:
        assert len([*container.decode(video=0)]) == 3
        assert container.streams.video[0].average_rate == 12
        assert len(container.streams.audio) == 1
    assert record(out / "clip.mp4")["facts"]["frames"] == 3
    assert record(out / "clip.mp4")["settings"]["method"] == "csd"
    assert "[2/2] frames: edit: 100%" in told


def test_of_several_inputs_those_that_can_be_edited_are(tmp_path, run, loads):
    good, other = picture(tmp_path / "in" / "good.png"), picture(tmp_path / "in" / "other.png")
    bad = truncated(tmp_path / "in" / "bad.jpg")
    code, told = run("panorama", good, bad, other, "--output", tmp_path / "out", *QUICK)
    assert code == 1
    assert [line for line in told.splitlines() if line.startswith("csd-nerf: ")] == [
        line for line in told.splitlines() if "The picture must be whole" in line
    ]
    assert {"good.png", "other.png"} < names(tmp_path / "out")


def test_an_input_that_fails_in_its_edit_leaves_the_others(tmp_path, run, loads, monkeypatch):
    inputs = [picture(tmp_path / "in" / f"{i}.png") for i in range(2)]
    out = tmp_path / "out"
    failing = iter([ValueError("no such\nluck")])
    goes_on = "(--resume goes on from what was done)"

    def write_image(path, image, **_):
        for error in failing:
            raise error
        path.touch()

    monkeypatch.setattr("csd_nerf.adapters.run.write_image", write_image)
    code, told = run("panorama", *inputs, "--output", out, *QUICK)
    assert code == 1
    assert f"csd-nerf: no such luck {goes_on}\n" in told
    assert names(out) == {"0.png.state.pt", "1.png", "1.png.json"}
    assert run("panorama", *inputs, "--output", out, *QUICK, "--resume")[0] == 0
    assert names(out) == {"0.png", "0.png.json", "1.png", "1.png.json"}


def test_a_picture_smaller_than_a_window_is_enlarged_for_the_edit_and_told(tmp_path, run, loads):
    source = tmp_path / "x.png"
    Image.fromarray(pixels(12, 20)).save(source)
    code, told = run("panorama", source, "--output", tmp_path / "y.png", *QUICK)
    assert code == 0
    assert "note: enlarged" in told
    assert "enlarged" in record(tmp_path / "y.png")["notices"][0]
    with Image.open(tmp_path / "y.png") as image:
        assert image.size == (20, 12)


def test_what_is_cut_from_an_overlong_prompt_is_told_once(tmp_path, run, loads):
    prompt = "make it night " * 50 + "and windy"
    source, output = picture(tmp_path / "x.png"), tmp_path / "y.png"
    code, told = run("panorama", source, "--output", output, *QUICK, "--prompt", prompt)
    assert code == 0
    lines = [line for line in told.splitlines() if line.startswith("note: ")]
    (cut,) = [line for line in lines if "is cut off" in line]
    assert "windy' is cut off" in cut
    # The other one says that the bundled prior doesn't know it.
    assert record(output)["notices"] == [line.removeprefix("note: ") for line in lines]
    assert len(lines) == 2


def test_notes_come_again_before_the_last_line(tmp_path, loads, capsys):
    prompt = "make it night " * 50 + "and windy"
    source, output = picture(tmp_path / "x.png"), tmp_path / "y.png"
    given = ["panorama", source, "--output", output, *QUICK, "--prompt", prompt]
    cli.main([str(word) for word in given])
    *notes, last = capsys.readouterr().out.splitlines()
    assert last == f"Wrote {output}."
    assert notes == [f"note: {notice}" for notice in record(output)["notices"]]
    assert len(notes) == 2


def test_when_memory_runs_out_half_the_batch_is_tried(tmp_path, run, loads, tiny, monkeypatch):
    evaluate = tiny.run

    def narrow(noisy, timestep, rows):
        if len(noisy) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return evaluate(noisy, timestep, rows)

    monkeypatch.setattr(tiny, "run", narrow)
    source, output = picture(tmp_path / "x.png"), tmp_path / "y.png"
    code, told = run("panorama", source, "--output", output, *QUICK, "--image-scale", "1.1")
    assert code == 0
    assert told.count("note: The memory was not enough for 10 model evaluations at a time") == 1
    assert "from now on it is 5. --max-batch sets it from the start." in told
    assert "from now on it is 5." in record(output)["notices"][0]


def test_when_one_evaluation_is_too_much_the_options_that_help_are_named(
    tmp_path, run, loads, tiny, monkeypatch
):
    def none(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(tiny, "run", none)
    code, told = run(
        "panorama", picture(tmp_path / "x.png"), "--output", tmp_path / "y.png", *QUICK
    )
    assert code == 1
    last = told.splitlines()[-1]
    assert last.startswith("csd-nerf: The memory must hold one at a time of the model evaluations")
    assert all(option in last for option in ("--size", "--max-batch", "--preset small"))


def test_memory_that_runs_out_elsewhere_is_told_alike(tmp_path, run, loads, monkeypatch):
    def none(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("csd_nerf.adapters.panorama.encode_tiled", none)
    code, told = run(
        "panorama", picture(tmp_path / "x.png"), "--output", tmp_path / "y.png", *QUICK
    )
    assert code == 1
    assert told.splitlines()[-1].startswith(
        "csd-nerf: The memory must hold the run, got too little"
    )


@pytest.mark.parametrize("command", ["panorama", "video"])
def test_after_ctrl_c_resume_makes_the_same(tmp_path, run, loads, tiny, monkeypatch, command):
    source, suffix = tmp_path / "in", ""
    if command == "panorama":
        source, suffix = picture(tmp_path / "x.png"), ".png"
    else:
        for number in range(3):
            picture(source / f"{number}.png", seed=number)
    given = [command, source, *QUICK, "--batch", 2]
    run(*given, "--output", tmp_path / f"whole{suffix}")
    predict, calls = type(tiny).predict, []

    def interrupting(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return predict(tiny, *arguments, **options)

    output, state = tmp_path / f"y{suffix}", tmp_path / f"y{suffix}.state.pt"
    with monkeypatch.context() as patch:
        patch.setattr(tiny, "predict", interrupting)
        code, told = run(*given, "--output", output)
    assert code == 130
    last = told.splitlines()[-1]
    assert last.startswith(f"csd-nerf: interrupted; go on with: csd-nerf {command} ")
    assert last.endswith(" --resume")
    assert state.exists()
    assert not output.exists()

    code, told = run(*given, "--output", output)
    assert code == 1
    assert "pass --resume to go on with it, or --overwrite" in told

    code, told = run(*given, "--output", output, "--resume")
    assert code == 0
    assert "3/4" in told
    assert contents(output) == contents(tmp_path / f"whole{suffix}")
    assert not state.exists()


def test_a_run_with_a_bank_goes_on_to_the_same_up_to_rounding(
    tmp_path, run, loads, tiny, monkeypatch
):
    """What was kept for the source is computed anew, in other batches."""
    for number in range(3):
        picture(tmp_path / "in" / f"{number}.png", seed=number)
    given = ["video", tmp_path / "in", *QUICK, "--batch", 2, "--source-bank", 2]
    run(*given, "--output", tmp_path / "whole")
    run(*given, "--output", tmp_path / "other", "--seed", 9)
    predict, calls = type(tiny).predict, []

    def interrupting(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return predict(tiny, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "predict", interrupting)
        assert run(*given, "--output", tmp_path / "y")[0] == 130
    assert run(*given, "--output", tmp_path / "y", "--resume")[0] == 0
    resumed, whole, other = (
        np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path / n).glob("*.png"))])
        for n in ("y", "whole", "other")
    )
    assert np.abs(resumed.astype(int) - whole).max() <= 1
    assert np.abs(other.astype(int) - whole).max() > 5


def test_a_run_does_not_go_on_with_other_weights(tmp_path, run, loads, tiny, monkeypatch):
    prior = tmp_path / "prior"
    prior.mkdir()
    (prior / "weights").write_text("one")
    monkeypatch.setattr(priors, "fetch", lambda *_, **__: (prior, None))
    source, output = picture(tmp_path / "x.png"), tmp_path / "y.png"
    predict, calls = type(tiny).predict, []

    def interrupting(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(tiny, *arguments, **options)

    given = ["panorama", source, "--output", output, *QUICK]
    with monkeypatch.context() as patch:
        patch.setattr(tiny, "predict", interrupting)
        assert run(*given)[0] == 130
    (prior / "weights").write_text("two")
    code, told = run(*given, "--resume")
    assert code == 1
    assert "was made with, got a prior with other weights;" in told
    (prior / "weights").write_text("one")
    assert run(*given, "--resume")[0] == 0


def test_two_runs_at_a_time_do_not_write_to_one_output(tmp_path, run, never_loaded):
    source, output = picture(tmp_path / "x.png"), tmp_path / "y.png"
    with one_writer(output):
        code, told = run("panorama", source, "--output", output, *QUICK)
    assert code == 1
    assert "Only one run at a time may write to an output" in told


def test_an_input_named_like_a_file_of_the_run_stays(tmp_path, run, never_loaded):
    source = picture(tmp_path / "y.png.preview.png")
    before = source.read_bytes()
    given = ["panorama", source, "--output", tmp_path / "y.png", *QUICK, "--overwrite"]
    code, told = run(*given)
    assert code == 1
    assert "An input must not be a file that the run writes" in told
    assert source.read_bytes() == before


def test_a_mask_named_like_a_file_of_the_run_stays(tmp_path, run, never_loaded):
    source, mask = picture(tmp_path / "x.png"), picture(tmp_path / "y.png.preview.png")
    before = mask.read_bytes()
    given = ["panorama", source, "--output", tmp_path / "y.png", "--region", mask, *QUICK]
    code, told = run(*given, "--overwrite")
    assert code == 1
    assert "An input must not be a file that the run writes" in told
    assert mask.read_bytes() == before


def test_an_output_named_like_a_file_of_another_is_refused(tmp_path, run, loads):
    inputs = [picture(tmp_path / name) for name in ("y.png.preview.png", "y.png")]
    code, told = run("panorama", *inputs, "--output", tmp_path / "out", *QUICK)
    assert code == 1
    assert "nor another output, got" in told
    assert names(tmp_path / "out") == {"y.png.preview.png", "y.png.preview.png.json"}


def test_resuming_what_is_finished_does_nothing(tmp_path, run, loads):
    source, output = picture(tmp_path / "x.png"), tmp_path / "y.png"
    code, told = run("panorama", source, "--output", output, *QUICK, "--resume")
    assert code == 0
    assert "note: no run was interrupted here: it starts anew" in told
    written = output.stat().st_mtime_ns
    code, told = run("panorama", source, "--output", output, *QUICK, "--resume")
    assert (code, told) == (0, "")
    assert output.stat().st_mtime_ns == written
    assert len(loads) == 1


def test_a_single_picture_goes_into_a_folder_that_is_there(tmp_path, run, loads):
    source = picture(tmp_path / "in" / "x.png")
    (tmp_path / "out").mkdir()
    assert run("panorama", source, "--output", tmp_path / "out", *QUICK)[0] == 0
    assert "x.png" in names(tmp_path / "out")


LONG = [*QUICK, "--iterations", "30", "--save-every", "2", "--preview-every", "5"]


def start(tmp_path: Path, source: Path, clip: Path) -> subprocess.Popen[str]:
    """A process that edits this and that, says what it has imported, and begins a longer edit."""
    video = ["video", str(clip), "--output", str(tmp_path / "once.mp4"), *QUICK]
    once = ["panorama", str(source), "--output", str(tmp_path / "once.png"), *QUICK]
    long = ["panorama", str(source), "--output", str(tmp_path / "killed.png"), *LONG]
    script = (
        "import sys\nfrom csd_nerf.cli import main\n"
        f"main({once})\nmain({video})\n"
        # No more than fits into a pipe that nobody reads yet.
        "print('loaded:', *{name.partition('.')[0] for name in sys.modules}, flush=True)\n"
        f"main({long})\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_killed_run_goes_on_to_the_same_file_and_none_needs_nerfstudio(tmp_path, run, loads):
    source = tmp_path / "x.png"
    Image.fromarray(pixels(64, 64)).save(source)
    output, state = tmp_path / "killed.png", tmp_path / "killed.png.state.pt"
    with start(tmp_path, source, film(tmp_path / "clip.mp4")) as process:
        deadline = time.monotonic() + 100
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        told = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, "It ended before it could be killed."
    (modules,) = (line.split() for line in told.splitlines() if line.startswith("loaded:"))
    assert {"torch", "diffusers", "av"} < {*modules}
    assert "nerfstudio" not in modules

    assert not output.exists()
    code, told = run("panorama", source, "--output", output, *LONG, "--resume")
    assert code == 0
    assert "edit:   0%" not in told
    assert run("panorama", source, "--output", tmp_path / "whole.png", *LONG)[0] == 0
    assert output.read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert not [name for name in names(tmp_path) if name.count(".") > 1 and ".json" not in name]
