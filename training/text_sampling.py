"""Ordinary text-to-image sampling on top of a prior: to see what it knows, and to check it.

The solver steps are diffusers' own; see `csd_nerf.priors.solvers`.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from jaxtyping import Float, Real
from torch import Tensor

from csd_nerf.core.residuals import text_guidance
from csd_nerf.core.schedules import Schedule
from csd_nerf.priors.base import Prior
from csd_nerf.priors.estimates import ModelInputs, Texts, weighted_sum
from csd_nerf.priors.solvers import per_image, solve, solver_over, standard_normal

_SOLVERS = ("ddpm", "ddim")


@torch.no_grad()
def sample_text(
    prior: Prior,
    prompts: str | Sequence[str],
    *,
    steps: int,
    negative_prompt: str = "",
    text_scale: float = 7.5,
    size: int | tuple[int, int] | None = None,
    solver: str = "ddpm",
    clip: bool | None = None,
    threshold: tuple[float, float] | None = None,
    noise: Float[Tensor, "n c h w"] | None = None,
    generator: torch.Generator | None = None,
    max_batch: int | None = None,
) -> Float[Tensor, "n 3 H W"]:
    """Make images from texts by classifier-free guidance, CSD Eq. 2 at every step.

    diffusers' pipelines give the same images from the same noise while text_scale > 1 (below that
    they drop guidance, which this function does not) and the model's variance is not learned.

    Args:
        prior: A text-to-image prior; the images come out on its device.
        prompts: A text an image, or one for all.
        steps: Length of the schedule.
        negative_prompt: Takes the place of the empty text.
        text_scale: w; how strongly the text is followed.
        size: Edge, or height and width, in pixels; None means the prior's `preferred_size`.
        solver: `ddpm` with fixed small variance, or `ddim` without added noise.
        clip: Whether estimates of the clean latent are clipped to [-1, 1]; None means where the
            prior diffuses pixels.
        threshold: Instead of clipping, dynamic thresholding: quantile and largest value.
            DeepFloyd IF's own configuration has (0.95, 1.5).
        noise: Unit Gaussian noise to start from, which tells number and size of the images; drawn
            from the generator if None.
        generator: Source of this and of the solver's noise; torch's global one if None.
        max_batch: Largest number of model evaluations a call; None means all at once.

    Raises:
        ValueError: If the solver is unknown, steps is not within the schedule, or size is not a
            multiple of the prior's `size_multiple`.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    pixels = prior.cell_size == 1
    scheduler = _make_solver(
        prior.schedule,
        solver,
        steps=steps,
        pixels=pixels,
        clip=pixels if clip is None else clip,
        threshold=threshold,
    )
    if noise is None:
        cells = _cells(prior, size)
        noise = standard_normal((len(texts), prior.latent_channels, *cells), generator)
    terms = text_guidance("target", "prompt", text_scale=text_scale)
    encoded = Texts([prior.encode_text(texts)], prior.encode_text([negative_prompt]))

    def estimate(noisy: Float[Tensor, "n c h w"], step: Real[Tensor, ""]) -> Tensor:
        timestep = per_image(step, len(noisy)).to(noisy.device)
        inputs = ModelInputs({"target": noisy}, {}, encoded, torch.ones(len(noisy), 1))
        return weighted_sum(prior, terms, inputs, timestep, max_batch=max_batch)[0]

    latent = noise.to(prior.device, torch.float32) * scheduler.init_noise_sigma
    return prior.decode(solve(scheduler, latent, estimate, done=0, generator=generator))


def _make_solver(
    schedule: Schedule,
    solver: str,
    *,
    steps: int,
    pixels: bool,
    clip: bool,
    threshold: tuple[float, float] | None = None,
) -> Any:
    """Build a solver of diffusers for making images from noise.

    Args:
        schedule: The prior's.
        solver: `ddpm`, with the smaller of its two fixed variances, or `ddim`.
        steps: Length of the schedule.
        pixels: Whether timesteps are spaced as DeepFloyd IF's, down to 0 and from there to the
            clean image, or as Stable Diffusion's, down to 1.
        clip: Whether estimates of the clean latent are clipped to [-1, 1].
        threshold: Instead of clipping, dynamic thresholding (Saharia et al. 2022, Section 2.3):
            the quantile of absolute values by which an estimate is scaled down to [-1, 1], and
            the largest value by which it may be.

    Raises:
        ValueError: If the solver is unknown, or steps is not within the schedule.
    """
    if solver not in _SOLVERS:
        raise ValueError(f"solver needs one of {', '.join(_SOLVERS)}, got {solver!r}.")
    if not 1 <= steps <= schedule.num_timesteps:
        raise ValueError(f"Sampling needs 1 to {schedule.num_timesteps} steps, got {steps}.")
    options: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 0 if pixels else 1}
    if threshold is None:
        options |= {"clip_sample": clip}
    else:
        names = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")
        options |= zip(names, (True, *threshold), strict=True)
    if solver == "ddpm":
        scheduler = solver_over(
            schedule, DDPMScheduler, {**options, "variance_type": "fixed_small"}
        )
    else:
        scheduler = solver_over(schedule, DDIMScheduler, {**options, "set_alpha_to_one": pixels})
    scheduler.set_timesteps(steps)
    return scheduler


def _cells(prior: Prior, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width in latent cells."""
    edges = prior.preferred_size if size is None else size
    height, width = (edges, edges) if isinstance(edges, int) else edges
    multiple = prior.size_multiple
    if min(height, width) < 1 or height % multiple or width % multiple:
        raise ValueError(
            f"size needs positive multiples of {multiple} for {prior.name!r}, "
            f"got {height} x {width}."
        )
    return height // prior.cell_size, width // prior.cell_size
