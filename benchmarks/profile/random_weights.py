"""Priors with a real model's architecture and random weights, to measure cost without a download.

Time and memory are those of the real model; the edits are meaningless.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from csd_nerf.core.schedules import DiscreteSchedule
from csd_nerf.priors.instruct_pix2pix import InstructPix2Pix

Shape = Literal["sd15"]

_START, _END = "<|startoftext|>", "<|endoftext|>"


def random_prior(
    shape: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> InstructPix2Pix:
    """Build an InstructPix2Pix model with random weights.

    `sd15` has the architecture of timbrooks/instruct-pix2pix, which is that of Stable Diffusion 1.5
    with four more input channels: a U-Net of 859.5 million parameters, an autoencoder of 83.7
    million, and the text encoder of CLIP ViT-L/14 of 123 million.

    Args:
        shape: Name of the architecture.
        device: Device of the model.
        dtype: Precision of the model.
        seed: Seed of the weights; the global random state is not changed.

    Raises:
        ValueError: If the name is unknown.
    """
    if shape not in get_args(Shape):
        raise ValueError(f"random weights need one of {', '.join(get_args(Shape))}, got {shape!r}.")
    makers = (sd15_unet, sd15_vae, lambda: CLIPTextModel(_sd15_text_config()))
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        # One part after another, so that only one is in float32 at a time.
        unet, vae, text_encoder = (_in(dtype, make) for make in makers)
    return InstructPix2Pix(
        name=f"{shape} with random weights",
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=byte_tokenizer(text_encoder.config.max_position_embeddings),
        schedule=DiscreteSchedule.scaled_linear(),
    )


def _in(dtype: torch.dtype, make: Callable[[], torch.nn.Module]) -> Any:
    return make().to(dtype=dtype)


def sd15_unet() -> UNet2DConditionModel:
    """The U-Net of Stable Diffusion 1.5 (Rombach et al. 2022), with eight input channels."""
    # diffusers' annotations allow tuples of one element only, hence Any, here and below.
    options: dict[str, Any] = {
        "sample_size": 64,
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        # diffusers reads it as the number of heads.
        "attention_head_dim": 8,
    }
    return UNet2DConditionModel(**options)


def sd15_vae() -> AutoencoderKL:
    """The autoencoder of Stable Diffusion 1.5."""
    options: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    }
    return AutoencoderKL(**options)


def byte_tokenizer(length: int) -> CLIPTokenizer:
    """A CLIP tokenizer without merges: one token per byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), _START, _END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def _sd15_text_config() -> CLIPTextConfig:
    """The text encoder of CLIP ViT-L/14; only a part of its 49,408 tokens is used."""
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
    )
