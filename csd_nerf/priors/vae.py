"""Converts images to the latents of an autoencoder and back, in the scale of its U-Net.

latent = (mode - shift) * scale, with shift and scale from the autoencoder's configuration. These
functions keep the autograd graph.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage
from jaxtyping import Float
from torch import Tensor

from csd_nerf.priors.precisions import tf32_allowed

Autoencoder = AutoencoderKL | AutoencoderKLFlux2 | AutoencoderKLQwenImage
"""The last one is a video's; an image is a video of one frame."""


def cell_size_of(vae: AutoencoderKL | AutoencoderKLFlux2) -> int:
    """Pixels along one edge of a latent cell."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def check_size(name: str, image01: Float[Tensor, "n 3 H W"], multiple: int) -> None:
    """Check the size of images.

    Raises:
        ValueError: If a height or width is not a multiple of `multiple` pixels.
    """
    height, width = image01.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"{name!r} needs heights and widths that are multiples of "
            f"{multiple}, got {height} x {width}: resize the images."
        )


def encode_mode(
    vae: Autoencoder, image01: Float[Tensor, "n 3 H W"], *, at_once: bool = False
) -> Float[Tensor, "n c h w"]:
    """The modes of the encoder's distribution, unscaled, on the image's device.

    Args:
        vae: The autoencoder.
        image01: The images.
        at_once: Encode all in one call, so that statistics can be taken over all of them. One at a
            time takes a fraction of the memory, and hardly more time.
    """
    pixels = (2 * image01 - 1).to(vae.device, vae.dtype)
    is_video = isinstance(vae, AutoencoderKLQwenImage)
    parts = [pixels] if at_once else pixels.split(1)
    shown = (part[:, :, None] if is_video else part for part in parts)
    with tf32_allowed():
        modes = torch.cat([vae.encode(part, return_dict=False)[0].mode() for part in shown])
    return (modes[:, :, 0] if is_video else modes).float().to(image01.device)


def scale_mode(vae: AutoencoderKL, mode: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Convert an unscaled mode to the U-Net's scale."""
    return (mode - _shift(vae)) * vae.config["scaling_factor"]


def decode_latent(
    vae: AutoencoderKL, latent: Float[Tensor, "n c h w"], *, at_once: bool = False
) -> Float[Tensor, "n 3 H W"]:
    """Decode latents in the U-Net's scale to images in [0, 1]; see `decode_unscaled`."""
    unscaled = latent / vae.config["scaling_factor"] + _shift(vae)
    return decode_unscaled(vae, unscaled, at_once=at_once)


def decode_unscaled(
    vae: Autoencoder, latent: Float[Tensor, "n c h w"], *, at_once: bool = False
) -> Float[Tensor, "n 3 H W"]:
    """Decode latents in the autoencoder's own scale to images in [0, 1], on the latent's device.

    `at_once` is as for `encode_mode`.
    """
    is_video = isinstance(vae, AutoencoderKLQwenImage)
    shown = latent.to(vae.device, vae.dtype)
    shown = shown[:, :, None] if is_video else shown
    parts: list[Any] = [shown] if at_once else [*shown.split(1)]
    with tf32_allowed():
        pixels = torch.cat([vae.decode(part, return_dict=False)[0] for part in parts])
    pixels = pixels[:, :, 0] if is_video else pixels
    return (pixels.float() / 2 + 0.5).clamp(0, 1).to(latent.device)


def _shift(vae: AutoencoderKL) -> float:
    return vae.config.get("shift_factor") or 0.0
