"""Measures the residuals of csd and sds at the true edit, where they should be zero.

A distillation converges where the mean of its residual is zero. At the true edit, a mean other than
zero (bias) shows that the method converges elsewhere; the deviation shows how noisy its steps are.
For csd there is also the share of the source's estimate that makes its steps least noisy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.residuals import DRAWN_NOISE, EDIT_RESIDUALS, ResidualName, Terms
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
) + tuple(Column(f"share_{level}", f"best share at t = {level}", digits=2) for level in LEVELS)


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
        For each residual, the values of `bias_LEVEL` and `deviation_LEVEL`, and for csd those of
        `share_LEVEL`; see `best_share`.
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
            if terms.needs_source_latent:
                error, _ = weighted_sum(
                    prior, _source_error(terms), inputs, timestep.to(prior.device), drawn=noise
                )
                row[f"share_{level}"] = best_share(values + error, error)
    return rows


def best_share(
    target_errors: Float[Tensor, "draws c h w"], source_errors: Float[Tensor, "draws c h w"]
) -> float:
    """The share of the source's estimate that leaves the residual the least variance.

    It is s* = Cov(u, v) / Var(v), summed over the coordinates, from draws of the noise at one
    timestep; see `csd_nerf.core.residuals.baseline`. It is nan if v is the same in all draws.

    Args:
        target_errors: u, the target's guided estimate minus the drawn noise.
        source_errors: v, the source's guided estimate minus the drawn noise.
    """
    u, v = (errors - errors.mean(dim=0) for errors in (target_errors, source_errors))
    return float((u * v).sum() / v.square().sum())


def _source_error(terms: Terms) -> Terms:
    """v: the source's estimate, as a residual with the share 1 subtracts it, minus the noise."""
    weights = {name: -w for name, w in terms.weights.items() if name.latent == "source"}
    return Terms(weights) - DRAWN_NOISE
