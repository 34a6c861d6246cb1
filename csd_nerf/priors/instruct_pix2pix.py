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
from collections.abc import Sequence
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

_PREDICTION_TYPES = ("epsilon", "v_prediction")


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
        _check_parts(name, vae, unet, prediction_type)
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

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Images to clean latents: VAE modes in the U-Net's scale.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        shift = self._vae.config.get("shift_factor") or 0.0
        return (self._mode(image01) - shift) * self._vae.config["scaling_factor"]

    def encode_condition(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Source images to the image condition: unscaled VAE modes; sizes as for `encode`."""
        return self._mode(image01)

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Clean latents to images, clamped to [0, 1]."""
        shift = self._vae.config.get("shift_factor") or 0.0
        scaled = latent / self._vae.config["scaling_factor"] + shift
        pixels = self._vae.decode(scaled.to(self.device, self._vae.dtype), return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1).to(latent.device)

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
        noisy = torch.cat([branch.noisy for branch in branches])
        shown = torch.cat([_channels(branch) for branch in branches])
        text = torch.cat([_text_rows(branch.text, n) for branch in branches])
        steps = timestep.repeat(len(branches))
        # One evaluation a row; the U-Net takes a row's timestep, so that rows may be split freely.
        chunks = zip(
            *(rows.split(max_batch or len(rows)) for rows in (shown, steps, text)), strict=True
        )
        output = torch.cat([self._evaluate(*chunk) for chunk in chunks]).to(noisy.device)
        return self._to_noise(output, noisy, steps).unflatten(0, (len(branches), n))

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
        alpha, sigma = _scales(self.schedule, timestep.to(output.device))
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


def _channels(branch: Branch) -> Float[Tensor, "n channels h w"]:
    """Put the condition beside the noisy latent; a dropped condition is zeros."""
    condition = branch.condition
    if condition is None:
        condition = torch.zeros_like(branch.noisy)
    return torch.cat([branch.noisy, condition.to(branch.noisy)], dim=1)


def _text_rows(text: Float[Tensor, "r tokens width"], n: int) -> Float[Tensor, "n tokens width"]:
    if len(text) not in (1, n):
        raise ValueError(f"A branch's text needs 1 row or one a particle ({n}), got {len(text)}.")
    return text.expand(n, -1, -1)


def _scales(
    schedule: NoiseSchedule, timestep: Real[Tensor, "n"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """alpha_t and sigma_t; between steps sigma_t / alpha_t is linear, as in diffusers' solvers."""
    if not timestep.is_floating_point():
        return schedule.alpha(timestep), schedule.sigma(timestep)
    below = timestep.long()
    above = timestep.ceil().long()
    ratio = torch.lerp(
        schedule.sigma(below) / schedule.alpha(below),
        schedule.sigma(above) / schedule.alpha(above),
        timestep.float() - below,
    )
    alpha = (1 + ratio.square()).rsqrt()
    return alpha, ratio * alpha


def _check_parts(
    name: str, vae: AutoencoderKL, unet: UNet2DConditionModel, prediction_type: str
) -> None:
    wanted, got = 2 * vae.config["latent_channels"], unet.config["in_channels"]
    if got != wanted:
        raise ValueError(
            f"An InstructPix2Pix U-Net takes {wanted} channels (latent and condition), "
            f"that of {name!r} takes {got}: name an editing model."
        )
    if prediction_type not in _PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type needs one of {', '.join(_PREDICTION_TYPES)}, "
            f"got {prediction_type!r} from {name!r}: name another model."
        )
    if not isinstance(unet.config["sample_size"], int):
        raise ValueError(
            "The U-Net's sample_size needs one integer (latent cells along an edge), got "
            f"{unet.config['sample_size']} from {name!r}: set it in unet/config.json."
        )
