"""Edits the frames of a video jointly.

Frames are read once, resized to the prior's size, and encoded; only their latents are kept, in the
CPU's memory. The paper's method and its baselines differ only in how the latents are edited. At the
end, frames are decoded and resized to the input's size one by one. So the memory needed depends on
the batch and the latents, not on the size of the frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.adapters.costs import update_statistics
from csd_nerf.adapters.editing import EditSession
from csd_nerf.adapters.frame_latents import (
    PriorDecoder,
    decode_frames,
    encode_frames,
    preview_frames,
)
from csd_nerf.adapters.options import VideoOptions
from csd_nerf.adapters.reporter import SILENT, Reporter
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.rows import Rows, take_rows
from csd_nerf.media.files import check_writable
from csd_nerf.media.frames import Frame, FrameSource, check_frames_output, frame_writer
from csd_nerf.priors import precision
from csd_nerf.priors.base import Prior
from csd_nerf.priors.decoders import Decoder, check_latents, fetch_decoder, load_decoder


def edit_video(
    prior: Prior,
    source: FrameSource,
    output: Path,
    options: VideoOptions,
    *,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Edit a video or a folder of frames by the method that the options name.

    Args:
        prior: The diffusion model.
        source: The frames.
        output: A video file or a folder for pictures, as `frame_writer` takes it.
        options: The options; those about files and the prior's loading are ignored.
        reporter: Gets the progress and saves the state.

    Returns:
        Facts about the edit and its costs, for a JSON file; sizes are (width, height).

    Raises:
        ValueError: If there is no instruction, or the decoder doesn't fit the prior.
        OSError: If the output can't be written, or the decoder's weights can't be had.
        FloatingPointError: If a gradient isn't finite.
    """
    check_frames_output(output, size=source.size)
    check_writable(output)
    plan = _plan(prior, source, options, reporter)
    latent, facts = _edited_latent(plan)
    with frame_writer(
        output,
        size=source.size,
        fps=source.fps,
        times=source.times,
        pixel_aspect=source.pixel_aspect,
        sound_from=source.sound,
        note=plan.session.note,
    ) as write:
        _decode(plan, latent, write)
    return _facts(plan, facts)


def edit_frames(
    prior: Prior,
    frames: UInt8[Tensor, "n H W 3"],
    options: VideoOptions,
    *,
    reporter: Reporter = SILENT,
) -> tuple[UInt8[Tensor, "n H W 3"], dict[str, Any]]:
    """Edit frames in memory; returns the edited frames and the facts of `edit_video`."""
    size = (frames.shape[1], frames.shape[2])
    source = FrameSource(size, len(frames), lambda: iter(frames))
    plan = _plan(prior, source, options, reporter)
    latent, facts = _edited_latent(plan)
    edited = torch.empty_like(frames)
    places = iter(edited)
    _decode(plan, latent, lambda frame: next(places).copy_(frame))
    return edited, _facts(plan, facts)


@dataclass(frozen=True)
class _Plan:
    """Everything that is decided before frames are read."""

    session: EditSession
    options: VideoOptions
    source: FrameSource
    size: tuple[int, int]
    """Height and width in pixels at which frames are edited."""
    batch: int
    """Number of frames processed together."""

    @property
    def prior(self) -> Prior:
        return self.session.prior


def _plan(prior: Prior, source: FrameSource, options: VideoOptions, reporter: Reporter) -> _Plan:
    """Check all that can be checked before frames are read."""
    options.check_prompt()
    if options.decoder != "vae":
        check_latents(options.decoder, prior.latent_channels)
        fetch_decoder(options.decoder, options.decoder_weights)
    size = _work_size(prior, source.size, options)
    session = EditSession(prior, options, reporter)
    for notice in source.notices:
        session.note(notice)
    session.note_cut_prompts([options.prompt, options.negative_prompt])
    (height, width), (work_height, work_width) = source.size, size
    if work_height * work_width > height * width:
        session.note(
            f"frames of {width} x {height} pixels are enlarged to {work_width} x {work_height} "
            "for the edit"
        )
    batch = min(session.values.batch or source.count, source.count)
    return _Plan(session, options, source, size, batch)


