"""diffusers' solvers over a prior's noise schedule, stepping on noise estimates.

A solver may work in another scale than the prior's z_t = alpha_t x + sigma_t e, Euler's for one in
x + (sigma_t / alpha_t) e; its `scale_model_input` leads back to z_t. Noise estimates are the same
in both, whatever the model predicts.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler
from jaxtyping import Float, Real
from torch import Tensor

from csd_nerf.core.schedules import DiscreteSchedule, Schedule

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


def make_solver(
    schedule: Schedule,
    solver: str,
    *,
    steps: int,
    strength: float = 1.0,
    level: float = 1.0,
) -> Any:
    """Build a solver of diffusers.

    Args:
        schedule: The prior's.
        solver: `ddim` or `euler-ancestral`.
        steps: Length of the whole schedule.
        strength: Share of it that will be done.
        level: Share of the prior's timesteps over which the steps are spaced, from the clean end.

    Raises:
        ValueError: If the solver is unknown, steps is not positive, strength is not in (0, 1], or
            level leaves fewer timesteps than steps or more than there are.
    """
    if steps < 1 or not 0 < strength <= 1:
        raise ValueError(
            f"Sampling needs steps >= 1 and 0 < strength <= 1, got {steps} and {strength}."
        )
    used = round(level * schedule.num_timesteps)
    if not steps <= used <= schedule.num_timesteps:
        raise ValueError(
            f"A level needs room for {steps} of {schedule.num_timesteps} timesteps, so it has to "
            f"be from {steps / schedule.num_timesteps:g} to 1, got {level}."
        )
    if solver not in _SOLVERS:
        raise ValueError(f"solver needs one of {', '.join(_SOLVERS)}, got {solver!r}.")
    scheduler = solver_over(schedule, *_SOLVERS[solver])
    # The solvers space their steps over this many timesteps; the noise table stays whole.
    scheduler.register_to_config(num_train_timesteps=used)
    scheduler.set_timesteps(steps)
    return scheduler


def solver_over(schedule: Schedule, solver_class: Any, options: dict[str, Any]) -> Any:
    """A solver that steps on noise estimates over a prior's schedule.

    Raises:
        ValueError: If the schedule is no table of discrete timesteps.
    """
    if not isinstance(schedule, DiscreteSchedule):
        raise ValueError(
            "Sampling needs a prior with a table of discrete timesteps, got one with "
            f"{type(schedule).__name__}; edit with a method that optimises instead."
        )
    squares = schedule.alphas_cumprod
    previous = torch.cat([squares.new_ones(1), squares[:-1]])
    return solver_class(
        num_train_timesteps=schedule.num_timesteps,
        trained_betas=(1 - squares / previous).tolist(),
        prediction_type="epsilon",
        **options,
    )


def solve(
    scheduler: Any,
    latent: Float[Tensor, "n c h w"],
    estimate: Callable[[Float[Tensor, "n c h w"], Real[Tensor, ""]], Tensor],
    *,
    done: int,
    generator: torch.Generator | None,
    after_step: Callable[[int, Float[Tensor, "n c h w"]], None] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Take the solver's steps.

    Args:
        scheduler: What `make_solver` returns.
        latent: Where to start, in the solver's scale.
        estimate: The noise in z_t at a timestep.
        done: Steps that are done already.
        generator: Source of the solver's noise.
        after_step: Called with the steps done and the latents as they are.
    """
    for number, step in enumerate(scheduler.timesteps[done:], done + 1):
        noise = estimate(scheduler.scale_model_input(latent, step), step)
        latent = scheduler.step(noise, step, latent, generator=generator).prev_sample
        if after_step is not None:
            after_step(number, latent)
    return latent


def standard_normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Unit Gaussian noise on the generator's device, or the CPU without one."""
    device = generator.device if generator is not None else "cpu"
    return torch.randn(shape, generator=generator, device=device)


def per_image(step: Real[Tensor, ""], n: int) -> Real[Tensor, "n"]:
    """One timestep an image; as integers where the solver's float is a whole number."""
    whole = step.round()
    return (whole.long() if bool(whole == step) else step).expand(n)
