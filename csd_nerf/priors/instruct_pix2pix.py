"""InstructPix2Pix models on diffusers: the prior of every image edit.

The U-Net sees the noisy latent and, as further channels, the latent of the source image. The two
differ in scale: noisy latents are VAE modes times the VAE's scaling factor, the condition is the
raw VAE mode, since that is what InstructPix2Pix (Brooks et al. 2023) was trained on. (The authors'
release of CSD conditions on a scaled sample.) A missing condition is zeros.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from csd_nerf.priors.group_norms import normalised_by, pooled_statistics
from csd_nerf.priors.texts import clip_states
from csd_nerf.priors.unet import check_parts, halvings, predict_noise, run_unet, shown_channels
from csd_nerf.priors.vae import cell_size_of, check_size, decode_latent, encode_mode, scale_mode


class InstructPix2Pix:
    """A `Prior` made of the parts of a StableDiffusionInstructPix2PixPipeline.

    It computes without an autograd graph. Results come back as float32 on the device of the
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
            unet: The denoiser; takes latent and condition as channels.
            text_encoder: Its last hidden states condition the U-Net.
            tokenizer: The text encoder's.
            schedule: Training schedule of the U-Net.
            prediction_type: What the U-Net returns, `epsilon` or `v_prediction`.

        Raises:
            ValueError: If the parts are not those of an InstructPix2Pix model.
        """
        check_parts(name, vae, unet, prediction_type)
        self.name = name
        self.device = unet.device
        self.schedule = schedule
        self.latent_channels = vae.config["latent_channels"]
        self.cell_size = cell_size_of(vae)
        self.preferred_size = unet.config["sample_size"] * self.cell_size
        self.size_multiple = self.cell_size * halvings(unet)
        self._vae = vae.eval().requires_grad_(False)
        self._unet = unet.eval().requires_grad_(False)
        self._text_encoder = text_encoder.eval().requires_grad_(False)
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
        vae_slicing: bool = False,
        vae_tiling: bool = False,
    ) -> InstructPix2Pix:
        """Load a complete folder in the pipeline's layout; see `csd_nerf.priors.load`."""
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
        if vae_slicing:
            vae.enable_slicing()
        if vae_tiling:
            vae.enable_tiling()
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
        """Images to clean latents: VAE modes in the U-Net's scale.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        return self.encode_source(image01)[0]

    def encode_condition(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Source images to the image condition: unscaled VAE modes; sizes as for `encode`."""
        return self._mode(image01)

    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Clean latents and image condition, by one pass of the encoder; sizes as for `encode`."""
        mode = self._mode(image01)
        return scale_mode(self._vae, mode), mode

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Clean latents to images, clamped to [0, 1]."""
        return decode_latent(self._vae, latent)

    @contextmanager
    def encoding_tiles(self, sample01: Float[Tensor, "n 3 H W"]) -> Iterator[None]:
        """Within it, group norms of the encoder take their statistics from this sample."""
        with self._pooled(self._vae.encoder, lambda: self._mode(sample01)):
            yield

    @contextmanager
    def decoding_tiles(self, sample: Float[Tensor, "n c h w"]) -> Iterator[None]:
        """Within it, group norms of the decoder take their statistics from this sample."""
        with self._pooled(self._vae.decoder, lambda: self.decode(sample)):
            yield

    @contextmanager
    def _pooled(self, model: torch.nn.Module, run: Callable[[], Tensor]) -> Iterator[None]:
        # Slices of the sample would have statistics of their own.
        sliced, self._vae.use_slicing = self._vae.use_slicing, False
        try:
            statistics = pooled_statistics(model, run)
        finally:
            self._vae.use_slicing = sliced
        with normalised_by(statistics):
            yield

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "r tokens width"]:
        """Prompts to the text encoder's last hidden states, padded to its full length.

        A prompt that is too long is cut, with a warning that says what was lost.

        Raises:
            ValueError: If there is no prompt, or prompts is one string.
        """
        return clip_states(self._text_encoder, self._tokenizer, prompts, name=self.name)

    @torch.no_grad()
    def predict(
        self,
        branches: Sequence[Branch],
        timestep: Real[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """Noise estimates of k branches for the same n particles, evaluated as one batch.

        Args:
            branches: What to evaluate; all hold n particles.
            timestep: One timestep a particle; fractions, which some samplers visit, lie between
                the schedule's steps with sigma_t / alpha_t interpolated linearly.
            max_batch: Largest number of model evaluations a call; None means all at once.
                Splitting changes memory, not the result.

        Raises:
            ValueError: If there is no branch, a branch's text has neither one row nor n, or
                max_batch is not positive.
        """
        return predict_noise(
            self._evaluate,
            branches,
            timestep,
            show=shown_channels,
            schedule=self.schedule,
            prediction_type=self._prediction_type,
            max_batch=max_batch,
        )

    def _evaluate(
        self,
        shown: Float[Tensor, "rows channels h w"],
        timestep: Real[Tensor, "rows"],
        text: Float[Tensor, "rows tokens width"],
    ) -> Float[Tensor, "rows c h w"]:
        return run_unet(self._unet, shown, timestep, text)

    @torch.no_grad()
    def _mode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        check_size(self.name, image01, self.size_multiple)
        return encode_mode(self._vae, image01)
