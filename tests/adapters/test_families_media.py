"""Whole edits of a picture and of a video by an editing model of each family, of random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from csd_nerf import cli, priors
from csd_nerf.priors.family import DiffusersPrior

FAMILIES = ("xl", "flux2", "kontext", "qwen")
QUICK = ("--preset", "tiny", "--device", "cpu", "--iterations", "3", "--batch", "2")


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """The size of Qwen-Image is no number of a configuration, and is 1024 for random ones too."""
    monkeypatch.setattr("csd_nerf.priors.qwen_image.PREFERRED_SIZE", 48)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_of_any_size(editing_folder, tmp_path, family, capsys):
    """In windows; in small batches the same; the family's numbers recorded."""
    noise(72, 100).save(tmp_path / "source.png")
    prior = ("--prior", str(editing_folder(family)), "--prompt", "make the sphere blue")

    def run(name: str, *options: str) -> np.ndarray:
        output = tmp_path / f"{name}.png"
        files = ("panorama", str(tmp_path / "source.png"), "--output", str(output))
        cli.main([*files, *prior, *QUICK, *options])
        return np.asarray(Image.open(output)).astype(int)

    whole = run("whole", "--size", "96")
    assert whole.shape == (72, 100, 3)
    thrifty = run("thrifty", "--size", "96", "--max-batch", "1")
    # Random weights enlarge what rounding differs in, those with zeros for the empty text most.
    rounding = np.abs(whole - thrifty).mean()
    assert rounding < (6 if family == "xl" else 1)
    settings = json.loads((tmp_path / "whole.png.json").read_text())["settings"]
    wanted = {"xl": 3.0, "flux2": 4.0, "kontext": 1.0, "qwen": 4.0}[family]
    assert settings["text_scale"] == wanted
    other = run("other", "--size", "96", "--text-scale", "9")
    assert np.abs(whole - other).mean() > 2 * rounding


@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_run_goes_on_to_the_same(editing_folder, tmp_path, family, monkeypatch):
    noise(48, 64).save(tmp_path / "source.png")
    prior = ("--prior", str(editing_folder(family)), "--prompt", "make the sphere blue")

    def run(name: str, *options: str) -> bytes:
        output = tmp_path / f"{name}.png"
        files = ("panorama", str(tmp_path / "source.png"), "--output", str(output))
        cli.main([*files, *prior, *QUICK, "--save-every", "1", *options])
        return output.read_bytes()

    whole, evaluate, calls = run("whole"), DiffusersPrior.evaluate, []

    def interrupted(*inputs, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*inputs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusersPrior, "evaluate", interrupted)
        with pytest.raises(SystemExit) as ended:
            run("parts")
    assert ended.value.code == 130
    assert run("parts", "--resume") == whole


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["csd", "sds", "ip2p"])
def test_the_frames_of_a_video(editing_folder, tmp_path, family, method):
    (tmp_path / "frames").mkdir()
    for number in range(3):
        noise(48, 64, number).save(tmp_path / "frames" / f"{number}.png")
    steps = ("--steps", "2") if method == "ip2p" else ()
    files = ("video", str(tmp_path / "frames"), "--output", str(tmp_path / "edited"))
    prior = ("--prior", str(editing_folder(family)), "--prompt", "make the sphere blue")
    cli.main([*files, *prior, *QUICK, "--method", method, *steps])
    edited = sorted((tmp_path / "edited").glob("*.png"))
    assert len(edited) == 3
    for number, path in enumerate(edited):
        pixels = np.asarray(Image.open(path)).astype(int)
        assert pixels.shape == (48, 64, 3)
        assert np.abs(pixels - np.asarray(noise(48, 64, number))).mean() > 1


def test_velocities_of_a_flow_and_their_shift_decide_a_picture(editing_folder, tmp_path, capsys):
    """Each number changes the picture, is recorded, and is asked for again to resume."""
    noise(48, 64).save(tmp_path / "source.png")
    prior = ("--prior", str(editing_folder("flux2")), "--prompt", "make the sphere blue")
    files = ("panorama", str(tmp_path / "source.png"), "--output")

    def run(name: str, *options: str) -> tuple[np.ndarray, dict]:
        output = tmp_path / f"{name}.png"
        cli.main([*files, str(output), *prior, *QUICK, *options])
        settings = json.loads(output.with_name(f"{name}.png.json").read_text())["settings"]
        return np.asarray(Image.open(output)).astype(int), settings

    velocity, settings = run("velocity", "--quantity", "velocity")
    assert (settings["quantity"], settings["shift"], settings["decay"]) == ("velocity", 1.0, 1.0)
    other, settings = run("other", "--quantity", "velocity", "--shift", "0")
    assert (settings["quantity"], settings["shift"]) == ("velocity", 0.0)
    usual, settings = run("usual", "--learning-rate", "1", "--decay", "1", "--t-order", "falling")
    assert settings["quantity"] == "noise"
    for one in (other, usual):
        assert np.abs(velocity - one).mean() > 1
    resume = (*files, str(tmp_path / "velocity.png"), *prior, *QUICK, "--resume")
    with pytest.raises(SystemExit):
        cli.main([*resume, "--quantity", "velocity", "--shift", "0.5"])
    assert "got --shift 0.5 instead of 1.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*resume])
    assert '--quantity "noise" instead of "velocity"' in capsys.readouterr().err


@pytest.mark.parametrize("family", ["xl", "tiny"])
def test_velocities_of_a_model_that_predicts_noise_are_refused_at_the_start(
    editing_folder, tmp_path, family, capsys, monkeypatch
):
    monkeypatch.setattr(priors, "load", None)
    noise(48, 64).save(tmp_path / "source.png")
    prior = family if family == "tiny" else str(editing_folder(family))
    files = ("panorama", str(tmp_path / "source.png"), "--output", str(tmp_path / "edited.png"))
    asked = ("--prior", prior, "--prompt", "make the sphere blue", "--quantity", "velocity")
    # What making the folder has printed.
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main([*files, *asked, *QUICK])
    told = capsys.readouterr().err.strip()
    assert told.startswith("csd-nerf: --quantity velocity needs a flow model, such as flux2-klein,")
    assert "\n" not in told


def test_windows_of_a_sampler_have_their_own_texts(editing_folder, tmp_path):
    """Qwen-Image's texts see the windows; few at a time they have to be the same."""
    noise(48, 96).save(tmp_path / "source.png")
    prior = ("--prior", str(editing_folder("qwen")), "--prompt", "make the sphere blue")

    def run(name: str, *options: str) -> np.ndarray:
        output = tmp_path / f"{name}.png"
        files = ("panorama", str(tmp_path / "source.png"), "--output", str(output))
        method = ("--method", "ip2p-windows", "--steps", "2")
        cli.main([*files, *prior, *QUICK, *method, *options])
        return np.asarray(Image.open(output)).astype(int)

    whole = run("whole", "--max-batch", "40")
    for most in ("1", "2"):
        assert np.abs(whole - run(f"few-{most}", "--max-batch", most)).mean() < 0.02
    assert np.abs(whole - run("other", "--text-scale", "9")).mean() > 0.1
