"""InstructPix2Pix in the size of Stable Diffusion XL, on diffusers.

It differs from InstructPix2Pix in its texts: the states of two CLIP encoders side by side, and the
projected summary of the second, which conditions the U-Net together with the picture's size. The
empty text is zeros, if the pipeline says so. In half precision its autoencoder overflows, and stays
in single precision.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from csd_nerf.core.copies import sent
from csd_nerf.core.rows import Rows
from csd_nerf.json_files import read_json
from csd_nerf.priors.families import INDEX
from csd_nerf.priors.instruct_pix2pix import InstructPix2Pix
from csd_nerf.priors.parts import reading_part
from csd_nerf.priors.placement import Placement
from csd_nerf.priors.texts import TextEncoder, clip_penultimate, clip_projected


class InstructPix2PixXL(InstructPix2Pix):
    """A `Prior` made of the parts of a StableDiffusionXLInstructPix2PixPipeline."""

    text_rows = ("text", "pooled")
    allowed_additions = ("text_time",)
    text_states = staticmethod(clip_penultimate)

    def __init__(
        self,
        *,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer_2: CLIPTokenizer,
        zeros_for_empty: bool = True,
        **parts: Any,
    ) -> None:
        """Wrap models that are loaded already; see `Placement`.

        Args:
            text_encoder_2: The second text encoder, whose summary is used too.
            tokenizer_2: Its tokenizer.
            zeros_for_empty: Whether the empty text is zeros, instead of its encoding.
            parts: The arguments of `StableDiffusion`.
        """
        super().__init__(**parts)
        second = (parts["name"], text_encoder_2, tokenizer_2)
        self._second = TextEncoder(*second, clip_penultimate, device=self.device)
        self._summaries = TextEncoder(*second, clip_projected, device=self.device)
        self._zeros_for_empty = zeros_for_empty

    @classmethod
    def vae_dtype(cls, dtype: torch.dtype) -> torch.dtype:
        """Single precision where half precision would overflow."""
        return torch.float32 if dtype == torch.float16 else dtype

    @classmethod
    def load_second_text(cls, folder: Path, place: Placement) -> dict[str, Any]:
        """The second text encoder, its tokenizer, and what the pipeline's index says of them."""
        with reading_part(folder / "tokenizer_2"):
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
        index = read_json(
            folder / INDEX, _Index, what="a pipeline's index", remedy="fetch it again"
        )
        return {
            "text_encoder_2": place.text_encoder(
                CLIPTextModelWithProjection, folder / "text_encoder_2"
            ),
            "tokenizer_2": tokenizer,
            "zeros_for_empty": index.force_zeros_for_empty_prompt,
        }

    def encode_text(
        self,
        prompts: Sequence[str],
        image_rows: Rows | None = None,  # noqa: ARG002
    ) -> dict[str, Float[Tensor, "r *shape"]]:
        """Encode prompts to the states of both encoders, `text`, and a summary, `pooled`."""
        states = [self._texts.encode(prompts), self._second.encode(prompts)]
        rows = {"text": torch.cat(states, dim=2), "pooled": self._summaries.encode(prompts)}
        if self._zeros_for_empty:
            for number, prompt in enumerate(prompts):
                if not prompt:
                    for tensor in rows.values():
                        tensor[number] = 0
        return rows

    def free_text_encoder(self) -> None:
        """Drop the text encoders from memory."""
        for texts in (self._texts, self._second, self._summaries):
            texts.free()

    def additions(
        self, noisy: Float[Tensor, "b c h w"], rows: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The texts' summaries, and the picture's size, which is neither cropped nor scaled."""
        height, width = (edge * self.cell_size for edge in noisy.shape[2:])
        ids = torch.tensor([height, width, 0, 0, height, width], dtype=self.dtype)
        pooled = rows["pooled"].to(self.device, self.dtype)
        shown = sent(ids, self.device).expand(len(noisy), -1)
        return {"text_embeds": pooled, "time_ids": shown}


class _Index(BaseModel):
    force_zeros_for_empty_prompt: bool = True
