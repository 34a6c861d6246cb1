from __future__ import annotations

import pytest
import torch
import torchvision
from edit_runs import start
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.spatial_distortions import SceneContraction

from csd_nerf.methods.common.perceptual import LazyPerceptualDistance
from csd_nerf.methods.common.quick_fields import CompiledHashEncoding, CubeContraction


@pytest.fixture
def random_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torchvision.models.alexnet(weights=None).state_dict()
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: weights
    )


def losses_of(pipeline) -> dict[str, float]:
    torch.manual_seed(0)
    _, losses, _ = pipeline.get_train_loss_dict(step=0)
    return losses


def test_editing_has_its_own_losses_and_rays_in_patches(make_config, tint_prior, random_alexnet):
    config = make_config()
    config.pipeline.model.lpips_weight = 0.5
    config.pipeline.datamanager.edit_patch_size = 32
    config.pipeline.datamanager.edit_num_rays_per_batch = 2048
    trainer = start(config)
    pipeline = trainer.pipeline
    assert "lpips_loss" not in losses_of(pipeline)

    pipeline.scene.begin_editing(is_resumed=False)
    torch.manual_seed(0)
    bundle, batch = pipeline.datamanager.next_train(0)
    assert len(bundle) == 2048
    outputs = pipeline.model(bundle)
    metrics = pipeline.model.get_metrics_dict(outputs, batch)
    losses = pipeline.model.get_loss_dict(outputs, batch, metrics)
    l1 = (outputs["rgb"] - batch["image"]).abs().mean()
    assert torch.allclose(losses["rgb_loss"], l1)

    first, second = (
        rgb.view(2, 32, 32, 3).permute(0, 3, 1, 2) for rgb in (outputs["rgb"], batch["image"])
    )
    assert torch.allclose(losses["lpips_loss"], 0.5 * pipeline.model.perceptual(first, second))
    losses["lpips_loss"].backward()
    gradients = [p.grad for p in pipeline.model.field.parameters() if p.grad is not None]
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_lpips_is_no_part_of_a_checkpoint(make_config, tint_prior, random_alexnet):
    config = make_config()
    config.pipeline.model.lpips_weight = 1.0
    config.pipeline.datamanager.edit_patch_size = 32
    config.pipeline.datamanager.edit_num_rays_per_batch = 1024
    trainer = start(config)
    assert trainer.pipeline.model.perceptual.is_available
    assert not [key for key in trainer.pipeline.state_dict() if "lpips" in key]
    assert not [key for key in trainer.pipeline.state_dict() if "perceptual" in key]


def test_metrics_have_lpips_where_its_weights_are_at_hand(make_config, tint_prior, random_alexnet):
    pipeline = start(make_config()).pipeline
    images = {"rgb": torch.rand(48, 48, 3), "accumulation": torch.rand(48, 48, 1)}
    images |= {f"prop_depth_{i}": torch.rand(48, 48, 1) for i in range(2)}
    images["depth"] = torch.rand(48, 48, 1)
    batch = {"image": torch.rand(48, 48, 3)}
    without, _ = pipeline.model.get_image_metrics_and_images(images, batch)
    pipeline.model.perceptual.require()
    with_lpips, _ = pipeline.model.get_image_metrics_and_images(images, batch)
    assert with_lpips.keys() - without.keys() == {"lpips"}
    assert with_lpips["psnr"] == without["psnr"]


def test_the_distance_is_that_of_the_package(random_alexnet):
    import lpips

    distance = LazyPerceptualDistance()
    distance.require()
    reference = lpips.LPIPS(net="alex", verbose=False)
    first, second = torch.rand(2, 3, 3, 32, 32)
    expected = reference(first * 2 - 1, second * 2 - 1).mean()
    assert torch.allclose(distance(first, second), expected, atol=1e-6)
    assert distance(first, first) == 0


def test_fields_are_the_quick_ones(make_config, tint_prior):
    model = start(make_config()).pipeline.model
    contractions = [part for part in model.modules() if isinstance(part, SceneContraction)]
    assert {type(part) for part in contractions} == {CubeContraction}
    grids = [part for part in model.modules() if isinstance(part, HashEncoding)]
    assert len(grids) == 3
    assert {type(grid) for grid in grids} == {CompiledHashEncoding}
