"""csd-nerf scene: splats and cameras of other programs, from a .ply to an edited .ply."""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from PIL import Image
from splat_runs import SIZE, VIEWS, splat_config, start_splats
from tint_prior import TintPrior

from csd_nerf import cli, priors
from csd_nerf.media.run_config import read_run_config
from csd_nerf.methods.csd_edit_splat import door
from csd_nerf.methods.csd_edit_splat.cameras import camera_frames, read_cameras
from csd_nerf.methods.csd_edit_splat.door import edit_splat
from csd_nerf.methods.csd_edit_splat.options import SplatSettings
from csd_nerf.methods.csd_edit_splat.placement import find_frame, find_shots, model_of
from csd_nerf.methods.csd_edit_splat.ply import Gaussians, read_ply, write_ply

QUICK = (
    *("--pipeline.edit-steps", "4", "--pipeline.edit-every", "2", "--pipeline.edit-views", "4"),
    *("--pipeline.edit.iterations", "2", "--logging.profiler", "none"),
)


@pytest.fixture(scope="module")
def trained(splat_data, tmp_path_factory):
    """A .ply of splats that look like the scene, in nerfstudio's frame, and its poses there."""
    folder = tmp_path_factory.mktemp("trained")
    config = splat_config(splat_data, folder)
    config.pipeline.source_steps = config.max_num_iterations = 250
    config.pipeline.model.refine_every = 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priors, "fetch", lambda *_, **__: None)
        trainer = start_splats(config)
        trainer.train()
    model = trainer.pipeline.model
    splat = folder / "splat.ply"
    write_ply(splat, Gaussians.of_state(trainer.pipeline.state_dict(), model))
    manager = trainer.pipeline.datamanager
    poses = {}
    for part in (manager.train_dataset, manager.eval_dataset):
        for path, pose in zip(part.image_filenames, part.cameras.camera_to_worlds, strict=True):
            poses[path.name] = torch.cat([pose, torch.eye(4)[3:]])
    assert len(poses) == VIEWS
    return splat, torch.stack([poses[name] for name in sorted(poses)])


def write_transforms(folder: Path, data: Path, poses, **others) -> Path:
    content = json.loads((data / "transforms.json").read_text())
    content["frames"].sort(key=lambda frame: frame["file_path"])
    for frame, pose in zip(content["frames"], poses, strict=True):
        frame["transform_matrix"] = pose.tolist()
    path = folder / "cameras.json"
    path.write_text(json.dumps({**content, **others}))
    return path


def write_colmap(folder: Path, data: Path, poses, suffix: str, *, larger: int = 1) -> Path:
    content = json.loads((data / "transforms.json").read_text())
    lens = [larger * content[key] for key in ("fl_x", "fl_y", "cx", "cy")]
    size = larger * SIZE
    models = {1: colmap.Camera(1, "PINHOLE", size, size, np.array(lens))}
    images = {}
    names = sorted(Path(frame["file_path"]).name for frame in content["frames"])
    for index, name in enumerate(names):
        world_to_camera = np.linalg.inv(poses[index].numpy() @ np.diag([1, -1, -1, 1]))
        turned = colmap.rotmat2qvec(world_to_camera[:3, :3])
        empty = np.zeros((0, 2)), np.zeros(0, dtype=int)
        # Numbers in another order than names.
        number = 100 - index
        images[number] = colmap.Image(number, turned, world_to_camera[:3, 3], 1, name, *empty)
    (folder / "sparse/0").mkdir(parents=True)
    colmap.write_model(models, images, {}, str(folder / "sparse/0"), suffix)
    return folder


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_a_damaged_model_is_read_or_refused_in_one_line(trained, splat_data, tmp_path, suffix):
    chance = random.Random(5)
    folder = write_colmap(tmp_path, splat_data, trained[1], suffix) / "sparse/0"
    refused = []
    for name in ("cameras", "images"):
        path = folder / f"{name}{suffix}"
        whole = path.read_bytes()
        for number in range(60):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 3)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path.write_bytes(data[: chance.randrange(len(data))] if number % 3 == 0 else data)
            try:
                read_cameras(folder)
            except ValueError as error:
                refused.append(str(error))
        path.write_bytes(whole)
    assert len(refused) > 20
    assert not any("\n" in line for line in refused)


