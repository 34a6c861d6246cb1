"""A region of a nerfacto scene: its surface's points, what is held, and mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from edit_runs import SIZE, message_of, start, write_dataset
from PIL import Image

from csd_nerf.media.pixels import to_bytes
from csd_nerf.methods.csd_edit.datamanager import HELD, UNUSED
from csd_nerf.scene.protocol import HoldsOutside, PhotographFiles


def half_masks(data, folder, views=range(12)):
    """Masks of the left halves of photographs."""
    folder.mkdir(exist_ok=True)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 255
    for view in views:
        Image.fromarray(mask).save(folder / f"frame_{view:05d}.png")
    return folder


def projected(points, pose, focal, centre):
    """Columns, rows and distances of points in a pinhole camera that looks along -z."""
    seen = (points - pose[:, 3]) @ pose[:, :3]
    ahead = -seen[..., 2]
    column = centre[0] + focal[0] * seen[..., 0] / ahead
    row = centre[1] - focal[1] * seen[..., 1] / ahead
    return column, row, seen.norm(dim=-1)


def test_points_lie_where_the_corrected_camera_sees_them(make_config, tint_prior):
    config = make_config()
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    trainer = start(config)
    model, scene = trainer.pipeline.model, trainer.pipeline.scene
    cameras = trainer.pipeline.datamanager.train_dataset.cameras
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment[3] = torch.tensor([0.1, 0.0, 0.2, 0.3, 0.1, 0.0])
    render = scene.render(3, size=(24, 40))
    pose = model.camera_optimizer.apply_to_camera(
        type(cameras)(**_camera(cameras[3:4]), metadata={"cam_idx": 3})
    )[0].detach()
    assert not torch.allclose(pose, cameras[3].camera_to_worlds, atol=0.05)
    # The camera's 48 x 48 pixels are 40 x 24 here.
    fx, fy = (float(value[3]) for value in (cameras.fx, cameras.fy))
    cx, cy = (float(value[3]) for value in (cameras.cx, cameras.cy))
    focal, centre = (fx * 40 / 48, fy * 24 / 48), (cx * 40 / 48, cy * 24 / 48)
    column, row, distance = projected(render.points, pose, focal, centre)
    assert torch.allclose(column, (torch.arange(40) + 0.5).expand(24, 40), atol=1e-2)
    assert torch.allclose(row, (torch.arange(24) + 0.5)[:, None].expand(24, 40), atol=1e-2)
    assert torch.allclose(distance, render.depth, rtol=1e-3)


def _camera(camera):
    names = ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "camera_type")
    return {name: getattr(camera, name) for name in names}


def test_outside_of_a_region_rays_are_held_and_photographs_stay(tmp_path, make_config, tint_prior):
    data = write_dataset(tmp_path / "data")
    config = make_config(data=data)
    config.pipeline.region = str(half_masks(data, tmp_path / "masks"))
    config.pipeline.edit_steps = 1
    trainer = start(config)
    manager, scene, model = trainer.pipeline.datamanager, trainer.pipeline.scene, None
    assert isinstance(scene, HoldsOutside)
    assert isinstance(scene, PhotographFiles)
    trainer.train()
    assert len(manager.edited) == 4
    half = SIZE // 2
    for view, image in manager.edited.items():
        photograph = to_bytes(scene.photograph01(view))
        assert torch.equal(image[:, half:], photograph[:, half:])
        assert not torch.equal(image[:, :half], photograph[:, :half])

    rays, batch = manager.next_train(5)
    view, _, x = batch["indices"].unbind(1)
    edited = torch.isin(view, torch.tensor(sorted(manager.edited)))
    # One pixel beside the region isn't held.
    assert torch.equal(batch[HELD][:, 0], x > half)
    assert torch.equal(batch[UNUSED][:, 0], (x < half) & ~edited)
    assert torch.equal(rays.metadata[HELD], batch[HELD])
    # Half of them are of edited views; with one in three edited, more than half.
    assert 0.5 <= float(edited.float().mean()) < 0.9

    model = trainer.pipeline.model.train()
    outputs = model(rays)
    kept = model.unedited.eval()
    expected = kept(manager.train_ray_generator(batch["indices"]))["rgb"]
    held = batch[HELD][:, 0]
    assert torch.allclose(outputs[HELD][held], expected[held], atol=1e-4)
    losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
    squares = (outputs["rgb"] - expected)[held] ** 2
    weight = model.config.held_weight
    assert torch.allclose(losses["held_loss"], weight * squares.sum() / (3 * len(held)), rtol=1e-2)
    used = ~held & ~batch[UNUSED][:, 0]
    assert bool(used[x == half].all())
    wrong = (outputs["rgb"] - batch["image"])[used].abs().sum() / (3 * len(held))
    assert torch.allclose(losses["rgb_loss"], wrong, rtol=1e-3)


def test_a_resumed_run_adopts_the_region_and_goes_on_the_same(tmp_path, make_config, train):
    """To the last bit, with masks lifted from two views through the unedited scene's depth."""
    from edit_runs import checkpoint_of, differences

    data = write_dataset(tmp_path / "data")
    masks = half_masks(data, tmp_path / "masks", (0, 5))

    def configured(name):
        config = make_config(name, data=data)
        config.pipeline.region = str(masks)
        config.pipeline.start = "original"
        return config

    whole = train(configured("whole"))
    first = configured("first")
    first.max_num_iterations = 6
    stopped = train(first)
    second = make_config("second", data=data)
    second.load_dir = stopped.checkpoint_dir
    resumed = train(second, seed=7)
    assert second.pipeline.region == str(masks)
    assert differences(checkpoint_of(whole), checkpoint_of(resumed)) == []
    record = json.loads((resumed.base_dir / "rounds" / "round_001.json").read_text())
    assert record["region"] == str(masks)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("labels:0,3", "label images in .*labels, which is no folder"),
        ("0,0,0,1,1", "A box in a scene needs 6 numbers"),
        ("0,0,2,1,1,1", "needs x0 < x1, y0 < y1 and z0 < z1"),
        ("90,90,90,91,91,91", "where cameras look, got 90,90,90,91,91,91, which none of"),
        ("no/such/folder", "Masks need a folder, got no/such/folder"),
        ("the car", "No weights for the segmenter"),
    ],
)
def test_mistakes_end_a_run_before_it_trains(make_config, tint_prior, region, message, monkeypatch):
    from csd_nerf.priors import flat_models
    from csd_nerf.priors.hub import HubError

    def refuse(repo):
        raise HubError("it is out of reach")

    monkeypatch.setattr(flat_models, "list_files", refuse)
    monkeypatch.setattr(flat_models, "cached_file", lambda *_: None)
    config = make_config()
    config.pipeline.region = region
    with pytest.raises(SystemExit, match=message):
        start(config)


