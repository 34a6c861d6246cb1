from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio as batch_psnr

from csd_nerf.evaluation import compare as scene
from csd_nerf.evaluation.compare import compare_scene, true_edit
from csd_nerf.evaluation.similarity import psnr
from csd_nerf.synthetic import cameras as synthetic_cameras
from csd_nerf.synthetic.dataset import view_cameras
from csd_nerf.synthetic.edits import find_edit
from csd_nerf.synthetic.looks import LOOKS
from csd_nerf.synthetic.render import render
from csd_nerf.synthetic.scenes import draw_scenes


def images(n: int, *, seed: int) -> Tensor:
    return torch.rand(n, 3, 12, 16, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_the_mean_of_the_images_own():
    truth = images(3, seed=0)
    # Errors of different size, so that the mean of PSNRs is not the PSNR of the mean error.
    image = truth + torch.tensor([0.01, 0.1, 0.3])[:, None, None, None] * images(3, seed=1)
    single = [
        peak_signal_noise_ratio(a.double().numpy(), b.double().numpy(), data_range=1)
        for a, b in zip(truth, image, strict=True)
    ]
    assert math.isclose(psnr(image, truth), np.mean(single), rel_tol=1e-5)
    assert abs(psnr(image, truth) - float(batch_psnr(image, truth, data_range=1.0))) > 1


def test_psnr_of_known_errors():
    truth = torch.full((1, 3, 4, 4), 0.5)
    assert math.isclose(psnr(truth + 0.1, truth), 20, abs_tol=1e-4)
    assert psnr(truth, truth) == math.inf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of two views whose recorded edit swaps red and blue, twice as large."""
    for name in ("images", "edited"):
        (tmp_path / name).mkdir()
    for index, image in enumerate(images(2, seed=3)):
        pixels = (255 * image).round().byte().permute(1, 2, 0).numpy()
        large = pixels[..., ::-1].repeat(2, axis=0).repeat(2, axis=1)
        Image.fromarray(np.ascontiguousarray(large)).save(tmp_path / "edited" / f"{index}.png")
    (tmp_path / "transforms.json").write_text("{}")
    (tmp_path / "edit.json").write_text(json.dumps({"edit": "night"}))
    return tmp_path


NAMES = [Path("images/1.png"), Path("images/0.png")]


@pytest.mark.parametrize("given", ["folder", "file"])
def test_the_data_set_s_own_edit_is_taken_in_the_order_of_the_views(folder, given):
    data = folder if given == "folder" else folder / "transforms.json"
    photograph = images(2, seed=3).flip(0)
    truth = true_edit(find_edit("turn day into night"), photograph, NAMES, data=data)
    torch.testing.assert_close(truth, photograph.flip(1), atol=1 / 255, rtol=0)


def test_another_look_is_applied_to_the_photographs(folder):
    photograph = images(2, seed=3)
    truth = true_edit(find_edit("sepia"), photograph, NAMES, data=folder)
    assert truth.equal(LOOKS["sepia"](photograph))


def test_a_look_needs_no_record_even_beside_a_folder_called_edited(folder):
    (folder / "edit.json").unlink()
    photograph = images(2, seed=3)
    truth = true_edit(find_edit("night"), photograph, NAMES, data=folder)
    assert truth.equal(LOOKS["night"](photograph))


def test_another_edit_of_the_scene_has_no_known_truth(folder):
    with pytest.raises(ValueError, match=r"'floor lava' must be known, but .*/edited holds no"):
        true_edit(find_edit("floor lava"), images(2, seed=3), NAMES, data=folder)


def test_comparing_needs_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--load-config needs the config\.yml of a csd-ed"):
        compare_scene(tmp_path / "config.yml", tmp_path / "out")


def write_config(path: Path, config) -> Path:
    config = copy.deepcopy(config)
    config.output_dir, config.experiment_name, config.timestamp = path / "out", "e", "t"
    (path / "config.yml").write_text(yaml.dump(config))
    return path / "config.yml"


def test_comparing_runs_no_code_of_a_config(tmp_path, monkeypatch):
    from nerfstudio.configs.method_configs import all_methods

    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, all_methods["csd-edit-tiny"])
    spoilt = "!!python/object/apply:os.system ['touch RAN']"
    config.write_text(
        config.read_text().replace("load_scheduler: true", f"load_scheduler: {spoilt}")
    )
    with pytest.raises(ValueError, match=r"it names os.system, and only options of nerfstudio"):
        compare_scene(config, tmp_path / "out")
    assert not Path("RAN").exists()


def test_comparing_needs_a_run_of_csd_edit(tmp_path):
    from nerfstudio.configs.method_configs import all_methods

    config = write_config(tmp_path, all_methods["nerfacto"])
    with pytest.raises(
        ValueError, match=r"needs a run of csd-edit or csd-edit-splat, got one of nerfacto\."
    ):
        compare_scene(config, tmp_path / "out")


def test_comparing_needs_a_checkpoint(tmp_path, monkeypatch):
    from nerfstudio.configs.method_configs import all_methods

    from csd_nerf.methods.csd_edit.config import csd_edit_tiny

    monkeypatch.setitem(all_methods, "csd-edit-tiny", csd_edit_tiny.config)
    config = write_config(tmp_path, csd_edit_tiny.config)
    with pytest.raises(FileNotFoundError, match=r"needs a checkpoint .*nerfstudio_models has none"):
        compare_scene(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_renders_are_compared_along_the_video_by_nerfacto_s_kind_of_depth():
    """Distances along unit rays, as the ray caster gives them too, with nerfstudio's cameras."""
    from nerfstudio.cameras.cameras import Cameras

    size = 24
    orbit = view_cameras(40)
    near = synthetic_cameras.Cameras(orbit.camera_to_world[:3], orbit.focal[:3])
    seen = render(draw_scenes([7]).repeat(3), near, height=size, width=size, supersample=1)
    path = Cameras(near.camera_to_world, size * near.focal, size * near.focal, size / 2, size / 2)
    agreeing = scene._agreement("source", path, seen.image01, seen.depth)
    image01 = seen.image01 * torch.tensor([1.0, 0.5, 1.0])[:, None, None, None]
    edited = scene._agreement("edited", path, image01, seen.depth)
    assert agreeing["cross_view_source"] < 0.05
    assert edited["cross_view_edited"] > 3 * agreeing["cross_view_source"]
    assert agreeing["cross_view_seen_source"] == edited["cross_view_seen_edited"] > 0.4
    nowhere = scene._agreement("source", path, image01, torch.full_like(seen.depth, math.inf))
    assert nowhere == {"cross_view_source": None, "cross_view_seen_source": 0.0}
