"""Base class of priors made of a diffusers U-Net, and helpers to load their parts.

Symbols: z_t = alpha_t x + sigma_t e. A model predicts e itself, or v = alpha_t e - sigma_t x; then
e = alpha_t v + sigma_t z_t.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float, Real
from pydantic import BaseModel, Field
from torch import Tensor

from csd_nerf.core.rows import Rows
from csd_nerf.core.schedules import DiscreteSchedule
from csd_nerf.json_files import read_json
from csd_nerf.priors.families import SCHEDULER
from csd_nerf.priors.family import DiffusersPrior
from csd_nerf.priors.fitness import check_prediction_type
from csd_nerf.priors.parts import reading_part
from csd_nerf.priors.texts import TextEncoder


class UNetPrior(DiffusersPrior):
    """A prior whose model is a U-Net with discrete timesteps."""

    def __init__(
        self,
        name: str,
        unet: UNet2DConditionModel,
        texts: TextEncoder,
        schedule: DiscreteSchedule,
        prediction_type: str,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Take a U-Net that is loaded already.

        Args:
            name: The name or path under which the prior was loaded.
            unet: The denoiser.
            texts: Its text encoder.
            schedule: Its training schedule.
            prediction_type: What the U-Net returns, `epsilon` or `v_prediction`.
            device: Where it runs; None means where its weights are.
            dtype: Precision of its inputs; None means that of its weights.

        Raises:
            ValueError: If `prediction_type` is another.
        """
        check_prediction_type(prediction_type, name)
        super().__init__(name, device or unet.device, schedule, dtype or unet.dtype)
        self._unet = unet.eval().requires_grad_(False)
        self._texts = texts
        self._prediction_type = prediction_type

    def encode_text(
        self,
        prompts: Sequence[str],
        image_rows: Rows | None = None,  # noqa: ARG002
    ) -> dict[str, Float[Tensor, "r tokens width"]]:
        """Encode prompts to the text encoder's last hidden states, as the rows `text`.

        A prompt that is too long is truncated; a warning quotes the part cut off.

        Raises:
            ValueError: If there is no prompt, or prompts is one string.
            RuntimeError: After `free_text_encoder`.
        """
        return {"text": self._texts.encode(prompts)}

    def free_text_encoder(self) -> None:
        """Drop the text encoder from memory."""
        self._texts.free()

    @property
    def unet(self) -> UNet2DConditionModel:
        """The denoiser, for callers that compile or profile it; its weights are frozen."""
        return self._unet

    def run(
        self, noisy: Float[Tensor, "b c h w"], timestep: Real[Tensor, "b"], rows: dict[str, Tensor]
    ) -> Float[Tensor, "b _ h w"]:
        """Call the U-Net; the rows of `source_rows` are concatenated to its input as channels."""
        channels = [noisy, *(rows[name].to(noisy) for name in self.source_rows)]
        shown = (torch.cat(channels, dim=1), rows["text"])
        image, text = (tensor.to(self.device, self.dtype) for tensor in shown)
        step = timestep.to(self.device)
        output = self.call(
            self._unet,
            image,
            step,
            encoder_hidden_states=text,
            added_cond_kwargs=self.additions(noisy, rows),
            return_dict=False,
            **self.beside(image, step, text, rows),
        )
        return output[0].float()

    def additions(
        self,
        noisy: Float[Tensor, "b c h w"],  # noqa: ARG002
        rows: dict[str, Tensor],  # noqa: ARG002
    ) -> dict[str, Tensor] | None:
        """Further conditions of the U-Net, by diffusers' names; None if it takes none."""
        return None

    def beside(
        self,
        image: Float[Tensor, "b _ h w"],  # noqa: ARG002
        step: Real[Tensor, "b"],  # noqa: ARG002
        text: Float[Tensor, "b tokens width"],  # noqa: ARG002
        rows: dict[str, Tensor],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Further arguments of the U-Net that another network makes of the same input."""
        return {}

    def noise_of(
        self,
        output: Float[Tensor, "b _ h w"],
        noisy: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, "b"],
    ) -> Float[Tensor, "b c h w"]:
        """Convert to an estimate of e; channels of a learned variance are dropped."""
        output = output[:, : noisy.shape[1]]
        if self._prediction_type == "epsilon":
            return output
        timestep = timestep.to(output.device)
        alpha, sigma = self.schedule.alpha(timestep), self.schedule.sigma(timestep)
        return alpha.view(-1, 1, 1, 1) * output + sigma.view(-1, 1, 1, 1) * noisy


def downsampling_factor(unet: UNet2DConditionModel) -> int:
    """Factor between the first and the last level; latent edges must be multiples of it."""
    return 2 ** (len(unet.config["down_block_types"]) - 1)


class _SchedulerConfig(BaseModel):
    """What diffusers would take as it is."""

    prediction_type: str = "epsilon"
    num_train_timesteps: Annotated[int, Field(gt=0, le=1_000_000)] = 1000


def load_schedule(folder: Path) -> tuple[DiscreteSchedule, str]:
    """Read the training schedule and the prediction type from a pipeline's folder.

    The configuration of every diffusers scheduler holds the training schedule, so the class of the
    scheduler doesn't matter; `check_schedule` says what it needs.
    """
    folder = folder / "scheduler"
    remedy = "fetch it again, or name another model"
    config = read_json(
        folder / SCHEDULER.config, _SchedulerConfig, what="a scheduler's config", remedy=remedy
    )
    with reading_part(folder):
        scheduler: Any = DDPMScheduler.from_pretrained(folder)
        return DiscreteSchedule(scheduler.alphas_cumprod), config.prediction_type
