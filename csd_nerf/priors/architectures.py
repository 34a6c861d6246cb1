"""The configurations of the models of `HUB_MODELS`: their cost is known without their files.

They are written as the models' own `config.json`, without what is diffusers' or transformers'
default. Where they are from:

- U-Nets, autoencoders and text encoders of Stable Diffusion 1.5, InstructPix2Pix and SDXL: the
  models' configuration files, as diffusers' conversion scripts of the originals have them; the
  second text encoder of SDXL is OpenCLIP's ViT-bigG/14.
- FLUX.1: the defaults of diffusers' FluxTransformer2DModel, which are FLUX.1-dev's; Kontext is that
  model. T5-XXL is google/t5-v1_1-xxl's encoder.
- FLUX.2-klein-base-4B: 5 double and 20 single blocks of 24 heads of 128, as its transformer's
  configuration says; Qwen3-4B as published by Qwen.
- Qwen-Image-Edit: the defaults of diffusers' classes, which are Qwen-Image's, and Qwen2.5-VL-7B.
- IF-I-XL: reconstructed. Its configuration file was not at hand; channels, blocks and heads are
  those of DeepFloyd's U-Net family, and the count of parameters is the published 4.3 billion.

The number of parameters of each is tested against its published count.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from csd_nerf.json_files import read_json
from csd_nerf.priors.families import FAMILIES, INDEX, Family, family_of
from csd_nerf.priors.names import HUB_MODELS
from csd_nerf.priors.weights import folder_at_hand

Configurations = dict[str, dict[str, Any]]
"""The configuration of each part that has weights, by the name of its subfolder."""

_CLIP_L = {
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_BIG_G = {
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_T5_XXL = {
    "model_type": "t5",
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
}
_QWEN3_4B = {
    "model_type": "qwen3",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
_QWEN25_VL_7B = {
    "model_type": "qwen2_5_vl",
    "text_config": {
        "model_type": "qwen2_5_vl_text",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "vision_config": {
        "model_type": "qwen2_5_vl",
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}

_VAE_WIDTHS = [128, 256, 512, 512]
_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": _VAE_WIDTHS,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
_FLUX_VAE = {
    **_VAE,
    "latent_channels": 16,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

_UNET = {
    "_class_name": "UNet2DConditionModel",
    "cross_attention_dim": 768,
    "sample_size": 64,
    "in_channels": 4,
}
_XL_UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 8,
    "sample_size": 96,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
_IF_UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 3,
    "out_channels": 6,
    "sample_size": 64,
    "block_out_channels": [704, 1408, 2112, 2816],
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
    "layers_per_block": 3,
    "attention_head_dim": 64,
    "cross_attention_dim": 2816,
    "cross_attention_norm": "group_norm",
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
    "time_embedding_act_fn": "gelu",
}

ARCHITECTURES: Mapping[str, Configurations] = {
    "instruct-pix2pix": {"unet": {**_UNET, "in_channels": 8}, "vae": _VAE, "text_encoder": _CLIP_L},
    "sdxl-instruct-pix2pix": {
        "unet": _XL_UNET,
        "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        "text_encoder": _CLIP_L,
        "text_encoder_2": _BIG_G,
    },
    "flux2-klein": {
        "transformer": {
            "_class_name": "Flux2Transformer2DModel",
            "num_layers": 5,
            "num_single_layers": 20,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "in_channels": 128,
            "guidance_embeds": False,
        },
        "vae": {"_class_name": "AutoencoderKLFlux2"},
        "text_encoder": _QWEN3_4B,
    },
    "flux-kontext": {
        "transformer": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
        "vae": _FLUX_VAE,
        "text_encoder": _CLIP_L,
        "text_encoder_2": _T5_XXL,
    },
    "qwen-image-edit": {
        "transformer": {"_class_name": "QwenImageTransformer2DModel"},
        "vae": {"_class_name": "AutoencoderKLQwenImage"},
        "text_encoder": _QWEN25_VL_7B,
    },
    "stable-diffusion": {"unet": _UNET, "vae": _VAE, "text_encoder": _CLIP_L},
    "deepfloyd-if": {"unet": _IF_UNET, "text_encoder": _T5_XXL},
}
"""The parts of the models on the hub, by their short names."""


class _Config(BaseModel, extra="allow"):
    """Any configuration; diffusers and transformers check their own."""


def configurations(name_or_path: str | Path) -> tuple[Configurations, Family]:
    """The configurations of a model's parts, and its family; the network isn't used.

    They are read from its folder if it is bundled, local or in the hub's cache; else they are those
    of `ARCHITECTURES`.

    Raises:
        ValueError: If neither has them, or a file can't be read.
    """
    folder = folder_at_hand(name_or_path)
    if folder is not None:
        family = family_of(folder / INDEX)
        return {
            place: read_json(
                folder / place / component.config,
                _Config,
                what="the configuration of a part of a prior",
                remedy="fetch it again",
            ).model_dump()
            for place, component in family.components.items()
            if component.weights is not None
        }, family
    names = {repo: short for short, (repo, _) in HUB_MODELS.items()}
    name = names.get(str(name_or_path), str(name_or_path))
    if name not in ARCHITECTURES or name not in HUB_MODELS:
        raise ValueError(
            f"The cost of a prior is known for a folder, a model that has been fetched or one of "
            f"{', '.join(HUB_MODELS)}, got {name_or_path}; fetch it first."
        )
    return dict(ARCHITECTURES[name]), FAMILIES[HUB_MODELS[name][1]]
