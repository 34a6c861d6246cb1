"""Stable Diffusion models on diffusers: text to images, diffused as an autoencoder's latents.

This module imports diffusers and transformers; `csd_nerf.priors.load_text_to_image` imports it
late.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from jaxtyping import Float, Real
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from csd_nerf.core.schedules import NoiseSchedule
from csd_nerf.priors.base import Branch
from csd_nerf.priors.texts import clip_states, not_freed
from csd_nerf.priors.unet import check_unet, halvings, predict_noise, run_unet, shown_alone
from csd_nerf.priors.vae import cell_size_of, check_size, decode_latent, encode_mode, scale_mode


class StableDiffusion:
    """A `TextToImage` prior made of the parts of a StableDiffusionPipeline.

    Only `encode` keeps an autograd graph. Results come back as float32 on the device of the
    tensor that was handed in.
    """

    def __init__(
        self,
        *,
        name: str,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        schedule: NoiseSchedule,
        prediction_type: str = "epsilon",
    ) -> None:
        """Wrap models that are already on their device and in their precision.

        Args:
            name: What the prior was loaded as.
            vae: Pixels to latents and back.
            unet: The denoiser of latents.
            text_encoder: Its last hidden states condition the U-Net.
            tokenizer: The text encoder's.
            schedule: Training schedule of the U-Net.
            prediction_type: What the U-Net returns, `epsilon` or `v_prediction`.

        Raises:
            ValueError: If the parts are not those of a latent text-to-image model.
        """
        wanted, got = vae.config["latent_channels"], unet.config["in_channels"]
        if got != wanted:
            raise ValueError(
                f"A text-to-image U-Net takes the {wanted} channels of its latents, that of "
                f"{name!r} takes {got}: name a text-to-image model."
            )
        check_unet(name, unet, prediction_type)
        self.name = name
        self.device = unet.device
        self.schedule = schedule
        self.latent_channels: int = wanted
        self.cell_size = cell_size_of(vae)
        self.preferred_size: int = unet.config["sample_size"] * self.cell_size
        self.size_multiple = self.cell_size * halvings(unet)
        self._vae = vae.eval().requires_grad_(False)
        self._unet = unet.eval().requires_grad_(False)
        self._text_encoder: CLIPTextModel | None = text_encoder.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._prediction_type = prediction_type

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        variant: str | None = None,
    ) -> StableDiffusion:
        """Load a complete folder in the pipeline's layout.

        See `csd_nerf.priors.load_text_to_image`.
        """
        options: dict[str, Any] = {
            "variant": variant,
            "torch_dtype": dtype,
            # Without accelerate diffusers would fall back to this by itself, with a warning.
            "low_cpu_mem_usage": is_accelerate_available(),
        }
        # diffusers' annotations hide what these classes return, hence Any.
        vae: Any = AutoencoderKL.from_pretrained(folder / "vae", **options)
        unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet", **options)
        text_encoder: Any = CLIPTextModel.from_pretrained(folder / "text_encoder", variant=variant)
        # Whatever scheduler the folder names, its configuration holds the training schedule.
        scheduler: Any = DDPMScheduler.from_pretrained(folder / "scheduler")
        return cls(
            name=name,
            vae=vae.to(device),
            unet=unet.to(device),
            text_encoder=text_encoder.to(device=device, dtype=dtype),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            schedule=NoiseSchedule(scheduler.alphas_cumprod),
            prediction_type=scheduler.config["prediction_type"],
        )

    @property
    def unet(self) -> UNet2DConditionModel:
        """The denoiser, to be compiled, laid out or measured; its weights stay as they are."""
        return self._unet

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Images to clean latents: VAE modes in the U-Net's scale, with the encoder's graph.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        check_size(self.name, image01, self.size_multiple)
        return scale_mode(self._vae, encode_mode(self._vae, image01))

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Clean latents to images, clamped to [0, 1]."""
        return decode_latent(self._vae, latent)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "r tokens width"]:
        """Prompts to the text encoder's last hidden states, padded to its full length.

        A prompt that is too long is cut, with a warning that says what was lost.

        Raises:
            ValueError: If there is no prompt, or prompts is one string.
            RuntimeError: After `free_text_encoder`.
        """
        encoder = not_freed(self._text_encoder, self.name)
        return clip_states(encoder, self._tokenizer, prompts, name=self.name).float()

    def free_text_encoder(self) -> None:
        """Drop the text encoder from memory."""
        self._text_encoder = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def predict(
        self,
        branches: Sequence[Branch],
        timestep: Real[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """Noise estimates of k branches for the same n particles, evaluated as one batch.

        Arguments and errors are those of `csd_nerf.priors.unet.predict_noise`; a branch with a
        condition is an error too.
        """
        return predict_noise(
            partial(run_unet, self._unet),
            branches,
            timestep,
            show=shown_alone,
            schedule=self.schedule,
            prediction_type=self._prediction_type,
            max_batch=max_batch,
        )
