"""What the families around a diffusers U-Net share: how it is called and what it returns.

Symbols: z_t = alpha_t x + sigma_t e. A model predicts e itself, or v = alpha_t e - sigma_t x; then
e = alpha_t v + sigma_t z_t.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from jaxtyping import Float, Real
from torch import Tensor

from csd_nerf.core.schedules import DiscreteSchedule
from csd_nerf.priors.family import DiffusersPrior
from csd_nerf.priors.texts import TextEncoder

_PREDICTION_TYPES = ("epsilon", "v_prediction")


class UNetPrior(DiffusersPrior):
    """A prior whose model is a U-Net with discrete timesteps."""

    def __init__(
        self,
        name: str,
        unet: UNet2DConditionModel,
        texts: TextEncoder,
        schedule: DiscreteSchedule,
        prediction_type: str,
    ) -> None:
        """Take a U-Net that is on its device and in its precision already.

        Args:
            name: What the prior was loaded as.
            unet: The denoiser.
            texts: Its text encoder.
            schedule: Its training schedule.
            prediction_type: What it returns, `epsilon` or `v_prediction`.

        Raises:
            ValueError: If it returns something else, or isn't for square images of one size.
        """
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
        super().__init__(name, unet.device, schedule)
        self._unet = unet.eval().requires_grad_(False)
        self._texts = texts
        self._prediction_type = prediction_type

    def encode_text(
        self,
        prompts: Sequence[str],
        image01: Float[Tensor, "n 3 H W"] | None = None,  # noqa: ARG002
    ) -> dict[str, Float[Tensor, "r tokens width"]]:
        """Prompts to the text encoder's last hidden states, as `text`.

        A prompt that is too long is cut, with a warning that says what was lost.

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
        """The denoiser, to be compiled, laid out or measured; its weights stay as they are."""
        return self._unet

    def run(
        self, noisy: Float[Tensor, "b c h w"], timestep: Real[Tensor, "b"], rows: dict[str, Tensor]
    ) -> Float[Tensor, "b _ h w"]:
        """The U-Net's raw output as float32; rows but `text` are further channels of its input."""
        channels = [noisy, *(rows[name].to(noisy) for name in self.source_rows)]
        unet = self._unet
        shown = (torch.cat(channels, dim=1), rows["text"])
        image, text = (tensor.to(unet.device, unet.dtype) for tensor in shown)
        output = unet(
            image, timestep.to(unet.device), encoder_hidden_states=text, return_dict=False
        )
        return output[0].float()

    def noise_of(
        self,
        output: Float[Tensor, "b _ h w"],
        noisy: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, "b"],
    ) -> Float[Tensor, "b c h w"]:
        """The estimate of e; channels beyond the latent's, as a learned variance, are dropped."""
        output = output[:, : noisy.shape[1]]
        if self._prediction_type == "epsilon":
            return output
        timestep = timestep.to(output.device)
        alpha, sigma = self.schedule.alpha(timestep), self.schedule.sigma(timestep)
        return alpha.view(-1, 1, 1, 1) * output + sigma.view(-1, 1, 1, 1) * noisy


def halvings(unet: UNet2DConditionModel) -> int:
    """Latent edges must be multiples of this: every level but the last halves them."""
    return 2 ** (len(unet.config["down_block_types"]) - 1)


def load_part(model: Any, folder: Path, *, dtype: torch.dtype | None, variant: str | None) -> Any:
    """Load one of diffusers' models from its folder; its annotations hide the type, hence Any."""
    return model.from_pretrained(
        folder,
        variant=variant,
        torch_dtype=dtype,
        # Without accelerate diffusers would fall back to this by itself, with a warning.
        low_cpu_mem_usage=is_accelerate_available(),
    )


def load_schedule(folder: Path) -> tuple[DiscreteSchedule, str]:
    """The training schedule and the prediction type of a pipeline's folder.

    Whatever scheduler the folder names, its configuration holds the training schedule.
    """
    scheduler: Any = DDPMScheduler.from_pretrained(folder / "scheduler")
    return DiscreteSchedule(scheduler.alphas_cumprod), scheduler.config["prediction_type"]
