"""`csd-nerf sample`: inputs that the commands take, and the next command that is printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

from csd_nerf import cli
from csd_nerf.media.frames import open_frames
from csd_nerf.methods.csd_edit_splat.cameras import camera_frames, read_cameras
from csd_nerf.methods.csd_edit_splat.options import SplatSettings
from csd_nerf.methods.csd_edit_splat.placement import find_frame, find_shots, model_of
from csd_nerf.methods.csd_edit_splat.ply import read_ply
from csd_nerf.synthetic import samples
from csd_nerf.synthetic.dataset import view_cameras
from csd_nerf.synthetic.panoramas import draw_panorama, render_panorama
from csd_nerf.synthetic.scenes import SPLIT_SEEDS


def sample(kind: str, folder: Path, *options: str) -> None:
    cli.main(["sample", kind, str(folder), "--size", "64", *options])


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.fixture
def fewer(monkeypatch):
    monkeypatch.setattr(samples, "FRAMES", 3)


@pytest.mark.usefixtures("fewer")
@pytest.mark.parametrize("kind", ["scene", "panorama", "video", "capture"])
def test_a_seed_decides_a_sample_and_its_next_command_parses(kind, tmp_path, capsys):
    first, again, other = (tmp_path / name for name in ("first one", "again", "other"))
    sample(kind, first)
    told = capsys.readouterr().out
    assert told.startswith(f"Wrote {first}. Next:\n")
    program, command, *words = shlex.split(told.splitlines()[1])
    assert any(Path(word.split("=")[-1]).is_relative_to(first) for word in words)
    existing = [word for word in words if word.startswith(str(first)) and "sunset" not in word]
    outputs = {"sunset.png", "blueprint.mp4"}
    assert all(Path(word).exists() or Path(word).name in outputs for word in existing)
    if program == "csd-nerf":
        assert command in cli.COMMANDS
    else:
        assert (program, command) == ("ns-train", "csd-edit-splat-tiny")
    sample(kind, again)
    sample(kind, other, "--seed", "3")
    assert files(first) == files(again)
    assert files(first).keys() == files(other).keys()
    assert files(first) != files(other)


@pytest.mark.parametrize("kind", ["scene", "panorama"])
def test_a_sample_is_replaced_only_when_asked_and_only_a_sample(kind, tmp_path, capsys):
    folder = tmp_path / "made"
    sample(kind, folder)
    with pytest.raises(SystemExit):
        sample(kind, folder)
    assert "pass --overwrite" in capsys.readouterr().err
    before = files(folder)
    sample(kind, folder, "--overwrite", "--seed", "2")
    assert files(folder) != before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.txt").write_text("mine")
    with pytest.raises(SystemExit):
        sample(kind, mine, "--overwrite")
    assert "Only a folder that this command made" in capsys.readouterr().err
    assert files(mine) == {"a.txt": b"mine"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "8"), "--size must be at least 32 pixels, got 8."),
        (("--seed", "-1"), "--seed must be from 0 to 999999, got -1."),
    ],
)
def test_a_sample_of_wrong_size_or_seed_is_refused_in_one_line(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", "scene", str(tmp_path / "s"), *options])
    assert stop.value.code == 1
    assert capsys.readouterr().err == f"csd-nerf: {message}\n"


def test_a_panorama_drawn_in_bands_equals_one_drawn_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_BAND", 7)
    sample("panorama", tmp_path / "p", "--seed", "5")
    drawn = np.asarray(Image.open(tmp_path / "p" / "panorama.png")).astype(int)
    whole = draw_panorama(SPLIT_SEEDS["benchmark"][5], height=32, width=64, wrap=True)
    expected = (render_panorama(whole)[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(drawn - expected).max() <= 1


@pytest.mark.usefixtures("fewer")
def test_a_video_has_even_edges_whatever_the_size(tmp_path):
    cli.main(["sample", "video", str(tmp_path / "v"), "--size", "51"])
    film = open_frames(tmp_path / "v" / "video.mp4")
    assert (film.size, film.count) == ((38, 50), 3)


def test_a_capture_fits_together(tmp_path):
    """Cameras see the splats where the photographs show them, in COLMAP's frame and no other."""
    folder = tmp_path / "c"
    sample("capture", folder)
    cameras = read_cameras(folder / "sparse" / "0")
    poses = camera_frames(cameras)["colmap"]
    truth = view_cameras(len(poses)).camera_to_world
    torch.testing.assert_close(poses[:, :3], truth, atol=1e-5, rtol=0)
    settings = SplatSettings(
        splat=folder / "splats.ply",
        cameras=folder / "sparse" / "0",
        images=folder / "images",
        prompt="x",
        output=tmp_path / "x.ply",
    )
    gaussians, notices = read_ply(settings.splat)
    assert not notices
    model = model_of(gaussians, settings, device="cpu")
    frame, _, psnr = find_frame(model, cameras, find_shots(cameras, settings.images), settings)
    assert frame == "colmap"
    assert psnr is not None
    assert psnr > 17
    assert len(PlyData.read(str(settings.splat))["vertex"]) == len(gaussians.means)
    assert json.loads((folder / "sample.json").read_text())["kind"] == "capture"
