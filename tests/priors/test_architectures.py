"""The real models' configurations, against the published counts of their parameters."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from csd_nerf.priors.architectures import ARCHITECTURES, configurations
from csd_nerf.priors.names import HUB_MODELS
from csd_nerf.priors.prior_costs import PriorCosts
from csd_nerf.priors.skeletons import skeleton_part

PUBLISHED = [
    ("stable-diffusion", "unet", 859.5),
    ("stable-diffusion", "vae", 83.65),
    ("instruct-pix2pix", "unet", 859.5),
    ("instruct-pix2pix", "text_encoder", 123.1),
    ("sdxl-instruct-pix2pix", "unet", 2567.5),
    ("sdxl-instruct-pix2pix", "text_encoder_2", 694.7),
    ("flux-kontext", "transformer", 11_901),
    ("flux-kontext", "text_encoder_2", 4762),
    ("flux2-klein", "transformer", 3876),
    ("flux2-klein", "text_encoder", 4022),
    ("qwen-image-edit", "transformer", 20_430),
    # 8292 less the head of words, 152064 x 3584, which isn't loaded.
    ("qwen-image-edit", "text_encoder", 7747),
    ("deepfloyd-if", "unet", 4300),
    ("deepfloyd-if", "text_encoder", 4762),
]
"""In millions."""


@pytest.mark.parametrize(("name", "place", "millions"), PUBLISHED)
def test_parameters_are_as_published(name, place, millions):
    part = skeleton_part(ARCHITECTURES[name][place], dtype=torch.bfloat16)
    assert sum(p.numel() for p in part.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_every_model_on_the_hub_has_an_architecture():
    assert {*HUB_MODELS} <= {*ARCHITECTURES}


def test_the_work_of_a_large_model_is_as_by_hand():
    costs = PriorCosts("flux-kontext", torch.bfloat16)
    cost = costs.evaluation(1, (1024, 1024), image=True)
    # 57 blocks of width d: 12 d^2 weights that a token passes, and attention over 8,704 tokens.
    tokens, width, blocks = 2 * 64**2 + 512, 24 * 128, 19 + 38
    by_hand = blocks * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)
    assert cost.flops == pytest.approx(by_hand, rel=2e-3)


def test_t5_keeps_layers_in_single_precision_beside_float16():
    config = {"model_type": "t5", "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = skeleton_part({**config, "d_kv": 8}, dtype=torch.float16)
    kept = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert kept
    assert all(".wo." in name for name in kept)


@pytest.mark.parametrize("family", ["pix2pix", "xl", "flux2", "kontext"])
def test_a_folder_is_read_instead_of_the_table(editing_folder, family):
    costs = PriorCosts(editing_folder(family), torch.float32)
    assert costs.denoiser.parameters < 1e7
    edge = costs.preferred_size
    for cost in (costs.text(), costs.encoding((edge, edge)), costs.decoding((edge, edge))):
        assert cost.peak_bytes > 0
    assert costs.evaluation(2, (edge, edge), image=True).flops > 0


def test_a_folder_with_other_channels_costs_otherwise(editing_folder, tmp_path):
    shutil.copytree(editing_folder("pix2pix"), tmp_path / "p")
    path = tmp_path / "p" / "unet" / "config.json"
    config = json.loads(path.read_text())
    config["block_out_channels"] = [2 * width for width in config["block_out_channels"]]
    path.write_text(json.dumps(config))
    wide, plain = (
        PriorCosts(folder, torch.float32).denoiser.parameters
        for folder in (tmp_path / "p", editing_folder("pix2pix"))
    )
    assert wide > 2 * plain


def test_an_unknown_model_is_one_line():
    with pytest.raises(ValueError, match="got some/model; fetch it first"):
        configurations("some/model")
    with pytest.raises(ValueError, match="needs a configuration of a class that is installed"):
        skeleton_part({"_class_name": "NoSuchModel"}, dtype=torch.float32)
