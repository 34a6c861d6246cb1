"""DeepFloyd IF's first stage on diffusers: a text-to-image model in pixels.

Its latents are the pixels themselves, 2 * image01 - 1. The U-Net may return its learned variance
as three more channels, which are dropped because only the noise estimate is used.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer

from csd_nerf.core.schedules import DiscreteSchedule
from csd_nerf.priors.fitness import check_unet
from csd_nerf.priors.parts import reading_part
from csd_nerf.priors.placement import Placement
from csd_nerf.priors.texts import TextEncoder, t5_states
from csd_nerf.priors.unet import UNetPrior, downsampling_factor, load_schedule
from csd_nerf.priors.vae import check_size

_CHANNELS = 3


class DeepFloydIF(UNetPrior):
    """A `Prior` made of the parts of an IFPipeline.

    Only `encode` keeps an autograd graph. Results come back as float32 on the device of the
    tensor that was handed in.
    """

    latent_channels = _CHANNELS
    cell_size = 1

    def __init__(
        self,
        *,
        name: str,
        unet: UNet2DConditionModel,
        text_encoder: T5EncoderModel,
        tokenizer: T5Tokenizer,
        schedule: DiscreteSchedule,
        prediction_type: str = "epsilon",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap models that are loaded already; see `Placement`.

        Args:
            name: The name or path under which the prior was loaded.
            unet: The denoiser of RGB pixels.
            text_encoder: Its last hidden states condition the U-Net.
            tokenizer: Tokenizer of the text encoder.
            schedule: Training schedule of the U-Net.
            prediction_type: What the U-Net returns, `epsilon` or `v_prediction`.
            device: Where the U-Net runs; None means where its weights are.
            dtype: Precision of its inputs; None means that of its weights.

        Raises:
            ValueError: If the U-Net isn't one of pixels; see `check_unet`.
        """
        check_unet(unet.config, name, latent_channels=None, sources=(), of=type(self).__name__)
        device = device or unet.device
        texts = TextEncoder(name, text_encoder, tokenizer, t5_states, device=device)
        super().__init__(name, unet, texts, schedule, prediction_type, device=device, dtype=dtype)
        self.preferred_size: int = unet.config["sample_size"]
        self.size_multiple = downsampling_factor(unet)

    @classmethod
    def from_folder(
        cls, folder: Path, *, name: str, vae_tiling: bool = False, **where: Any
    ) -> DeepFloydIF:
        """Load a complete folder in the pipeline's layout; see `csd_nerf.priors.load`.

        Args:
            folder: The folder.
            name: The name or path under which the prior is loaded.
            vae_tiling: Ignored, since there is no autoencoder.
            where: The fields of `Placement`.

        Raises:
            ImportError: If the tokenizer is a SentencePiece model, and sentencepiece is not
                installed.
        """
        del vae_tiling
        place = Placement(**where)
        tokenizer = _load_tokenizer(folder / "tokenizer")
        schedule, prediction_type = load_schedule(folder)
        return cls(
            name=name,
            unet=place.denoiser(UNet2DConditionModel, folder / "unet"),
            text_encoder=place.text_encoder(T5EncoderModel, folder / "text_encoder", large=True),
            tokenizer=tokenizer,
            schedule=schedule,
            prediction_type=prediction_type,
            device=place.device,
            dtype=place.dtype,
        )

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        """Scale images from [0, 1] to [-1, 1]; differentiable.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        check_size(self.name, image01, self.size_multiple)
        return 2 * image01 - 1

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
        """Scale pixels from [-1, 1] to images in [0, 1], clamped."""
        return (latent / 2 + 0.5).clamp(0, 1)


def _load_tokenizer(folder: Path) -> T5Tokenizer:
    if (folder / "tokenizer.json").is_file():
        with reading_part(folder):
            return T5Tokenizer.from_pretrained(folder)
    return _from_sentencepiece(folder / "spiece.model")


def _from_sentencepiece(path: Path) -> T5Tokenizer:
    """T5's tokenizer from its SentencePiece model, which is all that DeepFloyd ships.

    transformers would read the model by a newer protobuf than nerfstudio allows. Here sentencepiece
    reads it, and NFKC stands for the model's own table of normalisations, which is made from it.
    """
    if find_spec("sentencepiece") is None:
        raise ImportError(
            f"Reading {path} needs sentencepiece, which is not installed: "
            "run `pip install sentencepiece`."
        )
    from sentencepiece import SentencePieceProcessor
    from tokenizers.normalizers import NFKC

    with reading_part(path.parent):
        model: Any = SentencePieceProcessor(model_file=str(path))
        ids = range(model.get_piece_size())
        tokenizer = T5Tokenizer(vocab=[(model.id_to_piece(i), model.get_score(i)) for i in ids])
    tokenizer.backend_tokenizer.normalizer = NFKC()
    return tokenizer
