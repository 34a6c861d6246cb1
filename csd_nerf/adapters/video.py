"""Edit the frames of a video together.

Frames are read once, brought to the size at which the prior works and encoded; only latents are
kept, in the CPU's memory. The paper's method and the ones it is compared with differ in what
happens to these. At the end they are decoded and brought to the input's size frame by frame, so
that memory is bounded by the batch and by the latents, whatever the frames' size.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.adapters.costs import CountedPrior, Stopwatch, peak_memory
from csd_nerf.adapters.editing import cut_prompts, edit_settings
from csd_nerf.adapters.frame_latents import (
    PriorDecoder,
    decode_frames,
    encode_frames,
    preview_frames,
)
from csd_nerf.adapters.job import Job, SilentJob
from csd_nerf.adapters.options import VideoOptions
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.rows import Rows, take_rows
from csd_nerf.editor import edit
from csd_nerf.media.files import check_writable
from csd_nerf.media.frames import Frame, FrameSource, check_frames_output, frame_writer
from csd_nerf.priors import DTYPES
from csd_nerf.priors.base import Prior
from csd_nerf.priors.decoders import Decoder, check_latents, fetch_decoder, load_decoder

_SILENT = SilentJob()


def edit_video(
    prior: Prior, source: FrameSource, output: Path, options: VideoOptions, *, job: Job = _SILENT
) -> dict[str, Any]:
    """Edit a video or a folder of frames by the method that the options name.

    Args:
        prior: The diffusion model.
        source: The frames.
        output: A video file or a folder for pictures, as `frame_writer` takes it.
        options: How to edit; those about files and the prior are the caller's affair.
        job: What is told of progress, and keeps what an interrupted run needs to go on.

    Returns:
        What was done and what it cost, for a JSON file; sizes are widths and heights.

    Raises:
        ValueError: If there is no instruction, or the decoder doesn't fit the prior.
        OSError: If the output can't be written, or the decoder's weights can't be had.
        FloatingPointError: If a gradient isn't finite.
    """
    check_frames_output(output)
    check_writable(output)
    work = _plan(prior, source, options, job)
    latent, facts = _edited_latent(work)
    with frame_writer(
        output, size=source.size, fps=source.fps, sound_from=source.sound, note=work.note
    ) as write:
        _decode(work, latent, write)
    return _facts(work, facts)


def edit_frames(
    prior: Prior, frames: UInt8[Tensor, "n H W 3"], options: VideoOptions, *, job: Job = _SILENT
) -> tuple[UInt8[Tensor, "n H W 3"], dict[str, Any]]:
    """Edit frames in memory; as `edit_video` otherwise."""
    size = (frames.shape[1], frames.shape[2])
    source = FrameSource(size, len(frames), lambda: iter(frames))
    work = _plan(prior, source, options, job)
    latent, facts = _edited_latent(work)
    edited = torch.empty_like(frames)
    places = iter(edited)
    _decode(work, latent, lambda frame: next(places).copy_(frame))
    return edited, _facts(work, facts)


@dataclass(frozen=True)
class _Work:
    """What a run is made of, before there are latents."""

    counted: CountedPrior
    source: FrameSource
    options: VideoOptions
    job: Job
    size: tuple[int, int]
    """Height and width of the frames that the prior sees."""
    batch: int
    """Frames at a time."""
    watch: Stopwatch = field(default_factory=Stopwatch)
    notices: list[str] = field(default_factory=list)

    @property
    def prior(self) -> Prior:
        """The prior, counting."""
        return cast(Prior, self.counted)

    def note(self, text: str) -> None:
        """Tell the user and remember it."""
        self.notices.append(text)
        self.job.note(text)


def _plan(prior: Prior, source: FrameSource, options: VideoOptions, job: Job) -> _Work:
    """Check what can be checked before frames are read."""
    if not options.prompt.strip():
        raise ValueError(
            f'--prompt needs an instruction, got {options.prompt!r}; give --prompt "...".'
        )
    if options.decoder != "vae":
        check_latents(options.decoder, prior.latent_channels)
        fetch_decoder(options.decoder, options.decoder_weights)
    size = _work_size(prior, source.size, options)
    batch = min(options.values().batch, source.count)
    work = _Work(CountedPrior(prior), source, options, job, size, batch)
    for notice in [*source.notices, *cut_prompts(prior, [options.prompt, options.negative_prompt])]:
        work.note(notice)
    (height, width), (work_height, work_width) = source.size, size
    if work_height * work_width > height * width:
        work.note(
            f"frames of {width} x {height} pixels are enlarged to {work_width} x {work_height} "
            "for the edit"
        )
    return work


def _work_size(prior: Prior, size: tuple[int, int], options: VideoOptions) -> tuple[int, int]:
    """Height and width for the edit: the aspect of the frames, or a square.

    The area is that of the pictures which the prior was trained on, unless `--size` gives the
    longer edge.
    """
    shape = (1, 1) if options.square else size
    if options.size is not None:
        scale = options.size / max(shape)
    else:
        scale = prior.preferred_size / math.sqrt(shape[0] * shape[1])
    multiple = prior.size_multiple
    height, width = (max(1, round(scale * edge / multiple)) * multiple for edge in shape)
    return height, width


def _edited_latent(work: _Work) -> tuple[Float[Tensor, "n c h w"], dict[str, Any]]:
    with work.watch.stage("encode"):
        source, image_rows = encode_frames(
            work.prior, work.source, size=work.size, batch=work.batch, job=work.job
        )
    with work.watch.stage("edit"), warnings.catch_warnings():
        # Told already.
        warnings.filterwarnings("ignore", message="The prompt .* is cut off")
        if work.options.method == "ip2p":
            return _sample(work, source, image_rows)
        return _optimise(work, source, image_rows)


def _optimise(
    work: _Work, source: Float[Tensor, "n c h w"], image_rows: Rows
) -> tuple[Float[Tensor, "n c h w"], dict[str, Any]]:
    """CSD-Edit and its ablations on batches of frames."""
    options, values, job = work.options, work.options.values(), work.job
    stack = ImageStack(
        source.clone(),
        source,
        image_rows,
        work.batch,
        drawing=values.drawing,
        device=work.prior.device,
    )
    settings = edit_settings(options, stack)
    generator = torch.Generator().manual_seed(options.seed)
    done = 0
    if (saved := job.restored()) is not None:
        stack.restore(saved["stack"])
        done = _restore(work, saved, generator)

    def after_step(now: int, total: int) -> None:  # noqa: ARG001
        job.tick(
            now,
            state=lambda: {"stack": stack.state(), **_state(work, generator)},
            preview=lambda: preview_frames(work.prior, stack.latent),
        )

    job.begin("edit", settings.iterations, done=done)
    edit(
        work.prior,
        stack,
        prompts=[options.prompt],
        negative_prompt=options.negative_prompt,
        source_prompt=options.source_prompt,
        settings=settings,
        randomness=SeededRandomness(generator),
        start=done,
        after_step=after_step,
    )
    updates = stack.updates.double()
    spread = {"mean": updates.mean(), "min": updates.min(), "max": updates.max()}
    return stack.latent, {
        "batch": work.batch,
        "iterations": settings.iterations,
        "updates_per_frame": {name: float(number) for name, number in spread.items()},
    }


def _sample(
    work: _Work, source: Float[Tensor, "n c h w"], image_rows: Rows
) -> tuple[Float[Tensor, "n c h w"], dict[str, Any]]:
    """InstructPix2Pix on every frame, from noise of its own or one for all; a few at a time."""
    from csd_nerf.priors.sampling import sample_latents

    options, values, job = work.options, work.options.values(), work.job
    parts = torch.arange(work.source.count).split(work.batch)
    latent = torch.zeros_like(source)
    generator = torch.Generator().manual_seed(options.seed)
    shared = None
    if values.noise == "shared":
        shared = torch.randn(1, *latent.shape[1:], generator=generator)
    done = 0
    if (saved := job.restored()) is not None:
        latent.copy_(saved["latent"])
        done = _restore(work, saved, generator)

    job.begin("sample", len(parts) * values.steps, done=done)
    finished, steps = divmod(done, values.steps)
    for number, part in enumerate(parts[finished:], start=finished):

        def after_step(now: int, sampled: Tensor, number: int = number, part: Tensor = part):
            latent[part] = sampled.cpu()
            job.tick(
                number * values.steps + now,
                state=lambda: {"latent": latent, **_state(work, generator)},
            )

        noise = latent[part] if shared is None else shared.expand(len(part), -1, -1, -1)
        if shared is None and not steps:
            noise = torch.randn(noise.shape, generator=generator)
        sample_latents(
            work.prior,
            take_rows(image_rows, part),
            options.prompt,
            negative_prompt=options.negative_prompt,
            text_scale=values.text_scale,
            image_scale=values.image_scale,
            steps=values.steps,
            solver=values.solver,
            noise=noise,
            generator=generator,
            max_batch=values.max_batch,
            done=(steps, latent[part]) if steps else None,
            after_step=after_step,
        )
        steps = 0
    return latent, {"batch": work.batch, "steps": values.steps}


def _state(work: _Work, generator: torch.Generator) -> dict[str, Any]:
    return {"generator": generator.get_state(), "evaluations": work.counted.evaluations}


def _restore(work: _Work, saved: dict[str, Any], generator: torch.Generator) -> int:
    """Take up what `_state` returned; the units of work that are done."""
    generator.set_state(saved["generator"])
    work.counted.evaluations = saved["evaluations"]
    return saved["done"]


def _decode(work: _Work, latent: Float[Tensor, "n c h w"], write: Callable[[Frame], Any]) -> None:
    with work.watch.stage("decode"):
        decode_frames(_decoder(work), latent, write, size=work.source.size, job=work.job)


def _decoder(work: _Work) -> Decoder:
    options, prior = work.options, work.prior
    if options.decoder == "vae":
        return PriorDecoder(prior, work.batch)
    dtype = DTYPES[options.values().dtype]
    return load_decoder(
        options.decoder, weights=options.decoder_weights, device=prior.device, dtype=dtype
    )


def _facts(work: _Work, facts: dict[str, Any]) -> dict[str, Any]:
    source = work.source
    return {
        "method": work.options.method,
        "decoder": work.options.decoder,
        "input_size": [*reversed(source.size)],
        "work_size": [*reversed(work.size)],
        "frames": source.count,
        "fps": None if source.fps is None else round(float(source.fps), 3),
        **facts,
        "evaluations": work.counted.evaluations,
        "seconds": {name: round(seconds, 2) for name, seconds in work.watch.seconds.items()},
        "peak_memory_mib": peak_memory(work.prior.device),
        "notices": work.notices,
    }
