"""A CSD-Edit loop that is not optimised for speed, as the baseline of the profile.

It works as the authors' release is described: one particle after another, three guidance branches
for the target and three for the source in two calls of the U-Net, sliced attention, independent
noise, and a kernel from an array of all pairwise differences. So a particle costs six evaluations
per iteration, one of which (the source with the instruction) is not used. The update is that of the
editor: with the same random numbers both loops give the same edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import log

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.canvas import Canvas
from csd_nerf.core.randomness import Randomness
from csd_nerf.core.schedules import add_noise, loss_weight
from csd_nerf.core.settings import EditSettings
from csd_nerf.priors.base import Branch, Prior


@torch.no_grad()
def naive_edit(
    prior: Prior, canvas: Canvas, *, prompt: str, settings: EditSettings, randomness: Randomness
) -> int:
    """Optimise a canvas in place, as `csd_nerf.editor.edit` does with independent noise.

    Args:
        prior: The diffusion model.
        canvas: The canvas to edit.
        prompt: The instruction.
        settings: Number and size of the steps, guidance scales and timesteps; options of noise and
            mixing are ignored.
        randomness: Source of random numbers, drawn in the order of the editor.

    Returns:
        Number of model evaluations.
    """
    empty, asked = prior.encode_text([""]), prior.encode_text([prompt])
    low, high = prior.schedule.timestep_bounds(settings.t_range)
    evaluations = 0
    for iteration in range(settings.iterations):
        index = canvas.draw_batch(randomness)
        timestep = torch.tensor([canvas.draw_timestep(randomness, low, high)])
        noise = canvas.draw_noise(index, randomness, shared=False)
        particles = canvas.read(index)
        noisy, residuals = [], []
        for i in range(len(index)):
            shown = {name: rows[i : i + 1] for name, rows in particles.image_rows.items()}
            for clean in (particles.latent, particles.source):
                one = (clean[i : i + 1], noise[i : i + 1], timestep)
                noisy.append(add_noise(prior.schedule, *one))
            target, source = (
                prior.predict(
                    [
                        Branch(latent, empty),
                        Branch(latent, {**empty, **shown}),
                        Branch(latent, {**asked, **shown}),
                    ],
                    timestep,
                )
                for latent in noisy[-2:]
            )
            evaluations += 6
            residuals.append(_residual(target, source, settings))
        direction = naive_direction(
            torch.cat(noisy[::2]).flatten(1),
            torch.cat(residuals).flatten(1),
            repulsion=float(prior.schedule.sigma(timestep[0])),
        )
        rate = settings.learning_rate * settings.decay ** (iteration // settings.decay_every)
        step = rate * float(loss_weight(prior.schedule, timestep[0])) * direction
        canvas.descend(index, step.view_as(noise))
    return evaluations


def _residual(
    target: Float[Tensor, "3 n c h w"], source: Float[Tensor, "3 n c h w"], settings: EditSettings
) -> Float[Tensor, "n c h w"]:
    """The residual of CSD Eq. 9, from estimates in the order null, image, text."""
    w_s, w_y = settings.image_scale, settings.text_scale
    null, image, text = target
    guided = null + w_s * (image - null) + w_y * (text - image)
    return guided - (source[0] + w_s * (source[1] - source[0]))


def naive_direction(
    particles: Float[Tensor, "n d"], residuals: Float[Tensor, "n d"], *, repulsion: float
) -> Float[Tensor, "n d"]:
    """CSD Eq. 8 without w(t), in descent form, from an array of all n x n x d differences.

    The bandwidth is that of `csd_nerf.core.kernels.median_bandwidth` without its lower bounds, so
    most pairs of particles must differ.
    """
    n = len(particles)
    if n == 1:
        return residuals
    # difference[j, i] = z_j - z_i
    difference = particles[:, None] - particles[None]
    squared = difference.square().sum(2)
    pairs = squared[~torch.eye(n, dtype=torch.bool, device=squared.device)]
    bandwidth = pairs.quantile(0.5) / log(n + 1)
    kernel = torch.exp(-squared / bandwidth)[:, :, None]
    gradient = -2 / bandwidth * difference * kernel
    return (kernel * residuals[:, None] - repulsion * gradient).sum(0) / n


@contextmanager
def as_released(unet: UNet2DConditionModel, *, channels_last: bool) -> Iterator[None]:
    """A context with sliced attention, without compilation and channels-last layout.

    Args:
        unet: The U-Net.
        channels_last: Whether its weights are channels-last, and are to be so again afterwards.
    """
    if channels_last:
        lay_out(unet, torch.contiguous_format)
    try:
        with torch.compiler.set_stance("force_eager"), sliced_attention(unet):
            yield
    finally:
        if channels_last:
            lay_out(unet, torch.channels_last)


def lay_out(unet: torch.nn.Module, memory_format: torch.memory_format) -> None:
    """Change the memory format of the weights."""
    unet.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]


@contextmanager
def sliced_attention(unet: UNet2DConditionModel) -> Iterator[None]:
    """A context with diffusers' sliced attention, which computes half of the heads at a time."""
    processors = dict(unet.attn_processors)
    unet.set_attention_slice("auto")
    try:
        yield
    finally:
        unet.set_attn_processor(processors)
