"""Delta Denoising Score by the commands for panoramas and videos."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sure_prior import SurePrior

from csd_nerf import cli, priors

BRIGHTER = [
    *("--preset", "tiny", "--device", "cpu", "--residual", "dds"),
    *("--source-prompt", "0.5", "--prompt", "0.65", "--text-scale", "1"),
    *("--updates", "60", "--learning-rate", "2", "--decay", "1"),
]
"""With it `SurePrior` changes each pixel by the difference of the prompts' two numbers."""


@pytest.fixture
def kinds(monkeypatch, tmp_path):
    """The kinds of prior that were loaded."""
    found = []
    monkeypatch.setattr(priors, "fetch", lambda *_, **__: (tmp_path, None))
    monkeypatch.setattr(priors, "load", lambda *_, kind, **__: found.append(kind) or SurePrior())
    return found


def grey(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 12, 3), value, np.uint8))


@pytest.mark.parametrize("method", ["csd", "csd-no-stein"])
def test_a_panorama_changes_by_what_the_two_prompts_differ_in(method, tmp_path, kinds):
    grey(100).save(tmp_path / "source.png")
    files = [str(tmp_path / "source.png"), "--output", str(tmp_path / "edited.png")]
    cli.main(["panorama", *files, *BRIGHTER, "--method", method])
    edited = np.asarray(Image.open(tmp_path / "edited.png")).astype(float)
    assert np.abs(edited - (100 + 0.15 * 255)).max() < 2
    assert kinds == ["text"]


def test_so_does_every_frame_of_a_video(tmp_path, kinds):
    (tmp_path / "frames").mkdir()
    for number in range(3):
        grey(60 + 30 * number).save(tmp_path / "frames" / f"{number}.png")
    files = [str(tmp_path / "frames"), "--output", str(tmp_path / "edited")]
    cli.main(["video", *files, *BRIGHTER])
    for number, path in enumerate(sorted((tmp_path / "edited").glob("*.png"))):
        edited = np.asarray(Image.open(path)).astype(float)
        assert np.abs(edited - (60 + 30 * number + 0.15 * 255)).max() < 2
    assert number == 2


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--residual dds --prompt x", "--residual dds needs a description of the input, got None"),
        (
            "--residual dds --source-prompt x --prompt x --method sds",
            "--residual dds needs --method csd or csd-no-stein, got sds",
        ),
    ],
)
def test_a_mistake_ends_in_one_line(options, line, tmp_path, capsys):
    grey(100).save(tmp_path / "source.png")
    files = [str(tmp_path / "source.png"), "--output", str(tmp_path / "edited.png")]
    with pytest.raises(SystemExit):
        cli.main(["panorama", *files, "--preset", "tiny", *options.split()])
    assert line in capsys.readouterr().err


def test_the_bundled_editing_prior_is_of_the_wrong_kind_for_it(tmp_path, capsys):
    grey(100).save(tmp_path / "source.png")
    files = [str(tmp_path / "source.png"), "--output", str(tmp_path / "edited.png")]
    with pytest.raises(SystemExit):
        cli.main(["panorama", *files, *BRIGHTER])
    error = capsys.readouterr().err
    assert "This needs a text-to-image prior, 'tiny' is an editing prior" in error
    assert "The option is --prior." in error
