"""FLUX.1 Kontext on diffusers: images edited by instructions, or made from a text, by a flow.

The latent is the autoencoder's; 2 x 2 of its cells are one token. The source's tokens follow the
noisy ones, in another plane of the positions. The model is distilled from one with guidance, whose
scale is an input of every evaluation: guidance by the text need not be computed (a text scale of
1), and the source's own estimate carries the same scale.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import AutoTokenizer, CLIPTextModel, CLIPTokenizer, T5EncoderModel

from csd_nerf.core.rows import Rows
from csd_nerf.priors.flow import FlowPrior, load_flow_scheduler, map_of, places_of, tokens_of
from csd_nerf.priors.parts import reading_part
from csd_nerf.priors.placement import Placement
from csd_nerf.priors.texts import TextEncoder, clip_pooled, t5_plain_states
from csd_nerf.priors.vae import cell_size_of, check_size, decode_latent, encode_mode, scale_mode

GUIDANCE = 2.5
"""The scale of the distilled guidance; black-forest-labs' example of editing has it."""


class FluxKontext(FlowPrior):
    """A `Prior` made of the parts of a FluxKontextPipeline."""

    text_rows = ("text", "pooled")

    def __init__(
        self,
        *,
        name: str,
        vae: AutoencoderKL,
        transformer: FluxTransformer2DModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: T5EncoderModel,
        tokenizer_2: Any,
        scheduler: FlowMatchEulerDiscreteScheduler,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap models that are loaded already; `device` and `dtype` are as for `FlowPrior`."""
        super().__init__(name, transformer, scheduler, device=device, dtype=dtype)
        self.latent_channels: int = vae.config["latent_channels"]
        self.cell_size = cell_size_of(vae)
        self.size_multiple = 2 * self.cell_size
        self.preferred_size: int = vae.config["sample_size"]
        self._vae = vae.eval().requires_grad_(False)
        self._pooled = TextEncoder(name, text_encoder, tokenizer, clip_pooled, device=self.device)
        self._texts = TextEncoder(
            name, text_encoder_2, tokenizer_2, t5_plain_states, device=self.device
        )

    @classmethod
    def from_folder(
        cls, folder: Path, *, name: str, vae_tiling: bool = False, **where: Any
    ) -> FluxKontext:
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
        with reading_part(folder / "tokenizer_2"):
            tokenizer_2 = AutoTokenizer.from_pretrained(folder / "tokenizer_2")
        return cls(
            name=name,
            vae=place.autoencoder(AutoencoderKL, folder / "vae", tiling=vae_tiling),
            transformer=place.denoiser(FluxTransformer2DModel, folder / "transformer"),
            text_encoder=place.text_encoder(CLIPTextModel, folder / "text_encoder"),
            tokenizer=tokenizer,
            text_encoder_2=place.text_encoder(
                T5EncoderModel, folder / "text_encoder_2", large=True
            ),
            tokenizer_2=tokenizer_2,
            scheduler=load_flow_scheduler(folder),
            device=place.device,
            dtype=place.dtype,
        )

    def encode_text(
        self,
        prompts: Sequence[str],
        image_rows: Rows | None = None,  # noqa: ARG002
    ) -> dict[str, Float[Tensor, "r *shape"]]:
        """Encode prompts: T5's states as the rows `text`, CLIP's summary as the rows `pooled`."""
        return {"text": self._texts.encode(prompts), "pooled": self._pooled.encode(prompts)}

    def free_text_encoder(self) -> None:
        """Drop the text encoders from memory."""
        self._texts.free()
        self._pooled.free()

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Encode images to latents; keeps the autograd graph.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        check_size(self.name, image01, self.size_multiple)
        return scale_mode(self._vae, encode_mode(self._vae, image01))

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Decode latents to images, clamped to [0, 1]."""
        return decode_latent(self._vae, latent)

    def velocity(
        self, noisy: Float[Tensor, "b c h w"], level: Float[Tensor, "b"], rows: dict[str, Tensor]
    ) -> Float[Tensor, "b c h w"]:
        """Call the transformer on the tokens of noisy latents and of their references."""
        maps = [pixel_unshuffle(latent, 2) for latent in self.maps(noisy, rows)]
        places = [places_of(one, plane=k, axes=3) for k, one in enumerate(maps)]

        guided = self._transformer.config["guidance_embeds"]
        output = self.call(
            self._transformer,
            hidden_states=self.shown(tokens_of(maps)),
            timestep=self.shown(level),
            guidance=torch.full((len(noisy),), GUIDANCE, device=self.device) if guided else None,
            encoder_hidden_states=self.shown(rows["text"]),
            pooled_projections=self.shown(rows["pooled"]),
            txt_ids=torch.zeros(rows["text"].shape[1], 3, device=self.device),
            img_ids=self.shown(torch.cat(places)),
            return_dict=False,
        )[0]
        return pixel_shuffle(map_of(output, maps[0]), 2)

    def shift(self, cells: int, steps: int) -> float:
        """Linear in the number of tokens, whatever the number of steps."""
        del steps
        return self.linear_shift(cells // 4)