@pytest.mark.parametrize("file", ["images", "points3D"])
def test_a_count_beyond_the_end_of_a_file_takes_no_memory(
    trained, splat_data, tmp_path, file, monkeypatch
):
    folder = write_colmap(tmp_path, splat_data, trained[1], ".bin") / "sparse/0"
    none = np.zeros(2, dtype=int)
    point = colmap.Point3D(7, np.zeros(3), np.zeros(3, dtype=int), 0.5, none, none)
    colmap.write_points3D_binary({7: point}, str(folder / "points3D.bin"))
    assert len(read_cameras(folder).names) > 1
    data = bytearray((folder / f"{file}.bin").read_bytes())
    at = {"images": data.index(0, 8 + 64) + 1, "points3D": 8 + 43}[file]
    assert int.from_bytes(data[at : at + 8], "little") == {"images": 0, "points3D": 2}[file]
    data[at + 4] = 1
    (folder / f"{file}.bin").write_bytes(data)
    monkeypatch.setattr(colmap, "read_model", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=f"{file}.bin of .* bytes with a count that needs"):
        read_cameras(folder)


def placed(splat, cameras, images, **options):
    settings = SplatSettings(
        splat=splat, cameras=cameras, images=images, prompt="x", output=Path("x.ply"), **options
    )
    found = read_cameras(cameras)
    model = model_of(read_ply(splat)[0], settings, device="cpu")
    return find_frame(model, found, find_shots(found, images), settings)


@pytest.mark.parametrize("kind", ["nerfstudio", "file", "applied", ".bin", ".txt"])
def test_the_frame_is_that_in_which_renders_are_like_the_photographs(
    trained, splat_data, tmp_path, kind
):
    splat, poses = trained
    if kind == "nerfstudio":
        cameras, wanted = splat_data, "nerfstudio"
    elif kind == "file":
        cameras, wanted = write_transforms(tmp_path, splat_data, poses), "file"
    elif kind == "applied":
        applied = torch.tensor([[0.0, 1, 0, 2], [0, 0, 1, 0], [1, 0, 0, -1], [0, 0, 0, 1]])
        rows = applied[:3].tolist()
        cameras = write_transforms(tmp_path, splat_data, applied @ poses, applied_transform=rows)
        wanted = "colmap"
    else:
        cameras, wanted = write_colmap(tmp_path, splat_data, poses, kind), "colmap"
    frame, found, psnr = placed(splat, cameras, splat_data / "images")
    assert frame == wanted
    assert psnr is not None
    assert psnr > 16
    names = read_cameras(cameras).names
    order = torch.tensor([names.index(name) for name in sorted(names)])
    assert torch.allclose(found[order], poses, atol=1e-4)


def test_a_frame_that_is_named_is_taken(trained, splat_data, tmp_path):
    splat, poses = trained
    cameras = write_colmap(tmp_path, splat_data, poses, ".bin")
    frame, found, psnr = placed(splat, cameras, splat_data / "images", frame="file")
    assert frame == "file"
    assert psnr is not None
    assert psnr < 14
    # What ns-process-data does to COLMAP's axes.
    assert torch.allclose(found[:, 0], poses[:, 0], atol=1e-5)
    assert torch.allclose(found[:, 1], poses[:, 2], atol=1e-5)
    assert torch.allclose(found[:, 2], -poses[:, 1], atol=1e-5)
    assert [*camera_frames(read_cameras(cameras))] == ["colmap", "file", "nerfstudio"]
    frame, _, psnr = placed(splat, cameras, None)
    assert (frame, psnr) == ("colmap", None)


def test_cameras_are_scaled_to_their_photographs(trained, splat_data, tmp_path):
    splat, poses = trained
    cameras = write_colmap(tmp_path, splat_data, poses, ".bin", larger=3)
    found = read_cameras(cameras)
    assert found.lenses[0]["w"] == 3 * SIZE
    shots = find_shots(found, splat_data / "images")
    wanted = json.loads((splat_data / "transforms.json").read_text())
    for shot in shots:
        assert (shot.lens["w"], shot.lens["h"]) == (SIZE, SIZE)
        for key in ("fl_x", "fl_y", "cx", "cy"):
            assert shot.lens[key] == pytest.approx(wanted[key])
    _, _, psnr = placed(splat, cameras, splat_data / "images")
    assert psnr is not None
    assert psnr > 16


