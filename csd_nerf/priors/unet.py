"""What an InstructPix2Pix's U-Net is shown of guidance branches, and what its output means.

Symbols: z_t = alpha_t x + sigma_t e.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.schedules import NoiseSchedule
from csd_nerf.priors.base import Branch

_PREDICTION_TYPES = ("epsilon", "v_prediction")


def shown_channels(branch: Branch) -> Float[Tensor, "n channels h w"]:
    """Put the condition beside the noisy latent; a dropped condition is zeros."""
    condition = branch.condition
    if condition is None:
        condition = torch.zeros_like(branch.noisy)
    return torch.cat([branch.noisy, condition.to(branch.noisy)], dim=1)


def branch_rows(branch: Branch, n: int) -> slice | Int[Tensor, "m"]:
    """What to take of a branch's particles; a slice copies nothing."""
    return slice(0, n) if branch.rows is None else branch.rows.to(branch.noisy.device)


def text_rows(text: Float[Tensor, "r tokens width"], n: int) -> Float[Tensor, "n tokens width"]:
    """A branch's text for each of n particles."""
    if len(text) not in (1, n):
        raise ValueError(f"A branch's text needs 1 row or one a particle ({n}), got {len(text)}.")
    return text.expand(n, -1, -1)


def noise_scales(
    schedule: NoiseSchedule, timestep: Real[Tensor, "n"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """alpha_t and sigma_t; between steps sigma_t / alpha_t is linear, as in diffusers' solvers."""
    if not timestep.is_floating_point():
        return schedule.alpha(timestep), schedule.sigma(timestep)
    below = timestep.long()
    above = timestep.ceil().long()
    ratio = torch.lerp(
        schedule.sigma(below) / schedule.alpha(below),
        schedule.sigma(above) / schedule.alpha(above),
        timestep.float() - below,
    )
    alpha = (1 + ratio.square()).rsqrt()
    return alpha, ratio * alpha


def check_parts(
    name: str, vae: AutoencoderKL, unet: UNet2DConditionModel, prediction_type: str
) -> None:
    """Raises ValueError if the parts are not those of an InstructPix2Pix model."""
    wanted, got = 2 * vae.config["latent_channels"], unet.config["in_channels"]
    if got != wanted:
        raise ValueError(
            f"An InstructPix2Pix U-Net takes {wanted} channels (latent and condition), "
            f"that of {name!r} takes {got}: name an editing model."
        )
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
