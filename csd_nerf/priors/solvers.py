"""diffusers' solvers, set up for a prior's noise schedule and for noise estimates.

A solver's latent may have another scale than the prior's z_t = alpha_t x + sigma_t e: Euler's is
z_t / alpha_t = x + (sigma_t / alpha_t) e. The solver's `scale_model_input` converts it to z_t.
Noise estimates are the same in both scales.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler
from jaxtyping import Float, Real
from torch import Tensor

from csd_nerf.core.finite import require_finite
from csd_nerf.core.schedules import DiscreteSchedule, FlowSchedule, Schedule
from csd_nerf.priors.base import Prior

# The timestep spacings are those of Stable Diffusion's own configurations of these solvers.
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


@dataclass
class FlowEuler:
    """Euler's steps of a rectified flow, y' = y + (s' - s) v, as diffusers' solvers look.

    Its estimates are velocities, and its latent is y = n z; see `FlowSchedule`.
    """

    schedule: FlowSchedule
    levels: Float[Tensor, "levels"]
    """Falling levels s; the last is where sampling ends."""
    init_noise_sigma: float = 1.0

    @property
    def timesteps(self) -> Float[Tensor, "_"]:
        """Timesteps before each step."""
        return self.schedule.num_timesteps * self.levels[:-1]

    def scale_model_input(
        self, latent: Float[Tensor, "n c h w"], step: Real[Tensor, ""]
    ) -> Float[Tensor, "n c h w"]:
        """From y to z."""
        return latent / self.schedule.scale(step).to(latent)

    def add_noise(
        self,
        clean: Float[Tensor, "n c h w"],
        noise: Float[Tensor, "n c h w"],
        step: Real[Tensor, "1"],
    ) -> Float[Tensor, "n c h w"]:
        """The latent y = (1 - s) x + s e."""
        level = self.schedule.level(step).to(clean)
        return (1 - level) * clean + level * noise

    def step(
        self,
        velocity: Float[Tensor, "n c h w"],
        step: Real[Tensor, ""],
        latent: Float[Tensor, "n c h w"],
        *,
        generator: torch.Generator | None = None,
    ) -> SimpleNamespace:
        """The latent after a step, as `prev_sample`; nothing is drawn."""
        del generator
        number = int((self.timesteps - step).abs().argmin())
        change = self.levels[number + 1] - self.levels[number]
        return SimpleNamespace(prev_sample=latent + float(change) * velocity)


def make_solver(
    prior: Prior,
    solver: str,
    *,
    size: tuple[int, int],
    steps: int,
    strength: float = 1.0,
    level: float = 1.0,
) -> Any:
    """Build a solver of diffusers, or Euler's for a flow.

    Args:
        prior: The prior, which spaces the levels of a flow.
        solver: `ddim` or `euler-ancestral`. A flow has one solver, which draws nothing, whatever
            this says.
        size: Height and width in latent cells of what the model sees at once.
        steps: Number of steps of the whole schedule.
        strength: Share of the steps that the caller will take; it is only checked here.
        level: Share of the prior's timesteps, counted from the clean end, over which the steps are
            spaced.

    Raises:
        ValueError: If the solver is unknown, steps is not positive, strength is not in (0, 1],
            level is more than 1, or level leaves fewer timesteps than steps. Also if the
            schedule is of neither kind, or the prior of a flow can't space levels.
    """
    schedule = prior.schedule
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
    if isinstance(schedule, FlowSchedule):
        spaced = getattr(prior, "sampling_levels", None)
        if spaced is None:
            raise ValueError(
                "Sampling a flow needs a prior with sampling_levels and predict_velocity, got "
                f"{type(prior).__name__} without; edit with a method that optimises instead."
            )
        return FlowEuler(schedule, level * spaced(steps, size))
    scheduler = solver_over(schedule, *_SOLVERS[solver])
    # The solvers space their steps over this many timesteps; the noise table stays whole.
    scheduler.register_to_config(num_train_timesteps=used)
    scheduler.set_timesteps(steps)
    return scheduler


def solver_over(schedule: Schedule, solver_class: Any, options: dict[str, Any]) -> Any:
    """Build a diffusers scheduler for a prior's schedule, which takes noise estimates.

    Args:
        schedule: Schedule of the prior.
        solver_class: Class of the diffusers scheduler.
        options: Further arguments of the class.

    Raises:
        ValueError: If the schedule is not a `DiscreteSchedule`.
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
    keep: Callable[[int, Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Take all remaining steps of a solver; returns the latent after the last.

    Args:
        scheduler: From `make_solver`.
        latent: The latent to start from, in the solver's scale.
        estimate: Function of z_t and the timestep that estimates the noise, or a flow's velocity.
        done: Number of steps to skip, because they are done already.
        generator: Source of the solver's noise.
        after_step: Called after each step with the number of steps done and the latent.
        keep: Puts back what a step must not change; takes and returns the same as `after_step`
            takes.

    Raises:
        FloatingPointError: If the result isn't finite.
    """
    for number, step in enumerate(scheduler.timesteps[done:], done + 1):
        noise = estimate(scheduler.scale_model_input(latent, step), step)
        latent = scheduler.step(noise, step, latent, generator=generator).prev_sample
        if keep is not None:
            latent = keep(number, latent)
        if after_step is not None:
            after_step(number, latent)
    require_finite(latent, "Sampled latents")
    return latent


def standard_normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Unit Gaussian noise on the generator's device, or the CPU without one."""
    device = generator.device if generator is not None else "cpu"
    return torch.randn(shape, generator=generator, device=device)


def per_image(step: Real[Tensor, ""], n: int) -> Real[Tensor, "n"]:
    """Repeat a timestep for n images; converts it to an integer if it is a whole number."""
    whole = step.round()
    return (whole.long() if bool(whole == step) else step).expand(n)