@pytest.fixture
def tinted(monkeypatch):
    monkeypatch.setattr(priors, "fetch", lambda *_, **__: None)
    monkeypatch.setattr(priors, "load", lambda *_, **__: TintPrior())


def settings_of(trained, cameras, output, **options) -> SplatSettings:
    return SplatSettings(
        splat=trained[0],
        cameras=cameras,
        output=output,
        prompt="swap red and blue",
        preset="tiny",
        **{"train_options": QUICK, **options},
    )


def larger(trained, folder: Path, factor: float):
    """The same splats and cameras, in a scene of another scale."""
    splat, poses = trained
    found = read_ply(splat)[0]
    scales = found.scales + math.log(factor)
    write_ply(folder / "larger.ply", replace(found, means=factor * found.means, scales=scales))
    moved = poses.clone()
    moved[:, :3, 3] *= factor
    return folder / "larger.ply", moved


@pytest.mark.usefixtures("tinted")
@pytest.mark.parametrize("with_images", [False, True])
def test_a_file_becomes_an_edited_file(trained, splat_data, tmp_path, capsys, with_images):
    splat, poses = larger(trained, tmp_path, 5.0)
    before = splat.read_bytes()
    cameras = write_colmap(tmp_path / "colmap", splat_data, poses, ".bin")
    images = splat_data / "images" if with_images else None
    output = tmp_path / "out" / "edited.ply"
    looks = {"background": "white", "antialiased": True} if with_images else {}
    edit_splat(settings_of((splat, poses), cameras, output, images=images, **looks))
    assert splat.read_bytes() == before
    run = tmp_path / "out" / "edited_run"
    record = json.loads((run / "scene.json").read_text())
    assert record["frame"] == "colmap"
    assert (record["psnr_source"] is not None) == with_images
    centres = poses[:, :3, 3]
    extent = float((centres - centres.mean(0)).abs().max())
    assert record["camera_extent"] == pytest.approx(extent, rel=1e-4)
    assert extent > 3
    told = capsys.readouterr()
    assert f"--optimizers.means.optimizer.lr {1.6e-3 * extent:.4g}" in told.out
    assert "--viewer.quit-on-train-completion True" in told.out
    assert ("renders of the splats are edited" in told.err) != with_images
    assert "no view is held out" in told.out
    # The photographs, or what the splats show in their places.
    for path in (run / "capture/images").iterdir():
        shown = np.asarray(Image.open(path)) / 255
        truth = np.asarray(Image.open(splat_data / "images" / path.name)) / 255
        error = np.square(shown - truth).mean()
        assert (error == 0) if with_images else 0 < error < 0.03
    # No Gaussian is lost, and colours follow the edit.
    first, second = read_ply(splat)[0], read_ply(output)[0]
    assert len(first.means) == len(second.means)
    assert float((first.means - second.means).abs().max()) < 0.1 * extent
    change = second.features_dc - first.features_dc
    swapped = first.features_dc.flip(1) - first.features_dc
    assert float((change * swapped).sum()) > 0
    edit = run / "edit/csd-edit-splat-tiny/001"
    assert (edit / "splats/edited.ply").read_bytes() == output.read_bytes()
    assert f"Look at the views of each round in {edit / 'rounds'}," in told.out
    assert list((edit / "rounds").glob("*.png"))
    model = read_run_config(edit / "config.yml").pipeline.model
    wanted = ("white", "antialiased", 1) if with_images else ("black", "classic", 1)
    assert (model.background_color, model.rasterize_mode, model.sh_degree) == wanted
    records = [json.loads(p.read_text()) for p in sorted((edit / "rounds").glob("*.json"))]
    assert [r["step"] for r in records] == [30_000, 30_002]


