"""What is left of the residual where it should vanish: at the true edit.

A distillation stops where its mean residual is zero. Measured at the truth, the mean says how far
from it a method comes to rest, the deviation how noisy its steps are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.guidance import Baseline, edit_residual, guided_noise
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.priors.base import Branch, Prior

LEVELS = (0.1, 0.3, 0.5, 0.75)
"""Timesteps, as fractions of the prior's schedule."""
RESIDUAL_COLUMNS = tuple(
    Column(f"{kind}_{level}", f"{kind} at t = {level}", digits=3, better="lower")
    for level in LEVELS
    for kind in ("bias", "deviation")
)


@torch.no_grad()
def residuals_at_truth(
    prior: Prior,
    source01: Float[Tensor, "3 h w"],
    truth01: Float[Tensor, "3 h w"],
    prompt: str,
    *,
    image_scale: float,
    text_scale: float,
    draws: int = 48,
    seed: int = 0,
    levels: Sequence[float] = LEVELS,
) -> dict[Baseline, Row]:
    """Bias and deviation of both baselines' residuals at the true edit.

    With r the residual of CSD Eq. 9 ("source") or of SDS ("noise", the drawn noise subtracted) at
    the truth's latent: bias = rms of E[r], deviation = rms of r - E[r], over draws of the noise,
    the same draws for both. Residuals are in units of the noise, whose own rms is 1; lower is
    better.

    Args:
        prior: The diffusion model.
        source01: The source, also the condition.
        truth01: The true edit.
        prompt: The instruction.
        image_scale: w_s of Eq. 3.
        text_scale: w_y of Eq. 3.
        draws: Draws of the noise at each level.
        seed: Of the draws.
        levels: Timesteps, as fractions of the schedule.

    Returns:
        For each baseline `bias_LEVEL` and `deviation_LEVEL`.
    """
    generator = torch.Generator().manual_seed(seed)
    source, condition = prior.encode_source(source01[None])
    truth = prior.encode(truth01[None])
    condition = condition.expand(draws, -1, -1, -1)
    empty, text = prior.encode_text([""]), prior.encode_text([prompt])
    rows: dict[Baseline, Row] = {"source": {}, "noise": {}}
    for level in levels:
        step = min(round(level * prior.schedule.num_timesteps), prior.schedule.num_timesteps - 1)
        timestep = torch.full((draws,), step)
        noise = torch.randn(draws, *source.shape[1:], generator=generator).to(source)
        at_truth = prior.schedule.add_noise(truth.expand_as(noise), noise, timestep)
        at_source = prior.schedule.add_noise(source.expand_as(noise), noise, timestep)
        branches = [
            Branch(at_truth, empty),
            Branch(at_truth, empty, condition),
            Branch(at_truth, text, condition),
            Branch(at_source, empty),
            Branch(at_source, empty, condition),
        ]
        scales = {"image_scale": image_scale, "text_scale": text_scale}
        estimates = prior.predict(branches, timestep.to(prior.device))
        residual: dict[Baseline, Tensor] = {
            "source": edit_residual(*estimates, **scales),
            "noise": guided_noise(*estimates[:3], **scales) - noise,
        }
        for baseline, values in residual.items():
            mean = values.mean(dim=0)
            rows[baseline][f"bias_{level}"] = float(mean.square().mean().sqrt())
            rows[baseline][f"deviation_{level}"] = float((values - mean).square().mean().sqrt())
    return rows
