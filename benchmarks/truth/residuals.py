"""Measures the residuals of csd and sds at the true edit, where they should be zero.

A distillation converges where the mean of its residual is zero. At the true edit, a mean other than
zero (bias) shows that the method converges elsewhere; the deviation shows how noisy its steps are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.residuals import EDIT_RESIDUALS, ResidualName
from csd_nerf.core.schedules import add_noise
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.priors.base import Prior
from csd_nerf.priors.estimates import ModelInputs, Texts, weighted_sum

RESIDUAL_NAMES: tuple[ResidualName, ...] = ("csd", "sds")
LEVELS = (0.1, 0.3, 0.5, 0.75)
"""Timesteps, as fractions of the prior's schedule."""
RESIDUAL_COLUMNS = tuple(
    Column(f"{kind}_{level}", f"{kind} at t = {level}", digits=3, better="lower")
    for level in LEVELS
    for kind in ("bias", "deviation")
)


@dataclass(frozen=True)
class Guidance:
    """Scales of the three-way guidance (CSD Eq. 3)."""

    image_scale: float
    """w_s: how closely the source is kept."""
    text_scale: float
    """w_y: how strongly the instruction is followed."""


@torch.no_grad()
def residuals_at_truth(
    prior: Prior,
    source01: Float[Tensor, "3 h w"],
    truth01: Float[Tensor, "3 h w"],
    prompt: str,
    scales: Mapping[ResidualName, Guidance],
    *,
    draws: int = 48,
    seed: int = 0,
    levels: Sequence[float] = LEVELS,
) -> dict[ResidualName, Row]:
    """Bias and deviation of CSD-Edit's and SDS's residuals at the true edit.

    Let r be the residual of CSD Eq. 9 ("csd"), or of SDS ("sds", which subtracts the drawn noise),
    at the latent of the true edit, with the guidance scales of each method. Then
    bias = rms of E[r] and deviation = rms of r - E[r], where E is the mean over draws of the noise,
    the same draws for both. Residuals are in units of the noise, whose rms is 1; lower is better.

    Args:
        prior: The diffusion model.
        source01: The source image, which is also the condition.
        truth01: The true edit.
        prompt: The instruction.
        scales: The residuals to measure, each with the guidance of the method that follows it.
        draws: Number of draws of the noise at each level.
        seed: Seed of the draws.
        levels: Timesteps, as fractions of the schedule.

    Returns:
        For each residual, the values of `bias_LEVEL` and `deviation_LEVEL`.
    """
    generator = torch.Generator().manual_seed(seed)
    source, image_rows = prior.encode_source(source01[None])
    truth = prior.encode(truth01[None])
    texts = Texts.encode(prior, [prompt])
    rows: dict[ResidualName, Row] = {name: {} for name in scales}
    for level in levels:
        step = min(round(level * prior.schedule.num_timesteps), prior.schedule.num_timesteps - 1)
        timestep = torch.full((draws,), step)
        noise = torch.randn(draws, *source.shape[1:], generator=generator).to(source)
        noisy = {
            "target": add_noise(prior.schedule, truth.expand_as(noise), noise, timestep),
            "source": add_noise(prior.schedule, source.expand_as(noise), noise, timestep),
        }
        inputs = ModelInputs(noisy, image_rows, texts, torch.ones(draws, 1))
        for name, row in rows.items():
            guidance = scales[name]
            terms = EDIT_RESIDUALS[name](
                image_scale=guidance.image_scale, text_scale=guidance.text_scale
            )
            values, _ = weighted_sum(prior, terms, inputs, timestep.to(prior.device), drawn=noise)
            mean = values.mean(dim=0)
            row[f"bias_{level}"] = float(mean.square().mean().sqrt())
            row[f"deviation_{level}"] = float((values - mean).square().mean().sqrt())
    return rows