@pytest.mark.usefixtures("tinted")
def test_a_region_reaches_the_run(trained, splat_data, tmp_path, monkeypatch):
    class BegunError(Exception):
        pass

    def begin(config):
        asked.append((config.pipeline.region, config.pipeline.region_model))
        raise BegunError

    asked = []
    monkeypatch.setattr(door.train, "main", begin)
    settings = settings_of(
        trained, splat_data, tmp_path / "edited.ply", region="the cube", region_model="a/model"
    )
    with pytest.raises(BegunError):
        edit_splat(settings)
    assert asked == [("the cube", "a/model")]


def test_an_interrupted_run_goes_on(trained, splat_data, tmp_path):
    whole, first = (tmp_path / name / "edited.ply" for name in ("whole", "first"))
    edit_splat(settings_of(trained, splat_data, whole, frame="nerfstudio"))
    cut = (*QUICK, "--max-num-iterations", "3")
    edit_splat(settings_of(trained, splat_data, first, frame="nerfstudio", train_options=cut))
    stopped = first.read_bytes()
    with pytest.raises(FileExistsError, match="--resume to go on"):
        edit_splat(settings_of(trained, splat_data, first))
    assert first.read_bytes() == stopped
    edit_splat(settings_of(trained, splat_data, first, resume=True))
    assert first.read_bytes() == whole.read_bytes() != stopped


def test_only_its_own_result_is_replaced(trained, splat_data, tmp_path):
    output = tmp_path / "mine.ply"
    output.write_text("mine")
    with pytest.raises(FileExistsError, match="Only a result of this command is replaced"):
        edit_splat(settings_of(trained, splat_data, output, overwrite=True))
    assert output.read_text() == "mine"
    assert not (tmp_path / "mine_run").exists()


def test_mistakes_are_one_line(trained, splat_data, tmp_path, capsys):
    splat, poses = trained
    few = tmp_path / "few"
    shutil.copytree(splat_data / "images", few)
    next(few.iterdir()).unlink()
    wide = tmp_path / "wide"
    wide.mkdir()
    for path in (splat_data / "images").iterdir():
        Image.open(path).resize((2 * SIZE, SIZE)).save(wide / path.name)
    away = poses.clone()
    away[:, :3, 3] *= 1000
    turned = write_transforms(
        tmp_path, splat_data, poses @ torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    )
    broken = write_colmap(tmp_path / "broken", splat_data, poses, ".bin")
    (broken / "sparse/0/images.bin").write_bytes(b"\x05\0\0")
    panorama = write_transforms(
        (tmp_path / "p", (tmp_path / "p").mkdir())[0],
        splat_data,
        poses,
        camera_model="EQUIRECTANGULAR",
    )
    far = write_transforms((tmp_path / "f", (tmp_path / "f").mkdir())[0], splat_data, away)
    usual = {"--splat": splat, "--cameras": splat_data, "--prompt": "x", "--output": "o.ply"}
    for changes, what in (
        ({"--splat": tmp_path / "none.ply"}, "which does not exist"),
        ({"--splat": few}, "which is a folder"),
        ({"--splat": splat_data / "transforms.json"}, "which is no .ply"),
        ({"--cameras": few}, "with neither"),
        ({"--cameras": broken}, "must be a whole COLMAP model"),
        ({"--cameras": panorama, "--frame": "file"}, "Splats need perspective or fisheye"),
        ({"--cameras": far, "--frame": "file"}, "Cameras must see the splats"),
        (
            {"--cameras": turned, "--images": splat_data / "images"},
            "more like the photographs than their mean colours are",
        ),
        ({"--frame": "colmap"}, "--frame must be one of file, nerfstudio"),
        ({"--images": few}, "must hold a photograph for each camera"),
        ({"--images": wide}, f"got {wide}"),
        ({"--prompt": " "}, "--prompt needs an instruction"),
        ({"--output": "o.splat"}, "--output must end in .ply"),
        ({"--output": splat}, "--output must be another file than --splat"),
    ):
        words = ["scene"]
        for option, value in {**usual, "--output": tmp_path / "o.ply", **changes}.items():
            words += [option, str(value)]
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        told = capsys.readouterr().err.strip().splitlines()
        assert caught.value.code == 1, words
        assert what in told[-1], (changes, told)
        assert not (tmp_path / "o.ply").exists()
        assert not (tmp_path / "o_run").exists()
