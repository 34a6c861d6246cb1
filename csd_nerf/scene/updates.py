"""How the views of a round are edited: by CSD-Edit, or by the methods it is compared with.

Each takes sources and starts of one size and says how many model evaluations it needed.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.residuals import edit_guidance
from csd_nerf.core.settings import EditSettings
from csd_nerf.editor import edit_images
from csd_nerf.priors import Prior

Update = Literal["csd", "in2n", "ip2p"]

LEVELS = (0.02, 0.98)
"""Shares of the schedule between which Instruct-NeRF2NeRF draws the noise of a render."""


def edit_by_csd(
    prior: Prior,
    source01: Float[Tensor, "n 3 h w"],
    start01: Float[Tensor, "n 3 h w"],
    *,
    prompt: str,
    negative_prompt: str,
    settings: EditSettings,
    generator: torch.Generator,
    progress: str | None,
) -> tuple[Float[Tensor, "n 3 h w"], int]:
    """CSD-Edit of all views together; see `csd_nerf.editor`."""
    result = edit_images(
        prior,
        source01,
        prompt=prompt,
        negative_prompt=negative_prompt,
        settings=settings,
        start01=start01,
        generator=generator,
        progress=progress,
    )
    return result.image01.to(source01), result.evaluations


def edit_by_sampling(
    prior: Prior,
    source01: Float[Tensor, "n 3 h w"],
    start01: Float[Tensor, "n 3 h w"] | None,
    *,
    prompt: str,
    negative_prompt: str,
    settings: EditSettings,
    steps: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n 3 h w"], int]:
    """DDIM sampling with InstructPix2Pix, each view for itself, conditioned on its source.

    With starts it is Instruct-NeRF2NeRF's update (Haque et al. 2023): a render is noised at a
    level drawn from `LEVELS` and denoised from there in all of the steps. Without, it is
    InstructPix2Pix from pure noise.

    Args:
        prior: The editing model.
        source01: The photographs.
        start01: Renders of the same views; None samples from pure noise.
        prompt: The instruction.
        negative_prompt: Takes the place of the empty text.
        settings: Of these, the scales of guidance and `max_batch` count.
        steps: Denoising steps a view.
        generator: On the CPU.

    Raises:
        FloatingPointError: If the result isn't finite.
        ValueError: If the steps are more than the highest level has timesteps.
    """
    # Late: it imports diffusers.
    from csd_nerf.priors.sampling import sample_edit

    def sample(source01: Tensor, **start: Any) -> Float[Tensor, "m 3 h w"]:
        return sample_edit(
            prior,
            source01,
            prompt,
            negative_prompt=negative_prompt,
            text_scale=settings.text_scale,
            image_scale=settings.image_scale,
            steps=steps,
            generator=generator,
            max_batch=settings.max_batch,
            **start,
        )

    if start01 is None:
        edited01 = sample(source01)
    else:
        edited01 = torch.cat(
            [
                sample(source, start01=start, level=_draw_level(prior, steps, generator))
                for source, start in zip(source01.split(1), start01.split(1), strict=True)
            ]
        )
    if not bool(edited01.isfinite().all()):
        raise FloatingPointError(
            "Sampling gave values that aren't finite; try another --pipeline.prior-dtype."
        )
    terms = edit_guidance(
        "target", image_scale=settings.image_scale, text_scale=settings.text_scale
    )
    return edited01.to(source01), len(terms.weights) * steps * len(source01)


def _draw_level(prior: Prior, steps: int, generator: torch.Generator) -> float:
    # Lower levels than the steps have timesteps for would leave steps out.
    low, high = max(LEVELS[0], steps / prior.schedule.num_timesteps), LEVELS[1]
    return low + (high - low) * float(torch.rand((), generator=generator))
