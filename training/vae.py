"""The autoencoder: 64x64 pixels to 16x16 cells of 8 channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from training import loop
from training.data import Shard, image01

KL_WEIGHT = 1e-5
CROP, CROP_SHARE = 32, 0.75
"""Edge in pixels of the crops that the first share of the steps is trained on: an autoencoder is
local, and a quarter of the pixels costs a quarter of the time."""


def build(seed: int) -> AutoencoderKL:
    """An untrained autoencoder that starts as a near-linear resampler.

    With the library's own initialisation the signal shrinks in every layer; here the residual
    blocks start as the identity and all other convolutions as near-isometries.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )
    for name, module in vae.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.orthogonal_(module.weight, gain=0.0 if name.endswith("conv2") else 1.0)
            torch.nn.init.zeros_(module.bias)
    return vae


def train(
    vae: AutoencoderKL,
    shards: Sequence[Shard],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    checkpoint: Path,
    device: torch.device,
) -> loop.Course:
    """Train on sources and edits alike; returns the course of the loss."""
    vae.to(device)
    parameters = list(vae.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: loop.cosine(i, steps=steps))

    def step(index: int, generator: torch.Generator) -> torch.Tensor:
        shard = shards[int(torch.randint(len(shards), (), generator=generator))]
        side = shard.source if index % 2 else shard.edited
        cropped = index < CROP_SHARE * steps
        count = 2 * batch if cropped else batch
        rows = torch.randint(len(side), (count,), generator=generator).numpy()
        pixels = 2 * image01(side[rows], device) - 1
        if cropped:
            top, left = (
                int(torch.randint(edge - CROP + 1, (), generator=generator))
                for edge in pixels.shape[2:]
            )
            pixels = pixels[:, :, top : top + CROP, left : left + CROP]
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        difference = decoded - pixels
        kl = posterior.kl().sum() / pixels.numel()
        loss = difference.abs().mean() + difference.square().mean() + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        return loss

    state = {"model": vae, "optimizer": optimizer, "schedule": schedule}
    course = loop.run(
        step, state, steps=steps, seed=seed, checkpoint=checkpoint, every=100, label="autoencoder"
    )
    vae.eval().requires_grad_(False)
    return course


@torch.no_grad()
def psnr(vae: AutoencoderKL, shard: Shard, device: torch.device) -> float:
    """Reconstruction of a shard's edits in dB, from the mean of the images' squared errors."""
    pixels = 2 * image01(shard.edited, device) - 1
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    error = ((decoded - pixels) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def encode(vae: AutoencoderKL, array, device: torch.device) -> torch.Tensor:
    """Modes of 8-bit images, unscaled."""
    parts = torch.from_numpy(array).split(128)
    modes = [vae.encode(2 * image01(p.numpy(), device) - 1).latent_dist.mode() for p in parts]
    return torch.cat(modes)
