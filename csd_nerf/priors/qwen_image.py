"""Qwen-Image-Edit on diffusers: images edited by instructions, by a flow whose texts see the image.

The text encoder is a model of vision and language, which is shown the source image beside the
instruction: each particle has texts of its own. The latent is that of a video's autoencoder, for a
video of one frame; 2 x 2 of its cells are one token. The source's tokens follow the noisy ones, as
the next frame. Guidance by the text keeps each token's norm.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageTransformer2DModel,
)
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import Qwen2_5_VLModel, Qwen2VLProcessor

from csd_nerf.core.rows import PICTURE, PICTURES, SECOND, Rows
from csd_nerf.priors.base import Branch
from csd_nerf.priors.flow import (
    REFERENCE,
    REFERENCES,
    FlowPrior,
    load_flow_scheduler,
    map_of,
    tokens_of,
)
from csd_nerf.priors.parts import reading_part
from csd_nerf.priors.placement import Placement
from csd_nerf.priors.seeing_texts import SeeingTextEncoder
from csd_nerf.priors.vae import check_size, decode_unscaled, encode_mode

SEEN = ("seen", "seen_2")
"""Rows of the texts that have seen the source image, or the source image and a second one."""
_MASK = "_mask"
PREFERRED_SIZE = 1024
"""Edge in pixels of a square with the area of the pipeline's pictures; no configuration has it."""


class QwenImageEdit(FlowPrior):
    """A `Prior` made of the parts of a QwenImageEditPlusPipeline."""

    text_rows = tuple(name + end for name in ("text", *SEEN) for end in ("", _MASK))
    source_rows = (REFERENCE, PICTURE)
    second_rows = (REFERENCE + SECOND, PICTURE + SECOND)
    bounds_guidance = True

    def __init__(
        self,
        *,
        name: str,
        vae: AutoencoderKLQwenImage,
        transformer: QwenImageTransformer2DModel,
        text_encoder: Qwen2_5_VLModel,
        processor: Qwen2VLProcessor,
        scheduler: FlowMatchEulerDiscreteScheduler,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap models that are loaded already; `device` and `dtype` are as for `FlowPrior`."""
        super().__init__(name, transformer, scheduler, device=device, dtype=dtype)
        self.latent_channels: int = vae.config["z_dim"]
        self.cell_size = 2 ** len(vae.config["temperal_downsample"])
        self.size_multiple = 2 * self.cell_size
        self.preferred_size = PREFERRED_SIZE
        self._vae = vae.eval().requires_grad_(False)
        self._texts: Any = SeeingTextEncoder(name, text_encoder, processor, device=self.device)

    @classmethod
    def from_folder(
        cls, folder: Path, *, name: str, vae_tiling: bool = False, **where: Any
    ) -> QwenImageEdit:
        """Load a complete folder in the pipeline's layout; see `csd_nerf.priors.load`.

        Args:
            folder: The folder.
            name: The name or path under which the prior is loaded.
            vae_tiling: As for `load`.
            where: The fields of `Placement`.
        """
        place = Placement(**where)
        with reading_part(folder / "processor"):
            processor: Any = Qwen2VLProcessor.from_pretrained(folder / "processor")
        return cls(
            name=name,
            vae=place.autoencoder(AutoencoderKLQwenImage, folder / "vae", tiling=vae_tiling),
            transformer=place.denoiser(QwenImageTransformer2DModel, folder / "transformer"),
            # Without the head, which would predict the next word.
            text_encoder=place.text_encoder(Qwen2_5_VLModel, folder / "text_encoder", large=True),
            processor=processor,
            scheduler=load_flow_scheduler(folder),
            device=place.device,
            dtype=place.dtype,
        )

    def replace_texts(self, texts: Any) -> None:
        """Encode texts by another object with the methods of `SeeingTextEncoder`."""
        self._texts = texts

    @torch.no_grad()
    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """Encode to clean latents, which are the rows `reference` too, with the pictures."""
        latent = self.encode(image01)
        packed = pixel_unshuffle(image01, self.cell_size)
        return latent, {REFERENCE: latent, PICTURE: packed}

    def encode_text(
        self, prompts: Sequence[str], image_rows: Rows | None = None
    ) -> dict[str, Float[Tensor, "r tokens width"] | Bool[Tensor, "r tokens"]]:
        """Encode prompts as the rows `text`, and beside pictures as the rows of `SEEN`.

        Where the texts of a call differ in length, rows of a mask say which tokens there are.
        """
        rows: dict[str, Tensor] = {}
        shown: list[Tensor] = []
        given = {} if image_rows is None else image_rows
        for name, picture in zip(("text", *SEEN), (None, *PICTURES), strict=True):
            if picture is not None and picture in given:
                image01 = pixel_shuffle(given[picture], self.cell_size)
                # The second picture may be one for all.
                shown.append(image01.expand(len(given[PICTURE]), -1, -1, -1))
            elif picture is not None:
                continue
            rows[name], mask = self._texts.encode(prompts, shown)
            if mask is not None:
                rows[name + _MASK] = mask
        return rows

    def free_text_encoder(self) -> None:
        """Drop the text encoder from memory."""
        self._texts.free()

    def model_rows(self, branch: Branch) -> dict[str, Tensor]:
        """The branch's references, and the text that has seen just these."""
        rows = super().model_rows(branch)
        references = {name: rows[name] for name in REFERENCES if name in rows}
        text = ("text", *SEEN)[len(references)]
        # A text that was encoded without pictures has seen none.
        text = text if text in rows else "text"
        renamed = {"text": rows[text]}
        if text + _MASK in rows:
            renamed["text" + _MASK] = rows[text + _MASK]
        return renamed | references

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Encode images to latents; keeps the autograd graph.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        check_size(self.name, image01, self.size_multiple)
        mean, deviation = self._statistics(image01)
        return (encode_mode(self._vae, image01) - mean) / deviation

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Decode latents to images, clamped to [0, 1]."""
        mean, deviation = self._statistics(latent)
        return decode_unscaled(self._vae, latent * deviation + mean)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self._vae.config
        pair = (config["latents_mean"], config["latents_std"])
        mean, deviation = (torch.tensor(values).view(1, -1, 1, 1).to(like) for values in pair)
        return mean, deviation

    def velocity(
        self, noisy: Float[Tensor, "b c h w"], level: Float[Tensor, "b"], rows: dict[str, Tensor]
    ) -> Float[Tensor, "b c h w"]:
        """Call the transformer on the tokens of noisy latents and of their references."""
        maps = [pixel_unshuffle(latent, 2) for latent in self.maps(noisy, rows)]
        mask = rows.get("text" + _MASK)

        output = self.call(
            self._transformer,
            hidden_states=self.shown(tokens_of(maps)),
            timestep=self.shown(level),
            encoder_hidden_states=self.shown(rows["text"]),
            encoder_hidden_states_mask=None if mask is None else mask.to(self.device),
            img_shapes=[[(1, *one.shape[2:]) for one in maps]] * len(noisy),
            return_dict=False,
        )[0]
        return pixel_shuffle(map_of(output, maps[0]), 2)

    def bound_guidance(
        self, guided: Float[Tensor, "n c h w"], conditional: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Scale each token of a guided velocity to the norm that it has without guidance."""
        changed, plain = (pixel_unshuffle(one, 2) for one in (guided, conditional))
        ratio = plain.norm(dim=1, keepdim=True) / changed.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return pixel_shuffle(changed * ratio, 2)

    def shift(self, cells: int, steps: int) -> float:
        """Linear in the number of tokens, whatever the number of steps."""
        del steps
        return self.linear_shift(cells // 4)
