"""What a prior's U-Net is shown of guidance branches, and what its output means.

Symbols: z_t = alpha_t x + sigma_t e. A model predicts e itself, or v = alpha_t e - sigma_t x; then
e = alpha_t v + sigma_t z_t.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.schedules import NoiseSchedule
from csd_nerf.priors.base import Branch

_PREDICTION_TYPES = ("epsilon", "v_prediction")


def predict_noise(
    evaluate: Callable[[Tensor, Tensor, Tensor], Tensor],
    branches: Sequence[Branch],
    timestep: Real[Tensor, "n"],
    *,
    show: Callable[[Branch], Tensor],
    schedule: NoiseSchedule,
    prediction_type: str,
    max_batch: int | None = None,
) -> Float[Tensor, "k n c h w"]:
    """What `Prior.predict` does, for any model that is a U-Net.

    Args:
        evaluate: Runs the model on what it is shown, timesteps and texts, a row each. Channels of
            its output beyond those of the noisy latent, as a learned variance, are dropped.
        branches: What to evaluate; all hold n particles.
        timestep: One timestep a particle; fractions, which some samplers visit, lie between
            the schedule's steps with sigma_t / alpha_t interpolated linearly.
        show: A branch's input channels for all of its n particles.
        schedule: The model's.
        prediction_type: What the model returns, `epsilon` or `v_prediction`.
        max_batch: Largest number of rows a call; None means all at once.

    Raises:
        ValueError: If there is no branch, a branch's text has neither one row nor n, or
            max_batch is not positive.
    """
    n = len(timestep)
    if not branches or (max_batch is not None and max_batch < 1):
        raise ValueError(
            "predict needs a branch or more and a positive max_batch (or None), got "
            f"{len(branches)} branches and max_batch {max_batch}."
        )
    rows = [branch_rows(branch, n) for branch in branches]
    noisy = torch.cat([b.noisy[r] for b, r in zip(branches, rows, strict=True)])
    shown = torch.cat([show(b)[r] for b, r in zip(branches, rows, strict=True)])
    text = torch.cat([text_rows(b.text, n)[r] for b, r in zip(branches, rows, strict=True)])
    steps = torch.cat([timestep[r] for r in rows])
    # One evaluation a row; the U-Net takes a row's timestep, so that rows may be split freely.
    chunks = zip(
        *(part.split(max_batch or len(part)) for part in (shown, steps, text)), strict=True
    )
    channels = noisy.shape[1]
    output = torch.cat([evaluate(*chunk)[:, :channels] for chunk in chunks]).to(noisy.device)
    if prediction_type == "v_prediction":
        output = _noise_of_velocity(output, noisy, steps, schedule)
    return _by_branch(output, branches, rows, n)


def run_unet(
    unet: UNet2DConditionModel,
    shown: Float[Tensor, "rows channels h w"],
    timestep: Real[Tensor, "rows"],
    text: Float[Tensor, "rows tokens width"],
) -> Float[Tensor, "rows c h w"]:
    """Run the U-Net once, on its device and in its precision; its raw output as float32."""
    shown, text = (rows.to(unet.device, unet.dtype) for rows in (shown, text))
    output = unet(shown, timestep.to(unet.device), encoder_hidden_states=text, return_dict=False)
    return output[0].float()


def shown_channels(branch: Branch) -> Float[Tensor, "n channels h w"]:
    """Put the condition beside the noisy latent; a dropped condition is zeros."""
    condition = branch.condition
    if condition is None:
        condition = torch.zeros_like(branch.noisy)
    return torch.cat([branch.noisy, condition.to(branch.noisy)], dim=1)


def shown_alone(branch: Branch) -> Float[Tensor, "n c h w"]:
    """The noisy latent, for models that take no condition.

    Raises:
        ValueError: If the branch has one.
    """
    if branch.condition is not None:
        raise ValueError(
            "A text-to-image prior needs branches whose condition is None, got one of shape "
            f"{tuple(branch.condition.shape)}: leave it out, or load an editing prior."
        )
    return branch.noisy


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


def halvings(unet: UNet2DConditionModel) -> int:
    """Latent edges must be multiples of this: every level but the last halves them."""
    return 2 ** (len(unet.config["down_block_types"]) - 1)


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
    check_unet(name, unet, prediction_type)


def check_unet(name: str, unet: UNet2DConditionModel, prediction_type: str) -> None:
    """Raises ValueError if a U-Net is not of a kind that `predict_noise` can use."""
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


def _noise_of_velocity(
    velocity: Float[Tensor, "rows c h w"],
    noisy: Float[Tensor, "rows c h w"],
    timestep: Real[Tensor, "rows"],
    schedule: NoiseSchedule,
) -> Float[Tensor, "rows c h w"]:
    alpha, sigma = noise_scales(schedule, timestep.to(velocity.device))
    return alpha.view(-1, 1, 1, 1) * velocity + sigma.view(-1, 1, 1, 1) * noisy


def _by_branch(
    estimate: Float[Tensor, "rows c h w"],
    branches: Sequence[Branch],
    rows: list[slice | Int[Tensor, "_"]],
    n: int,
) -> Float[Tensor, "k n c h w"]:
    """Sort rows back to branches; particles that a branch leaves out are zero."""
    if all(branch.rows is None for branch in branches):
        return estimate.unflatten(0, (len(branches), n))
    whole = estimate.new_zeros(len(branches), n, *estimate.shape[1:])
    sizes = [len(branch.noisy[r]) for branch, r in zip(branches, rows, strict=True)]
    for k, part in enumerate(estimate.split(sizes)):
        whole[k, rows[k]] = part
    return whole
