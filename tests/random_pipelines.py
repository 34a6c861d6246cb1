"""Randomly initialised pipelines with U-Nets, small, saved by diffusers in the hub's layout."""

from __future__ import annotations

import json

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    FluxKontextPipeline,
    IFPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from flow_pipelines import CORPUS, flux2_pipeline, kontext_pipeline, qwen_image_pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

TRAINING_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS = {
    # The settings of Stable Diffusion's and of timbrooks/instruct-pix2pix's configurations.
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "euler-ancestral": (EulerAncestralDiscreteScheduler, {"steps_offset": 1}),
    "ddpm": (DDPMScheduler, {"clip_sample": False, "steps_offset": 1}),
}
IF_SCHEDULERS = {
    "clipped": {"clip_sample": True},
    # Those of DeepFloyd/IF-I-XL-v1.0, whose variance is learned.
    "thresholded": {
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.95,
        "sample_max_value": 1.5,
    },
}
TEXT_MODELS = ("pixels", "latents")


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


def make_clip(tokenizer: CLIPTokenizer, *, initializer_factor: float = 10.0) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_factor=initializer_factor,
        )
    )


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 16, 16],
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    )


def make_unet(in_channels: int, **options) -> UNet2DConditionModel:
    """A U-Net whose estimate depends strongly on the text."""
    defaults = {
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    }
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        block_out_channels=[16, 32],
        layers_per_block=1,
        norm_num_groups=4,
        **{**defaults, **options},
    )
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "attn2" in name:
                weight.mul_(3.0)
    return unet


def make_pipeline(solver: str, prediction_type: str) -> StableDiffusionInstructPix2PixPipeline:
    """A pipeline whose estimate depends strongly on the text and on the source image."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    text_encoder, vae, unet = make_clip(tokenizer), make_vae(), make_unet(8)
    with torch.no_grad():
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


def make_xl_pipeline(*, zeros: bool = True) -> StableDiffusionXLInstructPix2PixPipeline:
    """With two text encoders of different widths, and the picture's size as a condition."""
    torch.manual_seed(0)
    tokenizer, second = make_tokenizer(), make_tokenizer()
    # States before the last are not normalised: large ones make attention all or nothing, so that
    # rounding decides.
    first = make_clip(tokenizer, initializer_factor=2.0)
    config = first.config.to_dict() | {
        "hidden_size": 16,
        "intermediate_size": 32,
        "projection_dim": 24,
    }
    unet = make_unet(
        8,
        cross_attention_dim=48,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        # The summary, and six numbers of the size.
        projection_class_embeddings_input_dim=24 + 6 * 8,
        transformer_layers_per_block=1,
    )
    vae = make_vae()
    with torch.no_grad():
        unet.conv_in.weight[:, vae.config.latent_channels :].mul_(20.0)
        unet.add_embedding.linear_1.weight.mul_(4.0)
    scheduler_class, options = SCHEDULERS["euler-ancestral"]
    return StableDiffusionXLInstructPix2PixPipeline(
        vae=vae,
        unet=unet,
        text_encoder=first,
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**config)),
        tokenizer=tokenizer,
        tokenizer_2=second,
        scheduler=scheduler_class(**TRAINING_SCHEDULE, **options),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def make_latent_pipeline(solver: str, prediction_type: str) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    scheduler_class, options = SCHEDULERS[solver]
    return StableDiffusionPipeline(
        text_encoder=make_clip(tokenizer),
        vae=make_vae(),
        unet=make_unet(4),
        tokenizer=tokenizer,
        scheduler=scheduler_class(prediction_type=prediction_type, **TRAINING_SCHEDULE, **options),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_control_net(unet: UNet2DConditionModel, *, seed: int = 5) -> ControlNetModel:
    """With a strong influence; a new one has none, since its last layers are zero."""
    torch.manual_seed(seed)
    # The autoencoder's cells have 4 pixels along an edge.
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16))
    embedding = net.controlnet_cond_embedding
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block, embedding.conv_out):
        torch.nn.init.normal_(layer.weight, std=1.0 / layer.weight[0].numel() ** 0.5)
        torch.nn.init.normal_(layer.bias, std=0.1)
    with torch.no_grad():
        # Few pixels are on an edge, and a layer's default weights are small.
        for block in (embedding.conv_in, *embedding.blocks):
            block.weight.mul_(3.0)
    return net


def make_t5_tokenizer() -> T5Tokenizer:
    letters = [(letter, -4.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    words = [(f"▁{word}", -5.0) for text in CORPUS for word in text.split() if len(word) > 1]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*special, *letters, *dict(words).items()], extra_ids=0)


def make_pixel_pipeline(bound: str, prediction_type: str) -> IFPipeline:
    torch.manual_seed(0)
    tokenizer = make_t5_tokenizer()
    config = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    unet = make_unet(
        3,
        # The pipeline expects a variance even where its scheduler does not use it.
        out_channels=6,
        down_block_types=["DownBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=8,
        encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj",
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    with torch.no_grad():
        unet.add_embedding.proj.weight.mul_(10.0)
        unet.encoder_hid_proj.weight.mul_(3.0)
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(T5Config(vocab_size=len(tokenizer), **config)),
        unet=unet,
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type=prediction_type,
            variance_type="fixed_small",
            **IF_SCHEDULERS[bound],
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def make_kontext_pipeline() -> FluxKontextPipeline:
    tokenizer = make_tokenizer()
    return kontext_pipeline(tokenizer, make_clip(tokenizer), make_t5_tokenizer())


EDITING = {
    "pix2pix": lambda: make_pipeline("ddim", "epsilon"),
    "xl": make_xl_pipeline,
    "flux2": flux2_pipeline,
    "kontext": make_kontext_pipeline,
    "qwen": qwen_image_pipeline,
}
"""Editing models by family."""
