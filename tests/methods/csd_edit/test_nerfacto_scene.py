"""The editing stage's view of a nerfacto scene: cameras, images and what is restored."""

from __future__ import annotations

import torch
from conftest import start


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
