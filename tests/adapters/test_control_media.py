"""Whole edits of a picture and of a video by dds with a ControlNet, of random weights."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from csd_nerf import cli
from csd_nerf.adapters.options import PanoramaOptions
from csd_nerf.priors.controlnet import ControlledStableDiffusion, canny_edges
from csd_nerf.priors.identity import weights_identity

QUICK = ("--preset", "tiny", "--device", "cpu", "--iterations", "3", "--batch", "2")
DDS = ("--residual", "dds", "--source-prompt", "fog", "--prompt", "make the sphere blue")


def blocks(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture with edges."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small.repeat(8, 0).repeat(8, 1))


@pytest.fixture
def prior(control_folders) -> tuple[str, ...]:
    base, net = control_folders
    return ("--prior", str(base), "--control", "canny", "--control-model", str(net))


@pytest.fixture
def shown(monkeypatch) -> list[torch.Tensor]:
    """The rows `control` that the ControlNet was shown."""
    found: list[torch.Tensor] = []
    right = ControlledStableDiffusion.beside

    def beside(self, image, step, text, rows):
        found.append(rows["control"])
        return right(self, image, step, text, rows)

    monkeypatch.setattr(ControlledStableDiffusion, "beside", beside)
    return found


def packed(image: Image.Image) -> torch.Tensor:
    """The edges of a picture by a loop over the pixels of a cell."""
    pixels = torch.from_numpy(np.asarray(image).copy())
    edges01 = canny_edges(pixels.permute(2, 0, 1)[None] / 255)[0, 0]
    return torch.stack([edges01[y::4, x::4] for y in range(4) for x in range(4)])


def test_a_picture_of_any_size(prior, tmp_path):
    """In windows; in small batches the same; with another ControlNet's share another."""
    blocks(72, 104).save(tmp_path / "source.png")

    def run(name: str, *options: str, given=prior) -> np.ndarray:
        output = tmp_path / f"{name}.png"
        files = ("panorama", str(tmp_path / "source.png"), "--output", str(output))
        cli.main([*files, *given, *QUICK, *DDS, *options])
        return np.asarray(Image.open(output)).astype(int)

    whole = run("whole", "--size", "96")
    assert whole.shape == (72, 104, 3)
    rounding = np.abs(whole - run("thrifty", "--size", "96", "--max-batch", "1")).mean()
    # Random weights enlarge what rounding differs in.
    assert rounding < 6
    for other in (
        run("half", "--size", "96", "--control-scale", "0.5"),
        run("without", "--size", "96", given=prior[:2]),
    ):
        assert np.abs(whole - other).mean() > 2 * rounding
    settings = json.loads((tmp_path / "half.png.json").read_text())["settings"]
    assert settings["control"] == "canny"
    assert settings["control_model"] == prior[-1]
    assert settings["control_scale"] == 0.5


def test_each_window_sees_the_edges_below_it(prior, tmp_path, shown):
    source = blocks(64, 128)
    source.save(tmp_path / "source.png")
    files = ("panorama", str(tmp_path / "source.png"), "--output", str(tmp_path / "edited.png"))
    cli.main([*files, *prior, *QUICK, *DDS, "--size", "128"])
    expected = packed(source)
    lefts = set()
    for row in torch.cat(shown):
        # Tiles that overlap in the encoder fade into each other, where hysteresis may differ.
        distances = [float((row - expected[:, :, x : x + 16]).abs().mean()) for x in range(17)]
        left = int(np.argmin(distances))
        assert distances[left] < 0.01
        lefts.add(left)
    assert len(lefts) > 1


def test_each_frame_of_a_video_sees_its_own_edges(prior, tmp_path, shown):
    (tmp_path / "frames").mkdir()
    frames = [blocks(64, 64, number) for number in range(3)]
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "frames" / f"{number}.png")
    files = ("video", str(tmp_path / "frames"), "--output", str(tmp_path / "edited"))
    cli.main([*files, *prior, *QUICK, *DDS])
    edges = [packed(frame) for frame in frames]
    rows = torch.cat(shown)
    # Three iterations of two, one and two frames, with four estimates each.
    assert len(rows) == 20
    found = [[torch.equal(row, one) for one in edges] for row in rows]
    assert all(sum(one) == 1 for one in found)
    assert np.asarray(found).any(0).all()
    edited = sorted((tmp_path / "edited").glob("*.png"))
    for path, frame in zip(edited, frames, strict=True):
        change = np.asarray(Image.open(path)).astype(int) - np.asarray(frame)
        assert np.abs(change).mean() > 1


def test_a_finished_result_is_kept_only_for_the_same_control(prior, tmp_path, capsys):
    blocks(64, 64).save(tmp_path / "source.png")
    files = ("panorama", str(tmp_path / "source.png"), "--output", str(tmp_path / "edited.png"))
    cli.main([*files, *prior, *QUICK, *DDS])
    cli.main([*files, *prior, *QUICK, *DDS, "--resume"])
    assert "is finished" in capsys.readouterr().out
    for options, line in (
        ((*prior, "--control-scale", "2"), "got --control-scale 2.0 instead of null"),
        (prior[:2], 'got --control null instead of "canny"'),
    ):
        with pytest.raises(SystemExit):
            cli.main([*files, *options, *QUICK, *DDS, "--resume"])
        assert line in capsys.readouterr().err


def test_the_control_net_is_part_of_the_identity_of_the_weights(control_folders):
    base, net = control_folders
    assert weights_identity(base) != weights_identity(base, net)
    assert weights_identity(base, net) != weights_identity(base, base)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--control canny", "--control canny needs --residual dds, got csd; set it"),
        ("--control depth --residual dds --source-prompt x", "--control depth needs a scene"),
        ("--control-model x", "--control-model needs a ControlNet, got x without"),
        ("--control-scale 0.5", "--control-scale needs a ControlNet, got 0.5 without"),
        (
            "--control canny --control-scale -1 --residual dds --source-prompt x",
            "--control-scale must be 0 or more, got -1",
        ),
        ("--control canny --control-scale nan", "--control-scale must be finite, got nan"),
    ],
)
@pytest.mark.parametrize("command", ["panorama", "video"])
def test_a_mistake_ends_in_one_line(command, options, line, tmp_path, capsys):
    blocks(64, 64).save(tmp_path / "source.png")
    files = [str(tmp_path / "source.png"), "--output", str(tmp_path / "edited.png")]
    with pytest.raises(SystemExit):
        cli.main([command, *files, "--prompt", "x", *options.split()])
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("--prior", "deepfloyd-if"), "class StableDiffusionPipeline .*--prior, --control-model"),
        (("--control-model", "/nowhere/at/all"), "folder /nowhere/at/all does not exist"),
    ],
)
def test_weights_that_do_not_do_end_in_one_line(given, line, prior, tmp_path, capsys):
    blocks(64, 64).save(tmp_path / "source.png")
    files = [str(tmp_path / "source.png"), "--output", str(tmp_path / "edited.png")]
    with pytest.raises(SystemExit):
        cli.main(["panorama", *files, *prior, *given, *QUICK, *DDS])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(line, error)


def test_the_options_of_a_run_without_a_control_are_as_before():
    """So that an earlier run's results are kept by --resume."""
    options = PanoramaOptions(prompt="x")
    assert (options.control, options.control_model, options.control_scale) == (None, None, None)