def _work_size(prior: Prior, size: tuple[int, int], options: VideoOptions) -> tuple[int, int]:
    """Height and width at which to edit, with the aspect ratio of the frames or square.

    The area is that of the prior's training images, unless `options.size` gives the longer edge.
    """
    shape = (1, 1) if options.square else size
    if options.size is not None:
        scale = options.size / max(shape)
    else:
        scale = prior.preferred_size / math.sqrt(shape[0] * shape[1])
    multiple = prior.size_multiple
    height, width = (max(1, round(scale * edge / multiple)) * multiple for edge in shape)
    return height, width


def _edited_latent(plan: _Plan) -> tuple[Float[Tensor, "n c h w"], dict[str, Any]]:
    session = plan.session
    with session.stage("encode"):
        source, image_rows = encode_frames(
            plan.prior, plan.source, size=plan.size, batch=plan.batch, reporter=session.reporter
        )
    with session.stage("edit"):
        if plan.options.method == "ip2p":
            return _sample(plan, source, image_rows)
        return _optimise(plan, source, image_rows)


def _optimise(
    plan: _Plan, source: Float[Tensor, "n c h w"], image_rows: Rows
) -> tuple[Float[Tensor, "n c h w"], dict[str, Any]]:
    """CSD-Edit and its ablations on batches of frames."""
    stack = ImageStack(
        source.clone(),
        source,
        image_rows,
        plan.batch,
        drawing=plan.session.values.drawing,
        device=plan.prior.device,
    )
    iterations = plan.session.optimise(
        stack, [plan.options.prompt], preview=lambda: preview_frames(plan.prior, stack.latent)
    )
    return stack.latent, {
        "batch": plan.batch,
        "iterations": iterations,
        "updates_per_frame": update_statistics(stack.updates.double()),
    }


def _sample(
    plan: _Plan, source: Float[Tensor, "n c h w"], image_rows: Rows
) -> tuple[Float[Tensor, "n c h w"], dict[str, Any]]:
    """InstructPix2Pix on every frame, a batch at a time, from independent or shared noise."""
    from csd_nerf.priors.sampling import sample_latents

    session = plan.session
    parts = torch.arange(plan.source.count).split(plan.batch)
    latent = torch.zeros_like(source)
    shared = None
    if session.values.noise == "shared":
        shared = torch.randn(1, *latent.shape[1:], generator=session.generator)
    done = 0
    if (saved := session.restored()) is not None:
        latent.copy_(saved["latent"])
        done = saved["done"]

    total = session.values.steps
    session.reporter.begin("sample", len(parts) * total, done=done)
    finished, steps = divmod(done, total)
    for number, part in enumerate(parts[finished:], start=finished):

        def after_step(now: int, sampled: Tensor, number: int = number, part: Tensor = part):
            latent[part] = sampled.cpu()
            session.reporter.tick(number * total + now, state=lambda: session.state(latent=latent))

        noise = latent[part] if shared is None else shared.expand(len(part), -1, -1, -1)
        if shared is None and not steps:
            noise = torch.randn(noise.shape, generator=session.generator)
        sample_latents(
            plan.prior,
            take_rows(image_rows, part),
            plan.options.prompt,
            **session.sampling(),
            noise=noise,
            done=(steps, latent[part]) if steps else None,
            after_step=after_step,
        )
        steps = 0
    return latent, {"batch": plan.batch, "steps": total}


def _decode(plan: _Plan, latent: Float[Tensor, "n c h w"], write: Callable[[Frame], Any]) -> None:
    with plan.session.stage("decode"):
        decode_frames(
            _decoder(plan), latent, write, size=plan.source.size, reporter=plan.session.reporter
        )


def _decoder(plan: _Plan) -> Decoder:
    options, prior = plan.options, plan.prior
    if options.decoder == "vae":
        return PriorDecoder(prior, plan.batch)
    # These decoders are Stable Diffusion's.
    dtype = precision(plan.session.values.dtype, device=prior.device, half="float16")
    return load_decoder(
        options.decoder, weights=options.decoder_weights, device=prior.device, dtype=dtype
    )


def _facts(plan: _Plan, facts: dict[str, Any]) -> dict[str, Any]:
    source = plan.source
    return {
        "method": plan.options.method,
        "decoder": plan.options.decoder,
        "input_size": [*reversed(source.size)],
        "work_size": [*reversed(plan.size)],
        "frames": source.count,
        "fps": None if source.fps is None else round(float(source.fps), 3),
        **facts,
        **plan.session.facts(),
    }
