"""What the trainings of both bundled priors share: a denoiser and its text encoder, one loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from training import loop


def velocity_loss(
    unet: Any,
    scheduler: Any,
    clean: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    timestep: Int[Tensor, "n"],
    text: Float[Tensor, "n tokens width"],
    *,
    condition: Float[Tensor, "n k h w"] | None = None,
    weight: Float[Tensor, "n 1 h w"] | float = 1.0,
) -> Float[Tensor, ""]:
    """Mean squared error of the velocity v = alpha e - sigma x that a U-Net predicts.

    Args:
        unet: Predicts v in the first c channels of its output.
        scheduler: diffusers' scheduler, which noises latents and knows their velocity.
        clean: Clean latents x.
        noise: Unit Gaussian noise e.
        timestep: One a latent.
        text: Hidden states of the texts.
        condition: Further channels of the U-Net's input.
        weight: Of each cell's squared error.
    """
    noisy = scheduler.add_noise(clean, noise, timestep)
    shown = noisy if condition is None else torch.cat([noisy, condition], dim=1)
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=clean.device.type == "cuda"):
        output = unet(shown, timestep, encoder_hidden_states=text).sample
    velocity = output[:, : clean.shape[1]].float()
    errors = (velocity - scheduler.get_velocity(clean, noise, timestep)).square()
    return (weight * errors).mean()


def train_denoiser(
    unet: nn.Module,
    text_encoder: nn.Module,
    loss_of: Callable[[int, torch.Generator], Float[Tensor, ""]],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    checkpoint: Path,
    label: str,
) -> loop.Course:
    """Train a U-Net and its text encoder together; both end as their moving averages.

    Args:
        unet: On its device.
        text_encoder: On its device.
        loss_of: Loss of a step, given its number and a generator of its own.
        steps: Number of steps, those of earlier runs counted.
        learning_rate: AdamW's, after warm-up; it falls by half a cosine.
        seed: Of the data and the noise.
        checkpoint: File from which an interrupted training goes on.
        label: For the progress bar.
    """
    unet.train()
    text_encoder.train()
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: loop.cosine(i, steps=steps))
    average = loop.Average(parameters)

    def step(index: int, generator: torch.Generator) -> Tensor:
        loss = loss_of(index, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.update(parameters, index)
        return loss

    state = {
        "unet": unet,
        "text": text_encoder,
        "optimizer": optimizer,
        "schedule": schedule,
        "average": average,
    }
    course = loop.run(
        step, state, steps=steps, seed=seed, checkpoint=checkpoint, every=100, label=label
    )
    average.copy_to(parameters)
    unet.eval().requires_grad_(False)
    text_encoder.eval().requires_grad_(False)
    return course
