"""FLUX.2 [klein] on diffusers: images edited by instructions, or made from a text, by a flow.

The latent is packed: the autoencoder's 2 x 2 cells are one cell of 4 times as many channels, which
is one token, normalised by the statistics of the autoencoder's batch norm. The source's tokens
follow the noisy ones, in another plane of the positions. The text encoder is a language model, of
which three layers are read; it sees the text only.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import AutoTokenizer, Qwen3Model

from csd_nerf.core.rows import Rows
from csd_nerf.priors.flow import (
    REFERENCES,
    FlowPrior,
    load_flow_scheduler,
    map_of,
    places_of,
    tokens_of,
)
from csd_nerf.priors.parts import reading_part
from csd_nerf.priors.placement import Placement
from csd_nerf.priors.texts import QWEN3_LAYERS, TextEncoder, qwen3_states
from csd_nerf.priors.vae import cell_size_of, check_size, decode_unscaled, encode_mode

_PLANE = 10
"""Distance between the planes of positions of the noisy tokens and of the source's."""


class Flux2Klein(FlowPrior):
    """A `Prior` made of the parts of a Flux2KleinPipeline that isn't distilled."""

    second_rows = REFERENCES[1:]

    def __init__(
        self,
        *,
        name: str,
        vae: AutoencoderKLFlux2,
        transformer: Flux2Transformer2DModel,
        text_encoder: Qwen3Model,
        tokenizer: Any,
        scheduler: FlowMatchEulerDiscreteScheduler,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap models that are loaded already; `device` and `dtype` are as for `FlowPrior`."""
        super().__init__(name, transformer, scheduler, device=device, dtype=dtype)
        self.latent_channels: int = transformer.config["in_channels"]
        self.cell_size = self.size_multiple = 2 * cell_size_of(vae)
        self.preferred_size: int = vae.config["sample_size"]
        self._vae = vae.eval().requires_grad_(False)
        # The layers after those that are read are not computed. One more stays, since the last
        # one's states are normalised.
        del text_encoder.layers[max(QWEN3_LAYERS) + 1 :]
        self._texts = TextEncoder(name, text_encoder, tokenizer, qwen3_states, device=self.device)

    @classmethod
    def from_folder(
        cls, folder: Path, *, name: str, vae_tiling: bool = False, **where: Any
    ) -> Flux2Klein:
        """Load a complete folder in the pipeline's layout; see `csd_nerf.priors.load`.

        Args:
            folder: The folder.
            name: The name or path under which the prior is loaded.
            vae_tiling: As for `load`.
            where: The fields of `Placement`.
        """
        place = Placement(**where)
        with reading_part(folder / "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        return cls(
            name=name,
            vae=place.autoencoder(AutoencoderKLFlux2, folder / "vae", tiling=vae_tiling),
            transformer=place.denoiser(Flux2Transformer2DModel, folder / "transformer"),
            text_encoder=place.text_encoder(Qwen3Model, folder / "text_encoder", large=True),
            tokenizer=tokenizer,
            scheduler=load_flow_scheduler(folder),
            device=place.device,
            dtype=place.dtype,
        )

    def encode_text(
        self,
        prompts: Sequence[str],
        image_rows: Rows | None = None,  # noqa: ARG002
    ) -> dict[str, Float[Tensor, "r tokens width"]]:
        """Encode prompts as the rows `text`; see `Prior.encode_text`."""
        return {"text": self._texts.encode(prompts)}

    def free_text_encoder(self) -> None:
        """Drop the text encoder from memory."""
        self._texts.free()

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Encode images to packed latents; keeps the autograd graph.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        check_size(self.name, image01, self.size_multiple)
        packed = pixel_unshuffle(encode_mode(self._vae, image01), 2)
        mean, deviation = self._statistics(packed)
        return (packed - mean) / deviation

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Decode packed latents to images, clamped to [0, 1]."""
        mean, deviation = self._statistics(latent)
        unpacked = pixel_shuffle(latent * deviation + mean, 2)
        return decode_unscaled(self._vae, unpacked)

    def _statistics(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        norm: Any = self._vae.bn
        variance = norm.running_var.float() + self._vae.config["batch_norm_eps"]
        pair = (norm.running_mean.float(), variance.sqrt())
        mean, deviation = (values.view(1, -1, 1, 1).to(latent) for values in pair)
        return mean, deviation

    def velocity(
        self, noisy: Float[Tensor, "b c h w"], level: Float[Tensor, "b"], rows: dict[str, Tensor]
    ) -> Float[Tensor, "b c h w"]:
        """Call the transformer on the tokens of noisy latents and of their references."""
        maps, text = self.maps(noisy, rows), rows["text"]
        places = [places_of(one, plane=_PLANE * k, axes=4) for k, one in enumerate(maps)]
        words = torch.zeros(text.shape[1], 4, dtype=torch.long, device=self.device)
        words[:, 3] = torch.arange(text.shape[1], device=self.device)

        output = self.call(
            self._transformer,
            hidden_states=self.shown(tokens_of(maps)),
            timestep=self.shown(level),
            guidance=None,
            encoder_hidden_states=self.shown(text),
            txt_ids=words[None].expand(len(noisy), -1, -1),
            img_ids=torch.cat(places).to(self.device)[None].expand(len(noisy), -1, -1),
            return_dict=False,
        )[0]
        return map_of(output, noisy)

    def shift(self, cells: int, steps: int) -> float:
        """By the authors' fit to the number of tokens and of steps, as diffusers has it."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        return compute_empirical_mu(image_seq_len=cells, num_steps=steps)