def test_masks_of_another_shape_end_a_run_before_it_trains(tmp_path, make_config, tint_prior):
    config = make_config()
    (tmp_path / "masks").mkdir()
    Image.new("L", (SIZE, SIZE // 2), 255).save(tmp_path / "masks" / "frame_00003.png")
    config.pipeline.region = str(tmp_path / "masks")
    assert "frame_00003.png" in message_of(config)


def test_transparent_photographs_stay_to_the_last_bit_outside(tmp_path, make_config, tint_prior):
    """Their colours aren't those of the blend that is edited."""
    folder = write_dataset(tmp_path / "data")
    alpha = torch.linspace(0, 255, SIZE).round().byte().expand(SIZE, SIZE)
    for path in (folder / "images").iterdir():
        picture = Image.open(path)
        picture.putalpha(Image.fromarray(alpha.numpy()))
        picture.save(path)
    config = make_config(data=folder)
    config.pipeline.model.background_color = "white"
    pipeline = start(config).pipeline
    scene, images = pipeline.scene, pipeline.datamanager._cached["image"]
    before = images[2].clone()
    edited = to_bytes(scene.photograph01(2))
    edited[:, 40:] = 255 - edited[:, 40:]
    scene.set_edited({2: edited})
    assert torch.equal(images[2][:, :40], before[:, :40])
    assert not torch.equal(images[2][:, 40:], before[:, 40:])
