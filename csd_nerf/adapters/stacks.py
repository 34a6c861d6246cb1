"""Edits stacks of images jointly: the frames of a video, or pictures of one size.

A stack's latents and conditions are kept in the CPU's memory; a batch of images at a time is on the
prior's device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.adapters.costs import update_statistics
from csd_nerf.adapters.editing import EditSession
from csd_nerf.adapters.frame_latents import preview_frames
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.rows import Rows, take_rows
from csd_nerf.priors.base import Prior


@dataclass(frozen=True)
class Stack:
    """Images of one size that are edited together."""

    source: Float[Tensor, "n c h w"]
    """Their latents."""
    image_rows: Rows
    """Their conditions, one row an image."""
    batch: int
    """Number of images that are processed together."""
    editable: Float[Tensor, "n h w"] | None = None
    """Factor of each cell's step; None means 1 everywhere. An image whose factors are all 0 is left
    as it is."""

    @property
    def edited(self) -> Int[Tensor, "e"]:
        """Numbers of the images that are edited, ascending."""
        every = torch.arange(len(self.source))
        return every if self.editable is None else every[self.editable.flatten(1).any(1)]


def work_size(
    prior: Prior, size: tuple[int, int], *, longest: int | None, square: bool = False
) -> tuple[int, int]:
    """Height and width at which an image is edited.

    The area is that of the prior's training images, unless the longer edge is given.

    Args:
        prior: The diffusion model.
        size: Height and width of the image, whose aspect ratio is kept.
        longest: Longer edge in pixels of the result, before it is rounded to what the prior takes.
        square: Edit at a square size instead.
    """
    shape = (1, 1) if square else size
    if longest is not None:
        scale = longest / max(shape)
    else:
        scale = prior.preferred_size / math.sqrt(shape[0] * shape[1])
    multiple = prior.size_multiple
    height, width = (max(1, round(scale * edge / multiple)) * multiple for edge in shape)
    return height, width


def optimise_stacks(
    session: EditSession, stacks: Sequence[Stack], prompt: str
) -> tuple[list[Float[Tensor, "_ c _ _"]], list[dict[str, Any]]]:
    """CSD-Edit and its ablations, stack by stack.

    Returns:
        The edited latents and the facts of each stack.
    """
    canvases = [
        ImageStack(
            stack.source.clone(),
            stack.source,
            stack.image_rows,
            stack.batch,
            drawing=session.values.drawing,
            device=session.prior.device,
            editable=stack.editable,
        )
        for stack in stacks
    ]
    iterations = session.optimise_all(
        canvases,
        [prompt],
        preview=lambda number: preview_frames(session.prior, canvases[number].latent),
    )
    facts = [
        {
            "batch": stack.batch,
            "iterations": count,
            "updates_per_frame": update_statistics(canvas.updates[stack.edited].double()),
        }
        for stack, canvas, count in zip(stacks, canvases, iterations, strict=True)
    ]
    return [canvas.latent for canvas in canvases], facts


def sample_stacks(
    session: EditSession, stacks: Sequence[Stack], prompt: str
) -> tuple[list[Float[Tensor, "_ c _ _"]], list[dict[str, Any]]]:
    """InstructPix2Pix on every image, a batch at a time, from independent or shared noise.

    Noise is shared within a stack. Returns as `optimise_stacks` does.
    """
    from csd_nerf.priors.sampling import sample_latents

    latents = [torch.zeros_like(stack.source) for stack in stacks]
    shared: list[Tensor | None] = [None] * len(stacks)
    if session.values.noise == "shared":
        shared = [
            torch.randn(1, *latent.shape[1:], generator=session.generator) for latent in latents
        ]
    parts = [
        (number, part)
        for number, stack in enumerate(stacks)
        for part in stack.edited.split(stack.batch)
        if len(part)
    ]
    done = 0
    if (saved := session.restored()) is not None:
        for latent, kept in zip(latents, saved["latents"], strict=True):
            latent.copy_(kept)
        done = saved["done"]

    total = session.values.steps
    session.reporter.begin("sample", len(parts) * total, done=done)
    finished, steps = divmod(done, total)
    for place, (number, part) in enumerate(parts[finished:], start=finished):
        latent, common = latents[number], shared[number]

        def after_step(
            now: int, sampled: Tensor, place: int = place, number: int = number, part: Tensor = part
        ) -> None:
            latents[number][part] = sampled.cpu()
            session.reporter.tick(place * total + now, state=lambda: session.state(latents=latents))

        noise = latent[part] if common is None else common.expand(len(part), -1, -1, -1)
        if common is None and not steps:
            noise = torch.randn(noise.shape, generator=session.generator)
        sample_latents(
            session.prior,
            take_rows(stacks[number].image_rows, part),
            prompt,
            **session.sampling(),
            noise=noise,
            done=(steps, latent[part]) if steps else None,
            after_step=after_step,
        )
        steps = 0
    return latents, [{"batch": stack.batch, "steps": total} for stack in stacks]
