"""The editing stage's view of a nerfacto scene: cameras, images and what is restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edit_runs import start, write_dataset
from nerfstudio.cameras.cameras import Cameras
from PIL import Image

from csd_nerf.media.pixels import to_bytes
from csd_nerf.methods.common.edit_scene import resized_camera
from csd_nerf.scene.protocol import Scene


def test_training_views_are_rendered_through_their_corrected_cameras(make_config, tint_prior):
    config = make_config()
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    trainer = start(config)
    model, cameras = trainer.pipeline.model, trainer.pipeline.datamanager.train_dataset.cameras
    scene = trainer.pipeline.scene
    plain = scene.render(3, size=(24, 40))
    assert (plain.image01.shape, plain.depth.shape) == ((3, 24, 40), (24, 40))
    assert model.training
    uncorrected = model.eval().get_outputs_for_camera(cameras[3:4])
    same_size = scene.render(3, size=(48, 48))
    same01 = same_size.image01
    assert torch.allclose(same01.permute(1, 2, 0), uncorrected["rgb"].clamp(0, 1), atol=1e-5)
    assert torch.allclose(same_size.depth, uncorrected["depth"][..., 0], atol=1e-5)

    with torch.no_grad():
        model.camera_optimizer.pose_adjustment[3] = torch.tensor([0.1, 0.0, 0.2, 0.3, 0.1, 0.0])
    corrected = scene.render(3, size=(48, 48)).image01
    assert not torch.allclose(corrected, same01, atol=1e-4)
    model.train()
    bundle = cameras.generate_rays(
        torch.full((48, 48, 1), 3), coords=cameras.get_image_coords()
    ).flatten()
    model.camera_optimizer.apply_to_raybundle(bundle)
    rays = cameras[3:4].generate_rays(camera_indices=0).flatten()
    rays.origins, rays.directions = bundle.origins, bundle.directions
    expected = model.eval()(rays)["rgb"].view(48, 48, 3).permute(2, 0, 1)
    assert torch.allclose(corrected, expected.clamp(0, 1), atol=1e-4)


def test_names_photographs_and_sizes_are_those_of_the_files(tmp_path, make_config, tint_prior):
    sizes = [(40 + 2 * view, 60 - 2 * view) for view in range(6)]
    scene = start(make_config(data=write_dataset(tmp_path / "data", sizes=sizes))).pipeline.scene
    assert isinstance(scene, Scene)
    assert scene.num_views == 6
    for view in range(scene.num_views):
        path = tmp_path / "data" / scene.name(view)
        truth = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
        assert torch.equal(scene.photograph01(view), truth)


@pytest.mark.parametrize("background", ["last_sample", "white"])
def test_transparency_is_blended_once(tmp_path, make_config, tint_prior, background):
    folder = write_dataset(tmp_path / "data")
    alpha = torch.linspace(0, 255, 48).round().byte().expand(48, 48)
    for path in (folder / "images").iterdir():
        picture = Image.open(path)
        picture.putalpha(Image.fromarray(alpha.numpy()))
        picture.save(path)
    config = make_config(data=folder)
    config.pipeline.model.background_color = background
    pipeline = start(config).pipeline
    scene, images = pipeline.scene, pipeline.datamanager._cached["image"]

    def trained_on(view: int) -> torch.Tensor:
        """As nerfacto's loss blends it."""
        blend = pipeline.model.renderer_rgb.blend_background_for_loss_computation
        image01 = images[view] / 255
        return blend(torch.zeros(48, 48, 3), torch.zeros(48, 48, 1), image01)[1]

    before, original = trained_on(2), images[2].clone()
    scene.set_edited({2: to_bytes(scene.photograph01(2))})
    # The edit and the colours are rounded to 8 bits, one after the other.
    assert (trained_on(2) - before).abs().max() <= 1 / 255 + 1e-5
    assert torch.equal(images[2][..., 3], original[..., 3])
    # Half of the light is reached wherever the background itself isn't brighter.
    scene.set_edited({2: to_bytes(scene.photograph01(2) / 2)})
    shines = (1 - original[..., 3:] / 255) * (background == "white")
    reached = (before / 2 >= shines).all(-1) & (original[..., 3] > 0)
    assert reached.float().mean() > 0.05
    assert (trained_on(2) - before / 2)[reached].abs().max() <= 1.5 / 255
    pipeline.datamanager.reset_images()
    assert torch.equal(images[2], original)


