"""Stable Diffusion with a ControlNet (Zhang et al. 2023) beside its U-Net.

The ControlNet sees what the U-Net sees and an image of the structure to keep; its outputs, times a
scale, are added to what the U-Net's levels hand on. It takes part in every estimate, also in those
of the empty text, as in diffusers' StableDiffusionControlNetPipeline without guess mode.

This module imports diffusers and transformers; `csd_nerf.priors.load` imports it late.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel
from jaxtyping import Float, Real
from torch import Tensor

from csd_nerf.core.rows import Rows
from csd_nerf.core.structure import CONTROL, pack_structure, unpack_structure
from csd_nerf.priors.base import Branch
from csd_nerf.priors.control_weights import Control
from csd_nerf.priors.pixels import pixels_of
from csd_nerf.priors.placement import Placement
from csd_nerf.priors.stable_diffusion import StableDiffusion

CANNY_THRESHOLDS = (100, 200)
"""Lower and upper threshold of Canny's edges on 8-bit RGB, the usual values: those of the
ControlNet authors' demo and of diffusers' documentation."""


class ControlledStableDiffusion(StableDiffusion):
    """A `Prior` made of the parts of a StableDiffusionPipeline and a ControlNet.

    It has one row more, `control`, at the resolution of cells: see `csd_nerf.core.structure`. With
    the control canny `encode_source` makes it; with depth the caller does, of what it renders.
    """

    control: Control
    """What the structure image shows."""
    control_scale: float
    """Factor of the ControlNet's outputs."""
    _control_net: ControlNetModel

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        control: Control,
        control_folder: Path,
        control_scale: float,
        name: str,
        vae_tiling: bool = False,
        **where: Any,
    ) -> ControlledStableDiffusion:
        """Load complete folders of both; see `csd_nerf.priors.load`."""
        prior = super().from_folder(folder, name=name, vae_tiling=vae_tiling, **where)
        assert isinstance(prior, ControlledStableDiffusion)
        # Its files are the plain ones, whatever the variant of the model's.
        place = replace(Placement(**where), variant=None)
        net = place.denoiser(ControlNetModel, control_folder)
        prior._control_net = net.eval().requires_grad_(False)
        prior.control, prior.control_scale = control, control_scale
        return prior

    @torch.no_grad()
    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """Encode to clean latents and, with the control canny, to edges as the rows `control`."""
        latent = self.encode(image01)
        if self.control != "canny":
            return latent, {}
        packed = pack_structure(canny_edges(image01), cell_size=self.cell_size)
        return latent, {CONTROL: packed}

    def model_rows(self, branch: Branch) -> dict[str, Tensor]:
        """The branch's rows.

        Raises:
            ValueError: If the branch has no structure image, or rows that the model doesn't take.
        """
        rows = dict(branch.rows)
        control = rows.pop(CONTROL, None)
        if control is None:
            raise ValueError(
                f"{self.name!r} needs the rows {CONTROL!r} with a ControlNet for {self.control}, "
                f"got {', '.join(branch.rows) or 'none'}; hand them in, or load it without."
            )
        return {**super().model_rows(replace(branch, rows=rows)), CONTROL: control}

    def beside(
        self,
        image: Float[Tensor, "b c h w"],
        step: Real[Tensor, "b"],
        text: Float[Tensor, "b tokens width"],
        rows: dict[str, Tensor],
    ) -> dict[str, Any]:
        """What the ControlNet adds to the U-Net's levels."""
        control01 = unpack_structure(rows[CONTROL].to(image), cell_size=self.cell_size)
        down, mid = self.call(
            self._control_net,
            image,
            step,
            encoder_hidden_states=text,
            controlnet_cond=control01.expand(-1, 3, -1, -1),
            conditioning_scale=self.control_scale,
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def canny_edges(image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 1 H W"]:
    """Canny's edges of images: 1 on an edge, 0 elsewhere."""
    edges = np.stack([cv2.Canny(pixels, *CANNY_THRESHOLDS) for pixels in pixels_of(image01)])
    return torch.from_numpy(edges).to(image01)[:, None] / 255
