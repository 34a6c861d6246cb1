"""A region of splats: their surface's points, and what is held outside of it."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from splat_runs import gaussians_of, start_splats
from tint_prior import TintPrior

from csd_nerf import priors
from csd_nerf.media.pixels import to_bytes


@pytest.fixture
def _tint(monkeypatch):
    monkeypatch.setattr(priors, "fetch", lambda *_, **__: None)
    monkeypatch.setattr(priors, "load", lambda *_, **__: TintPrior())


@pytest.mark.usefixtures("_tint")
def test_points_of_splats_on_a_plane_lie_on_it(make_splats):
    """Seen aslant, by a camera that was corrected."""
    config = make_splats()
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    trainer = start_splats(config)
    model, scene = trainer.pipeline.model, trainer.pipeline.scene
    with torch.no_grad():
        turn = torch.tensor([0.02, 0.05, 0.03, 0.1, 0.05, 0.1])
        model.camera_optimizer.pose_adjustment[4] = turn
    cameras: Cameras = trainer.pipeline.datamanager.train_dataset.cameras
    camera = cameras[4:5]
    camera.metadata = {"cam_idx": 4}
    pose = model.camera_optimizer.apply_to_camera(camera)[0].detach()
    # A plane one unit ahead, whose normal leans by half towards the camera's right.
    origin = pose[:, 3] - pose[:, 2]
    along, up = pose[:, 0] - 0.5 * pose[:, 2], pose[:, 1]
    normal = torch.linalg.cross(along, up)
    normal = normal / normal.norm()
    steps = torch.linspace(-1.2, 1.2, 97)
    means = origin + (steps[:, None, None] * along + steps[None, :, None] * up).view(-1, 3)
    count = len(means)
    values = {
        "means": means,
        "scales": torch.full((count, 3), 0.015).log(),
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        "opacities": torch.full((count, 1), 4.0),
        "features_dc": torch.zeros(count, 3),
        "features_rest": torch.zeros(count, *model.gauss_params["features_rest"].shape[1:]),
    }
    for name, value in values.items():
        model.gauss_params[name] = torch.nn.Parameter(value)
    # Photographs are undistorted, and their cameras keep what they were.
    cameras.distortion_params = torch.zeros(len(cameras), 6)
    cameras.distortion_params[:, 0] = 0.3
    render = scene.render(4, size=(32, 48))
    off = ((render.points - origin) @ normal).abs()
    middle = off[8:24, 12:36]
    assert float(middle.max()) < 0.02
    # Where the pixels look, by the camera's own axes.
    seen = (render.points - pose[:, 3]) @ pose[:, :3]
    fx, cx = float(cameras.fx[4]), float(cameras.cx[4])
    width = float(cameras.width[4])
    column = (cx + fx * seen[..., 0] / -seen[..., 2]) * 48 / width
    assert torch.allclose(column, (torch.arange(48) + 0.5).expand(32, 48), atol=0.01)


@pytest.mark.usefixtures("_tint")
def test_gaussians_outside_of_a_region_stay_to_the_last_bit(make_splats):
    config = make_splats()
    config.pipeline.region = "labels:1"
    config.pipeline.source_steps, config.pipeline.start = 10, "original"
    trainer = start_splats(config)
    model, scene = trainer.pipeline.model, trainer.pipeline.scene
    kept = {}

    def remember(*, is_resumed, begin=trainer.begin_editing):
        begin(is_resumed=is_resumed)
        kept.update(gaussians_of(trainer))

    trainer.begin_editing = remember
    trainer.train()
    free = model._free
    assert 0 < int(free.sum()) < len(free)
    inside = trainer.pipeline.stage.regions.find("labels:1", base=None).inside
    assert torch.equal(free, inside(kept["means"]))
    for name, value in gaussians_of(trainer).items():
        assert torch.equal(value[~free], kept[name][~free]), name
    assert not torch.equal(model.gauss_params["features_dc"][free], kept["features_dc"][free])
    for view, image in trainer.pipeline.datamanager.edited.items():
        mask = trainer.pipeline.stage.regions.find("labels:1", base=None)
        outside = ~mask.inside_of(view, (image.shape[0], image.shape[1]))
        photograph = to_bytes(scene.photograph01(view))
        assert torch.equal(image[outside], photograph[outside])


@pytest.mark.usefixtures("_tint")
def test_gaussians_that_are_held_can_not_be_split(make_splats):
    config = make_splats()
    config.pipeline.region = "labels:1"
    config.pipeline.model.densify_editing = True
    with pytest.raises(SystemExit, match=r"densify-editing True.*leave one out"):
        start_splats(config)


@pytest.mark.usefixtures("_tint")
def test_masks_are_undistorted_as_their_photographs_are(make_splats, splat_data, tmp_path):
    """A mask that is its photograph, made black and white, still is after both are undistorted."""
    import json
    import shutil

    data = tmp_path / "data"
    shutil.copytree(splat_data, data)
    content = json.loads((data / "transforms.json").read_text())
    (data / "transforms.json").write_text(json.dumps({**content, "k1": 0.2, "k2": 0.05}))
    trainer = start_splats(make_splats(data=data))
    scene = trainer.pipeline.scene
    images = trainer.pipeline.datamanager.train_dataset
    grey = images.get_image_float32(3).mean(-1)
    straight = scene.as_photograph(3, grey)
    photograph = scene.photograph01(3)
    assert straight.shape == photograph.shape[1:]
    assert float((straight - photograph.mean(0)).abs().max()) < 0.01
    plain = torch.nn.functional.interpolate(grey[None, None], straight.shape)[0, 0]
    assert float((plain - photograph.mean(0)).abs().max()) > 0.05
