"""How the views of a round are edited: by CSD-Edit, or by the methods it is compared with.

Each function takes source and start images of one size. It returns the edited images and the
number of model evaluations that they took.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.residuals import edit_guidance
from csd_nerf.editor import edit_images
from csd_nerf.priors import Prior
from csd_nerf.scene.controls import EditRequest

Update = Literal["csd", "in2n", "ip2p"]

LEVELS = (0.02, 0.98)
"""Lowest and highest noise level that Instruct-NeRF2NeRF draws, as fractions of the schedule."""


def edit_by_csd(
    prior: Prior,
    source01: Float[Tensor, "n 3 h w"],
    start01: Float[Tensor, "n 3 h w"],
    *,
    request: EditRequest,
    generator: torch.Generator,
    progress: str | None,
) -> tuple[Float[Tensor, "n 3 h w"], int]:
    """CSD-Edit of all views together; see `csd_nerf.editor`."""
    result = edit_images(
        prior,
        source01,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        source_prompt=request.source_prompt,
        settings=request.settings,
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
    request: EditRequest,
    steps: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n 3 h w"], int]:
    """Sample each view for itself by DDIM, conditioned on its source.

    With starts this is Instruct-NeRF2NeRF's update (Haque et al. 2023): each render is noised at
    a level drawn from `LEVELS`, and denoised from there in `steps` steps. Without starts it is
    InstructPix2Pix from pure noise.

    Args:
        prior: The editing model.
        source01: The photographs.
        start01: Renders of the same views; None samples from pure noise.
        request: What is wanted; of its settings only `text_scale`, `image_scale` and `max_batch`
            are used.
        steps: Denoising steps a view.
        generator: On the CPU.

    Raises:
        FloatingPointError: If the result isn't finite.
        ValueError: If there are more steps than timesteps up to the highest level.
    """
    # Late: it imports diffusers.
    from csd_nerf.priors.sampling import sample_edit

    def sample(source01: Tensor, **start: Any) -> Float[Tensor, "m 3 h w"]:
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
            "Sampled images need to be finite, got inf or nan; let the prior work in float32."
        )
    settings = request.settings
    scales = {"image_scale": settings.image_scale, "text_scale": settings.text_scale}
    branches = len(edit_guidance("target", **scales).weights)
    return edited01.to(source01), branches * steps * len(source01)


def _draw_level(prior: Prior, steps: int, generator: torch.Generator) -> float:
    # Every step needs a timestep of its own.
    low, high = max(LEVELS[0], steps / prior.schedule.num_timesteps), LEVELS[1]
    return low + (high - low) * float(torch.rand((), generator=generator))
