"""DeepFloyd IF's first stage on diffusers: text to small images, diffused as pixels.

Its latents are the pixels themselves, 2 * image01 - 1. The U-Net may return its learned variance
as three more channels, which are dropped: distillation and `sample_text` need the noise alone.

This module imports diffusers and transformers; `csd_nerf.priors.load_text_to_image` imports it
late.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from jaxtyping import Float, Real
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from csd_nerf.core.schedules import NoiseSchedule
from csd_nerf.priors.base import Branch
from csd_nerf.priors.texts import not_freed, t5_states
from csd_nerf.priors.unet import check_unet, halvings, predict_noise, run_unet, shown_alone
from csd_nerf.priors.vae import check_size

_CHANNELS = 3


class DeepFloydIF:
    """A `TextToImage` prior made of the parts of an IFPipeline.

    Only `encode` keeps an autograd graph. Results come back as float32 on the device of the
    tensor that was handed in.
    """

    def __init__(
        self,
        *,
        name: str,
        unet: UNet2DConditionModel,
        text_encoder: T5EncoderModel,
        tokenizer: T5Tokenizer,
        schedule: NoiseSchedule,
        prediction_type: str = "epsilon",
    ) -> None:
        """Wrap models that are already on their device and in their precision.

        Args:
            name: What the prior was loaded as.
            unet: The denoiser of RGB pixels.
            text_encoder: Its last hidden states condition the U-Net.
            tokenizer: The text encoder's.
            schedule: Training schedule of the U-Net.
            prediction_type: What the U-Net returns, `epsilon` or `v_prediction`.

        Raises:
            ValueError: If the parts are not those of a pixel-space model.
        """
        if unet.config["in_channels"] != _CHANNELS:
            raise ValueError(
                f"A pixel-space U-Net takes {_CHANNELS} channels, that of {name!r} takes "
                f"{unet.config['in_channels']}: add the vae/ folder of a latent model, "
                "or name another text-to-image model."
            )
        check_unet(name, unet, prediction_type)
        self.name = name
        self.device = unet.device
        self.schedule = schedule
        self.latent_channels = _CHANNELS
        self.cell_size = 1
        self.preferred_size: int = unet.config["sample_size"]
        self.size_multiple = halvings(unet)
        self._unet = unet.eval().requires_grad_(False)
        self._text_encoder: T5EncoderModel | None = text_encoder.eval().requires_grad_(False)
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
    ) -> DeepFloydIF:
        """Load a complete folder in the pipeline's layout.

        See `csd_nerf.priors.load_text_to_image`.

        Raises:
            ImportError: If the tokenizer comes as a SentencePiece model, and that is not installed.
        """
        tokenizer = _load_tokenizer(folder / "tokenizer")
        # diffusers' annotations hide what these classes return, hence Any.
        unet: Any = UNet2DConditionModel.from_pretrained(
            folder / "unet",
            variant=variant,
            torch_dtype=dtype,
            # Without accelerate diffusers would fall back to this by itself, with a warning.
            low_cpu_mem_usage=is_accelerate_available(),
        )
        # The precision is set while loading: T5 keeps some layers in float32, without which half
        # precision overflows, and the whole in float32 would need twice the memory.
        text_encoder: Any = T5EncoderModel.from_pretrained(
            folder / "text_encoder", variant=variant, torch_dtype=dtype
        )
        scheduler: Any = DDPMScheduler.from_pretrained(folder / "scheduler")
        return cls(
            name=name,
            unet=unet.to(device),
            text_encoder=text_encoder.to(device),
            tokenizer=tokenizer,
            schedule=NoiseSchedule(scheduler.alphas_cumprod),
            prediction_type=scheduler.config["prediction_type"],
        )

    @property
    def unet(self) -> UNet2DConditionModel:
        """The denoiser, to be compiled, laid out or measured; its weights stay as they are."""
        return self._unet

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        """Images to pixels in [-1, 1]; the gradient with respect to the images is 2.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        check_size(self.name, image01, self.size_multiple)
        return 2 * image01 - 1

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        """Pixels in [-1, 1] to images, clamped to [0, 1]."""
        return (latent / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "r tokens width"]:
        """Prompts to T5's last hidden states; case and outer blanks do not matter.

        A prompt that is too long is cut, with a warning that says what was lost.

        Raises:
            ValueError: If there is no prompt, or prompts is one string.
            RuntimeError: After `free_text_encoder`.
        """
        encoder = not_freed(self._text_encoder, self.name)
        return t5_states(encoder, self._tokenizer, prompts, name=self.name).float()

    def free_text_encoder(self) -> None:
        """Drop the text encoder, which is larger than the U-Net, from memory."""
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
    ) -> Float[Tensor, "k n 3 H W"]:
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


def _load_tokenizer(folder: Path) -> T5Tokenizer:
    if not (folder / "tokenizer.json").is_file() and find_spec("sentencepiece") is None:
        raise ImportError(
            f"Reading {folder / 'spiece.model'} needs sentencepiece, which is not installed: "
            "run `pip install sentencepiece protobuf`."
        )
    return T5Tokenizer.from_pretrained(folder)
