"""Stable Diffusion models on diffusers: text-to-image models in the latents of an autoencoder.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from csd_nerf.core.schedules import DiscreteSchedule
from csd_nerf.priors.fitness import check_unet
from csd_nerf.priors.group_norms import normalised_by, pooled_statistics
from csd_nerf.priors.parts import reading_part
from csd_nerf.priors.placement import Placement
from csd_nerf.priors.texts import TextEncoder, clip_states
from csd_nerf.priors.unet import UNetPrior, downsampling_factor, load_schedule
from csd_nerf.priors.vae import cell_size_of, check_size, decode_latent, encode_mode, scale_mode


class StableDiffusion(UNetPrior):
    """A `Prior` made of the parts of a StableDiffusionPipeline.

    Only `encode` keeps an autograd graph. Results come back as float32 on the device of the
    tensor that was handed in.
    """

    allowed_additions: tuple[str | None, ...] = (None,)
    """What the U-Net may be conditioned on beside text and source, as `addition_embed_type`."""
    text_states = staticmethod(clip_states)
    """What is read of the text encoder."""

    def __init__(
        self,
        *,
        name: str,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        schedule: DiscreteSchedule,
        prediction_type: str = "epsilon",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap models that are loaded already; see `Placement`.

        Args:
            name: The name or path under which the prior was loaded.
            vae: The autoencoder.
            unet: The denoiser; its input channels are the latent and each of `source_rows`.
            text_encoder: Its last hidden states condition the U-Net.
            tokenizer: Tokenizer of the text encoder.
            schedule: Training schedule of the U-Net.
            prediction_type: What the U-Net returns, `epsilon` or `v_prediction`.
            device: Where the U-Net runs; None means where its weights are.
            dtype: Precision of its inputs; None means that of its weights.

        Raises:
            ValueError: If the U-Net doesn't fit the autoencoder and `source_rows` (`check_unet`).
        """
        channels: int = vae.config["latent_channels"]
        check_unet(
            unet.config,
            name,
            latent_channels=channels,
            sources=self.source_rows,
            of=type(self).__name__,
            additions=self.allowed_additions,
        )
        device = device or unet.device
        texts = TextEncoder(name, text_encoder, tokenizer, self.text_states, device=device)
        super().__init__(name, unet, texts, schedule, prediction_type, device=device, dtype=dtype)
        self.latent_channels = channels
        self.cell_size = cell_size_of(vae)
        self.preferred_size: int = unet.config["sample_size"] * self.cell_size
        self.size_multiple = self.cell_size * downsampling_factor(unet)
        self._vae = vae.eval().requires_grad_(False)

    @classmethod
    def from_folder(
        cls, folder: Path, *, name: str, vae_tiling: bool = False, **where: Any
    ) -> StableDiffusion:
        """Load a complete folder in the pipeline's layout; see `csd_nerf.priors.load`.

        Args:
            folder: The folder.
            name: The name or path under which the prior is loaded.
            vae_tiling: As for `load`.
            where: The fields of `Placement`.
        """
        place = Placement(**where)
        with reading_part(folder / "tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        schedule, prediction_type = load_schedule(folder)
        vae_dtype = cls.vae_dtype(place.dtype)
        return cls(
            name=name,
            vae=place.autoencoder(
                AutoencoderKL, folder / "vae", tiling=vae_tiling, dtype=vae_dtype
            ),
            unet=place.denoiser(UNet2DConditionModel, folder / "unet"),
            text_encoder=place.text_encoder(CLIPTextModel, folder / "text_encoder"),
            tokenizer=tokenizer,
            schedule=schedule,
            prediction_type=prediction_type,
            device=place.device,
            dtype=place.dtype,
            **cls.load_second_text(folder, place),
        )

    @classmethod
    def vae_dtype(cls, dtype: torch.dtype) -> torch.dtype:
        """The precision of the autoencoder beside a U-Net of this precision."""
        return dtype

    @classmethod
    def load_second_text(cls, folder: Path, place: Placement) -> dict[str, Any]:
        """Further text encoders, for families that have them: arguments of the constructor."""
        del folder, place
        return {}

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Encode images to VAE modes in the U-Net's scale; keeps the autograd graph.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        return scale_mode(self._vae, self._mode(image01))

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Decode clean latents to images, clamped to [0, 1]."""
        return decode_latent(self._vae, latent)

    @contextmanager
    def encoding_tiles(self, sample01: Float[Tensor, "n 3 H W"]) -> Iterator[None]:
        """A context in which the encoder's group norms use the statistics of this sample."""
        with self._pooled(self._vae.encoder, lambda: self._mode(sample01, at_once=True)):
            yield

    @contextmanager
    def decoding_tiles(self, sample: Float[Tensor, "n c h w"]) -> Iterator[None]:
        """A context in which the decoder's group norms use the statistics of this sample."""
        run = partial(decode_latent, self._vae, sample, at_once=True)
        with self._pooled(self._vae.decoder, run):
            yield

    @contextmanager
    @torch.no_grad()
    def _pooled(self, model: torch.nn.Module, run: Callable[[], Tensor]) -> Iterator[None]:
        statistics = pooled_statistics(model, run)
        with normalised_by(statistics):
            yield

    def _mode(
        self, image01: Float[Tensor, "n 3 H W"], *, at_once: bool = False
    ) -> Float[Tensor, "n c h w"]:
        check_size(self.name, image01, self.size_multiple)
        return encode_mode(self._vae, image01, at_once=at_once)
