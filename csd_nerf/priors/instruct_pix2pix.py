"""InstructPix2Pix models on diffusers: images edited by instructions.

The input channels of the U-Net are the noisy latent and the latent of the source image. The two
differ in scale: noisy latents are VAE modes times the VAE's scaling factor, the condition is the
raw VAE mode, since that is what InstructPix2Pix (Brooks et al. 2023) was trained on. The authors'
release of CSD conditions on the scaled latent (and encodes by a sample instead of the mode);
`condition="scaled"` restores the scale. Without a source image the condition is zeros.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.rows import Rows
from csd_nerf.priors.base import Branch
from csd_nerf.priors.families import Condition
from csd_nerf.priors.stable_diffusion import StableDiffusion
from csd_nerf.priors.vae import scale_mode


class InstructPix2Pix(StableDiffusion):
    """A `Prior` made of the parts of a StableDiffusionInstructPix2PixPipeline."""

    source_rows: tuple[str, ...] = ("condition",)
    condition: Condition = "raw"
    """Scale of the condition: raw, the VAE mode, or scaled, times the VAE's scaling factor."""

    @classmethod
    def from_folder(
        cls, folder: Path, *, condition: Condition = "raw", **options: Any
    ) -> InstructPix2Pix:
        """Load a complete folder in the pipeline's layout; see `csd_nerf.priors.load`."""
        prior = super().from_folder(folder, **options)
        assert isinstance(prior, InstructPix2Pix)
        prior.condition = condition
        return prior

    @torch.no_grad()
    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """Encode to clean latents, and to the VAE modes as the rows `condition`."""
        mode = self._mode(image01)
        latent = scale_mode(self._vae, mode)
        return latent, {"condition": mode if self.condition == "raw" else latent}

    def model_rows(self, branch: Branch) -> dict[str, Tensor]:
        """The branch's rows; a missing `condition` becomes zeros."""
        rows = super().model_rows(branch)
        if "condition" not in rows:
            rows["condition"] = torch.zeros_like(branch.noisy)
        return rows
