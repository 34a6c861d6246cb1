"""A user's mistake ends the command with one line, before anything expensive begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from edit_runs import message_of, start

from csd_nerf import priors
from csd_nerf.bundled import TUNED_RUN
from csd_nerf.core.settings import EditSettings
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.csd_edit.datamanager import CSDEditDataManagerConfig
from csd_nerf.methods.csd_edit.pipeline import CSDEditPipelineConfig


def test_an_empty_prompt(make_config, tint_prior):
    config = make_config()
    config.pipeline.prompt = " "
    assert "The prompt is empty" in message_of(config)


def test_nerfstudios_own_prompt_option_works(make_config, tint_prior):
    config = make_config()
    config.pipeline.prompt = ""
    config.pipeline.model.prompt = "make it snow"  # What ns-train does with --prompt.
    trainer = start(config)
    assert trainer.pipeline.controls.read(editing=True).prompt == "make it snow"
    saved = yaml.load((trainer.base_dir / "config.yml").read_text(), Loader=yaml.Loader)
    assert saved.pipeline.prompt == "make it snow"


def test_data_that_is_not_there(make_config, tmp_path, tint_prior):
    assert "which does not exist" in message_of(make_config(data=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "transforms.json" in message_of(make_config(data=tmp_path / "empty"))


def test_a_gpu_that_is_not_there(make_config, tint_prior, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = make_config()
    config.machine.device_type = "cuda"
    assert "torch finds no GPU" in message_of(config)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: setattr(c.pipeline.model, "lpips_weight", float("nan")), "model.lpips-weight"),
        (lambda c: setattr(c.pipeline.model, "far_plane", float("inf")), "model.far-plane must"),
        (lambda c: setattr(c.pipeline.datamanager, "camera_res_scale_factor", float("nan")), "got"),
        (
            lambda c: setattr(c.optimizers["fields"]["optimizer"], "lr", float("nan")),
            "--optimizers.fields.optimizer.lr",
        ),
    ],
)
def test_numbers_that_are_not_finite(make_config, tint_prior, change, text):
    config = make_config()
    change(config)
    message = message_of(config)
    assert text in message
    assert "must be finite, got" in message


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("repulsion", 0.5),
        ("repulsion_scale", "one"),
        ("kernel_on", "clean"),
        ("bandwidth", "with-diagonal"),
    ],
)
def test_options_of_a_kernel_that_is_not_used(make_config, tint_prior, option, value):
    config = make_config()
    config.pipeline.edit = EditSettings(**{**TUNED_RUN, option: value})
    message = message_of(config)
    assert (
        f"--pipeline.edit.{option.replace('_', '-')} needs the mixing stein, got patch" in message
    )
    config.pipeline.edit = EditSettings(**{**TUNED_RUN, option: value, "mixing": "stein"})
    start(config)


def test_dds_has_all_of_its_baseline_with_the_tiny_preset_too(make_config, tint_prior):
    config = make_config()
    config.pipeline.edit = EditSettings(**{**TUNED_RUN, "residual": "dds"})
    config.pipeline.source_prompt = "a photo of a man"
    start(config)
    assert config.pipeline.edit.source_share == 1.0
    told = make_config("told")
    told.pipeline.edit = EditSettings(**{**TUNED_RUN, "residual": "dds", "source_share": 0.5})
    told.pipeline.source_prompt = "a photo of a man"
    start(told)
    assert told.pipeline.edit.source_share == 0.5


def test_several_devices(make_config, tint_prior, monkeypatch):
    config = make_config()
    config.machine.num_machines = 2
    assert "runs on one machine, got --machine.num-machines 2" in message_of(config)
    config = make_config()
    config.machine.num_devices, config.pipeline.prior_device = 2, "cpu"
    assert "each device has the prior, got --pipeline.prior-device cpu" in message_of(config)
    config = make_config()
    config.machine.num_devices, config.pipeline.prior_split = 2, ("cuda:1", "cuda:2")
    assert "device has the prior, got --pipeline.prior-split cuda:1 cuda:2" in message_of(config)
    config = make_config()
    config.machine.num_devices, config.machine.device_type = 3, "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "needs as many GPUs, got 3 with 2; take fewer." in message_of(config)
    assert not config.get_base_dir().exists()


def test_patches_too_small_for_lpips(make_config, tint_prior):
    config = make_config()
    config.pipeline.model.lpips_weight = 1.0
    config.pipeline.datamanager.edit_patch_size = 16
    assert "LPIPS needs patches of at least 32 pixels, got 16" in message_of(config)


def test_no_source_at_all(make_config, tint_prior):
    config = make_config()
    config.pipeline.source_steps = 0
    assert "--pipeline.source-steps needs to be at least 1" in message_of(config)


def test_weights_that_are_not_there_are_missed_at_the_start(make_config, tmp_path):
    config = make_config()
    config.pipeline.prior = str(tmp_path / "no-weights")
    message = message_of(config)
    assert "No weights for the prior" in message
    assert message.endswith(
        "The option is --pipeline.prior. Without weights, csd-edit-tiny runs on a CPU with the "
        "bundled prior."
    )


def test_a_model_of_no_known_family_is_refused_at_the_start(make_config, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    config = make_config()
    config.pipeline.prior = str(tmp_path)
    message = message_of(config)
    assert "got StableDiffusionXLPipeline" in message
    assert "StableDiffusionInstructPix2PixPipeline" in message


def test_a_model_that_sees_no_source_image_is_refused_at_the_start(make_config):
    config = make_config()
    config.pipeline.prior = "tiny-text"
    assert "needs an editing prior, 'tiny-text' is a text-to-image prior" in message_of(config)


def test_lpips_weights_that_are_not_there(make_config, tint_prior, monkeypatch, tmp_path):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    config = make_config()
    config.pipeline.model.lpips_weight = 1.0
    config.pipeline.datamanager.edit_patch_size = 32
    message = message_of(config)
    assert "LPIPS needs AlexNet's weights" in message
    assert "--pipeline.model.lpips-weight 0" in message


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"edit_every": 0}, "edit_every needs to be at least 1, got 0"),
        ({"edit_views": -1}, "edit_views needs to be at least 1, got -1"),
        ({"denoising_steps": 0}, "denoising_steps needs to be at least 1, got 0"),
        ({"source_steps": -1}, "source_steps can't be negative"),
    ],
)
def test_numbers_that_make_no_sense(options, text):
    with pytest.raises(ValueError, match=text):
        CSDEditPipelineConfig(**options)


def test_options_of_images_that_do_not_go_together():
    with pytest.raises(MethodError, match="room for one patch"):
        CSDEditDataManagerConfig(edit_num_rays_per_batch=1000, edit_patch_size=32)
    with pytest.raises(MethodError, match="patch_size has to be 1"):
        CSDEditDataManagerConfig(patch_size=32)


def test_missing_weights_are_an_error_of_callers_too(tmp_path: Path):
    with pytest.raises(priors.WeightsNotFoundError):
        priors.fetch(tmp_path / "none")
