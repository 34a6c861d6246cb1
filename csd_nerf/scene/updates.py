"""The methods that edit the views of a round: CSD-Edit and its baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.residuals import edit_guidance
from csd_nerf.editor import edit_images
from csd_nerf.priors import Prior
from csd_nerf.scene.controls import EditRequest

Update = Literal["csd", "in2n", "ip2p"]
"""CSD-Edit, Instruct-NeRF2NeRF's update, or InstructPix2Pix on each view independently."""

IN2N_NOISE_RANGE = (0.02, 0.98)
"""Lowest and highest noise level that Instruct-NeRF2NeRF draws, as fractions of the schedule:
`lower_bound` and `upper_bound` of github.com/ayaanzhaque/instruct-nerf2nerf at 2c0d385."""


@dataclass(frozen=True)
class UpdatedViews:
    """Views of one size, edited."""

    edited01: Float[Tensor, "n 3 h w"]
    """The edited images, on the device of their sources."""
    evaluations: int
    """Number of model evaluations."""
    source_latent: Float[Tensor, "n c _ _"] | None
    """The encoded sources on the prior's device, if the method has kept them; else None."""


def edit_by(
    update: Update,
    prior: Prior,
    source01: Float[Tensor, "n 3 h w"],
    start01: Float[Tensor, "n 3 h w"],
    *,
    control01: Float[Tensor, "n 1 h w"] | None = None,
    reference01: Float[Tensor, "1 3 _ _"] | None = None,
    editable: Float[Tensor, "n _ _"] | None = None,
    request: EditRequest,
    denoising_steps: int,
    noise_range: tuple[float, float],
    generator: torch.Generator,
    tell: Callable[[str, int, int], None] | None = None,
    progress: str | None,
) -> UpdatedViews:
    """Edit views of one size.

    Args:
        update: The method. csd: CSD-Edit on all views jointly. in2n: Instruct-NeRF2NeRF's update
            (Haque et al. 2023), which adds noise to each start at a random level within
            `noise_range` and denoises it. ip2p: InstructPix2Pix from pure noise. in2n and ip2p
            sample each view independently by DDIM, conditioned on its source.
        prior: The editing model.
        source01: The photographs.
        start01: The images to start from; ip2p ignores them.
        control01: Structure images, for csd with a prior that follows them; see `edit_images`.
        reference01: A second image, for a prior that takes two; see `edit_images`.
        editable: Share of each latent cell that is edited; None means all of it. csd scales its
            steps by it; in2n and ip2p put the source back into the rest after every step.
        request: The user's request; in2n and ip2p use only `text_scale`, `image_scale` and
            `max_batch` of its settings.
        denoising_steps: Sampling steps per view, for in2n and ip2p.
        noise_range: Lowest and highest level for in2n, as fractions of the prior's schedule.
        generator: Source of randomness, on the CPU.
        tell: Called with what is counted (iteration; view for in2n; step for ip2p), how many are
            done, and their total; it must not wait for the device.
        progress: Label of a progress bar for csd; None means no bar.

    Raises:
        FloatingPointError: If the result isn't finite.
        ValueError: If there are more sampling steps than timesteps up to the highest level.
    """
    counted = tell or (lambda *_: None)
    if update == "csd":
        result = edit_images(
            prior,
            source01,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            source_prompt=request.source_prompt,
            settings=request.settings,
            start01=start01,
            control01=control01,
            reference01=reference01,
            editable=editable,
            generator=generator,
            progress=progress,
            callback=lambda done, total, _: counted("iteration", done, total),
            callback_every=1,
        )
        edited01 = result.image01.to(source01)
        return UpdatedViews(edited01, result.evaluations, result.source_latent)
    if update == "ip2p":
        edited01 = _sample(
            prior,
            source01,
            request,
            denoising_steps,
            generator,
            reference01=reference01,
            editable=editable,
            after_step=lambda done, _: counted("step", done, denoising_steps),
        )
    else:
        edited = []
        parts = [None] * len(source01) if editable is None else editable.split(1)
        each = zip(source01.split(1), start01.split(1), parts, strict=True)
        for done, (source, start, part) in enumerate(each, 1):
            level = _draw_level(prior, noise_range, denoising_steps, generator)
            noised = {"start01": start, "level": level, "reference01": reference01}
            noised["editable"] = part
            edited.append(_sample(prior, source, request, denoising_steps, generator, **noised))
            counted("view", done, len(source01))
        edited01 = torch.cat(edited)
    settings = request.settings
    scales = {"image_scale": settings.image_scale, "text_scale": settings.text_scale}
    branches = len(edit_guidance("target", **scales).weights)
    count = branches * denoising_steps * len(source01)
    return UpdatedViews(edited01.to(source01), count, None)


def _sample(
    prior: Prior,
    source01: Float[Tensor, "m 3 h w"],
    request: EditRequest,
    steps: int,
    generator: torch.Generator,
    **options: Any,
) -> Float[Tensor, "m 3 h w"]:
    # Late: it imports diffusers.
    from csd_nerf.priors.sampling import sample_edit

    return sample_edit(
        prior,
        source01,
        request.prompt,
        negative_prompt=request.negative_prompt,
        text_scale=request.settings.text_scale,
        image_scale=request.settings.image_scale,
        steps=steps,
        generator=generator,
        max_batch=request.settings.max_batch,
        **options,
    )


def _draw_level(
    prior: Prior, noise_range: tuple[float, float], steps: int, generator: torch.Generator
) -> float:
    low, high = noise_range
    # The level must leave at least one timestep per step.
    low = max(low, steps / prior.schedule.num_timesteps)
    return low + (high - low) * float(torch.rand((), generator=generator))
