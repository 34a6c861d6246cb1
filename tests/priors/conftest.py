"""Randomly initialised InstructPix2Pix pipelines, saved in the hub's layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CORPUS = [
    "make the sphere blue and turn it into a sepia photograph",
    "make it a snowy winter night with fog over the red floor",
]
TRAINING_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = {
    # The settings of Stable Diffusion's and of timbrooks/instruct-pix2pix's configurations.
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "euler-ancestral": (EulerAncestralDiscreteScheduler, {"steps_offset": 1}),
}

MakeFolder = Callable[..., Path]


def make_tokenizer() -> CLIPTokenizer:
    start, end, word_end = "<|startoftext|>", "<|endoftext|>", "</w>"
    learner = Tokenizer(models.BPE(unk_token=end, end_of_word_suffix=word_end))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=120, end_of_word_suffix=word_end, special_tokens=[start, end]
    )
    learner.train_from_iterator(CORPUS, trainer)
    state = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    return CLIPTokenizer(vocab=state["vocab"], merges=merges, model_max_length=24)


def make_pipeline(solver: str, prediction_type: str) -> StableDiffusionInstructPix2PixPipeline:
    """A pipeline whose estimate depends strongly on the text and on the source image."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_factor=10.0,
        )
    )
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 16, 16],
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=4,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        block_out_channels=[16, 32],
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "attn2" in name:
                weight.mul_(3.0)
        unet.conv_in.weight[:, vae.config.latent_channels :].mul_(20.0)
    scheduler_class, options = SCHEDULERS[solver]
    return StableDiffusionInstructPix2PixPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler_class(prediction_type=prediction_type, **TRAINING_SCHEDULE, **options),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """A folder for each solver and prediction type; the weights are the same in all."""
    folders: dict[tuple[str, str], Path] = {}

    def make(solver: str = "ddim", prediction_type: str = "epsilon") -> Path:
        key = (solver, prediction_type)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("-".join(key))
            make_pipeline(*key).save_pretrained(folders[key])
        return folders[key]

    return make


@pytest.fixture(scope="session")
def folder(make_folder: MakeFolder) -> Path:
    return make_folder()
