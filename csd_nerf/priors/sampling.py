"""Ordinary InstructPix2Pix sampling on top of a prior: the baseline that edits every image alone.

The solver steps are diffusers' own. A solver may work in another scale than the prior's
z_t = alpha_t x + sigma_t e, Euler's for one in x + (sigma_t / alpha_t) e; its `scale_model_input`
leads back to z_t. Noise estimates are the same in both, whatever the model predicts.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler
from jaxtyping import Float, Real
from torch import Tensor

from csd_nerf.core.guidance import guided_noise
from csd_nerf.core.schedules import NoiseSchedule
from csd_nerf.priors.base import Branch, Prior

# Timesteps are spaced as Stable Diffusion's own configurations of these solvers space them.
_SOLVERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (
        DDIMScheduler,
        {
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "set_alpha_to_one": False,
            # Latents are not bounded by one, as pixels are.
            "clip_sample": False,
        },
    ),
    "euler-ancestral": (EulerAncestralDiscreteScheduler, {"timestep_spacing": "linspace"}),
}


@torch.no_grad()
def sample_edit(
    prior: Prior,
    image01: Float[Tensor, "n 3 H W"],
    prompt: str | Sequence[str],
    *,
    negative_prompt: str = "",
    text_scale: float = 7.5,
    image_scale: float = 1.5,
    steps: int = 100,
    solver: str = "ddim",
    strength: float = 1.0,
    noise: Float[Tensor, "n c h w"] | None = None,
    generator: torch.Generator | None = None,
    max_batch: int | None = None,
) -> Float[Tensor, "n 3 H W"]:
    """Edit images by instruction, each for itself, as InstructPix2Pix does (Brooks et al. 2023).

    The estimate is CSD Eq. 3 at every step. diffusers' pipeline gives the same image from the
    same noise while text_scale > 1 and image_scale >= 1; below that it drops guidance, which this
    function does not.

    Args:
        prior: An editing prior.
        image01: Source images, with edges that are multiples of the prior's `size_multiple`.
        prompt: One instruction for all images, or one an image.
        negative_prompt: Takes the place of the empty text.
        text_scale: w_y; how strongly the instruction is followed.
        image_scale: w_s; how closely the source image is kept.
        steps: Length of the whole schedule; a strength below 1 does the last part of it.
        solver: `ddim` without added noise, or `euler-ancestral`, the published model's own.
            The latter visits fractional timesteps, so that the prior must take them.
        strength: Where to start: 1 from pure noise, lower from the noised source image, with
            this share of the steps left to do.
        noise: Unit Gaussian noise to start from; drawn from the generator if None.
        generator: Source of this and of the solver's noise; torch's global one if None.
        max_batch: Largest number of model evaluations a call; None means all at once.

    Raises:
        ValueError: If the solver is unknown, steps is not positive, or strength is not in (0, 1].
    """
    if steps < 1 or not 0 < strength <= 1:
        raise ValueError(
            f"Sampling needs steps >= 1 and 0 < strength <= 1, got {steps} and {strength}."
        )
    scheduler = _scheduler(prior.schedule, solver)
    scheduler.set_timesteps(steps)
    condition = prior.encode_condition(image01)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    texts = (prior.encode_text([negative_prompt]), prior.encode_text(prompts))

    start = steps - max(1, round(steps * strength))
    shape = (len(image01), prior.latent_channels, *condition.shape[-2:])
    latent = _standard_normal(shape, generator) if noise is None else noise
    latent = latent.to(image01)
    if strength == 1:
        latent = latent * scheduler.init_noise_sigma
    else:
        source = prior.encode(image01)
        latent = scheduler.add_noise(source, latent, scheduler.timesteps[start : start + 1])

    for step in scheduler.timesteps[start:]:
        noisy = scheduler.scale_model_input(latent, step)
        timestep = _per_image(step, len(image01)).to(image01.device)
        estimate = _guided(
            prior,
            noisy,
            condition,
            texts,
            timestep,
            text_scale=text_scale,
            image_scale=image_scale,
            max_batch=max_batch,
        )
        latent = scheduler.step(estimate, step, latent, generator=generator).prev_sample
    return prior.decode(latent)


def _guided(
    prior: Prior,
    noisy: Float[Tensor, "n c h w"],
    condition: Float[Tensor, "n k h w"],
    texts: tuple[Any, Any],
    timestep: Real[Tensor, "n"],
    *,
    text_scale: float,
    image_scale: float,
    max_batch: int | None,
) -> Float[Tensor, "n c h w"]:
    """CSD Eq. 3 by three evaluations a particle, in one batch."""
    empty, instruction = texts
    branches = (
        Branch(noisy, empty),
        Branch(noisy, empty, condition),
        Branch(noisy, instruction, condition),
    )
    null, image, text = prior.predict(branches, timestep, max_batch=max_batch)
    return guided_noise(null, image, text, image_scale=image_scale, text_scale=text_scale)


def _scheduler(schedule: NoiseSchedule, solver: str) -> Any:
    """Build diffusers' solver over the prior's schedule, stepping on noise estimates."""
    if solver not in _SOLVERS:
        raise ValueError(f"solver needs one of {', '.join(_SOLVERS)}, got {solver!r}.")
    solver_class, options = _SOLVERS[solver]
    squares = schedule.alphas_cumprod
    previous = torch.cat([squares.new_ones(1), squares[:-1]])
    return solver_class(
        num_train_timesteps=schedule.num_timesteps,
        trained_betas=(1 - squares / previous).tolist(),
        prediction_type="epsilon",
        **options,
    )


def _standard_normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    return torch.randn(shape, generator=generator, device=device)


def _per_image(step: Real[Tensor, ""], n: int) -> Real[Tensor, "n"]:
    """One timestep an image; as integers where the solver's float is a whole number."""
    whole = step.round()
    return (whole.long() if bool(whole == step) else step).expand(n)