def test_edited_images_are_trained_on_in_their_own_view_and_photographs_come_back(
    make_config, tint_prior
):
    scene = (pipeline := start(make_config()).pipeline).scene
    manager = pipeline.datamanager
    before = manager._cached["image"].clone()
    edits = {view: torch.full((48, 48, 3), 20 * view, dtype=torch.uint8) for view in (1, 4)}
    scene.set_edited(edits)
    for view in range(scene.num_views):
        now = manager._cached["image"][view]
        assert torch.equal(now, edits[view] if view in edits else before[view])
        assert torch.equal(scene.photograph01(view).permute(1, 2, 0), before[view] / 255)
    state = scene.state_dict()
    manager.reset_images()
    assert torch.equal(manager._cached["image"], before)
    scene.loaded_edits = scene.edits
    scene.load_state_dict(state)
    assert torch.equal(manager._cached["image"][4], edits[4])


def test_the_proposal_networks_are_trained_at_the_same_steps_in_a_resumed_run(
    make_config, tint_prior
):
    """Their sampler counts steps, which nerfstudio starts again from zero."""
    first, second = (start(make_config(name)).pipeline for name in ("first", "second"))
    sampler = first.model.proposal_sampler
    sampler._step, sampler._steps_since_update = 700, 3
    second.scene.load_state_dict(first.scene.state_dict())
    restored = second.model.proposal_sampler
    assert (restored._step, restored._steps_since_update) == (700, 3)


def test_known_points_are_seen_at_the_same_place_at_every_size():
    """A camera whose two axes differ in all that can be confused."""
    camera = Cameras(
        camera_to_worlds=torch.tensor([[[0.0, 0, 1, 2], [1, 0, 0, -1], [0, 1, 0, 3]]]),
        fx=50.0,
        fy=70.0,
        cx=20.0,
        cy=45.0,
        width=60,
        height=80,
    )
    pose = camera.camera_to_worlds[0]
    points = torch.tensor([[-0.3, 0.2, -1.0], [0.5, -0.4, -2.0], [0.0, 0.0, -1.5]])
    for height, width in ((80, 60), (40, 90), (16, 16)):
        small = resized_camera(camera, (height, width))
        assert (int(small.height), int(small.width)) == (height, width)
        for x, y, z in points.tolist():
            # A pinhole: x to the right, y up, the camera looks along -z.
            column, row = 20 + 50 * x / -z, 45 - 70 * y / -z
            at = torch.tensor([[row * height / 80, column * width / 60]])
            ray = small.generate_rays(torch.zeros(1, 1, dtype=torch.long), coords=at)
            toward = pose[:, :3] @ torch.tensor([x, y, z])
            toward = toward / toward.norm()
            assert torch.allclose(ray.directions[0], toward, atol=1e-5)
            assert torch.allclose(ray.origins[0], pose[:, 3])


def test_a_small_render_shows_what_the_large_one_does(make_config, tint_prior):
    """By areas: each pixel of it is about the mean of those that it covers."""
    trainer = start(make_config())
    trainer.train()
    scene = trainer.pipeline.scene
    large = scene.render(2, size=(48, 48)).image01
    small = scene.render(2, size=(8, 24)).image01
    means = large.view(3, 8, 6, 24, 2).mean((2, 4))
    assert (small - means).abs().mean() < 0.3 * (means - means.mean((1, 2), True)).abs().mean()
