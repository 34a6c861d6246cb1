"""InstructPix2Pix models on diffusers: the prior of every image edit.

The U-Net sees the noisy latent and, as further channels, the latent of the source image. The two
differ in scale: noisy latents are VAE modes times the VAE's scaling factor, the condition is the
raw VAE mode, since that is what InstructPix2Pix (Brooks et al. 2023) was trained on. (The authors'
release of CSD conditions on a scaled sample.) A missing condition is zeros.

Symbols: z_t = alpha_t x + sigma_t e. A model predicts e itself, or v = alpha_t e - sigma_t x; then
e = alpha_t v + sigma_t z_t.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

import warnings
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
from csd_nerf.priors.unet import branch_rows, check_parts, noise_scales, shown_channels, text_rows


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
        self.cell_size = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.preferred_size = unet.config["sample_size"] * self.cell_size
        # Every U-Net level but the last halves the latent's edges.
        self.size_multiple = self.cell_size * 2 ** (len(unet.config["down_block_types"]) - 1)
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
        shift = self._vae.config.get("shift_factor") or 0.0
        return (mode - shift) * self._vae.config["scaling_factor"], mode

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Clean latents to images, clamped to [0, 1]."""
        shift = self._vae.config.get("shift_factor") or 0.0
        scaled = latent / self._vae.config["scaling_factor"] + shift
        pixels = self._vae.decode(scaled.to(self.device, self._vae.dtype), return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1).to(latent.device)

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
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts needs a sequence of at least one string, got {prompts!r}.")
        limit = self._text_encoder.config.max_position_embeddings
        self._warn_of_cuts(prompts, limit)
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            max_length=limit,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        # CLIP attends to its padding, unless a model was trained otherwise and says so.
        masked = getattr(self._text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask if masked else None
        return self._text_encoder(tokens.input_ids, attention_mask=mask).last_hidden_state

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
        n = len(timestep)
        if not branches or (max_batch is not None and max_batch < 1):
            raise ValueError(
                "predict needs a branch or more and a positive max_batch (or None), got "
                f"{len(branches)} branches and max_batch {max_batch}."
            )
        rows = [branch_rows(branch, n) for branch in branches]
        noisy = torch.cat([b.noisy[r] for b, r in zip(branches, rows, strict=True)])
        shown = torch.cat([shown_channels(b)[r] for b, r in zip(branches, rows, strict=True)])
        text = torch.cat([text_rows(b.text, n)[r] for b, r in zip(branches, rows, strict=True)])
        steps = torch.cat([timestep[r] for r in rows])
        # One evaluation a row; the U-Net takes a row's timestep, so that rows may be split freely.
        chunks = zip(
            *(part.split(max_batch or len(part)) for part in (shown, steps, text)), strict=True
        )
        output = torch.cat([self._evaluate(*chunk) for chunk in chunks]).to(noisy.device)
        estimate = self._to_noise(output, noisy, steps)
        if all(branch.rows is None for branch in branches):
            return estimate.unflatten(0, (len(branches), n))
        whole = estimate.new_zeros(len(branches), n, *estimate.shape[1:])
        sizes = [len(branch.noisy[r]) for branch, r in zip(branches, rows, strict=True)]
        for k, part in enumerate(estimate.split(sizes)):
            whole[k, rows[k]] = part
        return whole

    def _evaluate(
        self,
        shown: Float[Tensor, "rows channels h w"],
        timestep: Real[Tensor, "rows"],
        text: Float[Tensor, "rows tokens width"],
    ) -> Float[Tensor, "rows c h w"]:
        """Run the U-Net once; its raw output as float32."""
        shown, text = (rows.to(self.device, self._unet.dtype) for rows in (shown, text))
        output = self._unet(
            shown, timestep.to(self.device), encoder_hidden_states=text, return_dict=False
        )
        return output[0].float()

    def _to_noise(
        self,
        output: Float[Tensor, "rows c h w"],
        noisy: Float[Tensor, "rows c h w"],
        timestep: Real[Tensor, "rows"],
    ) -> Float[Tensor, "rows c h w"]:
        if self._prediction_type == "epsilon":
            return output
        alpha, sigma = noise_scales(self.schedule, timestep.to(output.device))
        return alpha.view(-1, 1, 1, 1) * output + sigma.view(-1, 1, 1, 1) * noisy

    @torch.no_grad()
    def _mode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        height, width = image01.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"{self.name!r} needs heights and widths that are multiples of "
                f"{self.size_multiple}, got {height} x {width}: resize the images."
            )
        pixels = (2 * image01 - 1).to(self.device, self._vae.dtype)
        posterior = self._vae.encode(pixels, return_dict=False)[0]
        return posterior.mode().float().to(image01.device)

    def _warn_of_cuts(self, prompts: Sequence[str], limit: int) -> None:
        # Two of the places are taken by the tokens that begin and end every prompt.
        ids = self._tokenizer(list(prompts), add_special_tokens=False, verbose=False).input_ids
        for prompt, tokens in zip(prompts, ids, strict=True):
            if cut := tokens[limit - 2 :]:
                lost = self._tokenizer.decode(cut)
                warnings.warn(
                    f"The prompt {prompt!r} has {len(tokens)} tokens, {self.name!r} reads "
                    f"{limit - 2}: {lost!r} is cut off.",
                    stacklevel=3,
                )
