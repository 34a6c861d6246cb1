"""Edits the frames of a video jointly.

Frames are read once, resized to the prior's size, and encoded; only their latents are kept, in the
CPU's memory. The paper's method and its baselines differ only in how the latents are edited. At the
end, frames are decoded and resized to the input's size one by one. So the memory needed depends on
the batch and the latents, not on the size of the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from csd_nerf.adapters.editing import EditSession
from csd_nerf.adapters.frame_latents import (
    PriorDecoder,
    decoded_frames,
    encode_frames,
)
from csd_nerf.adapters.frame_masks import FrameMasks, make_frame_masks
from csd_nerf.adapters.options import VideoOptions
from csd_nerf.adapters.reporter import SILENT, Reporter
from csd_nerf.adapters.stacks import (
    Stack,
    optimise_stacks,
    sample_stacks,
    work_size,
)
from csd_nerf.media.files import check_writable
from csd_nerf.media.frames import Frame, FrameSource, check_frames_output, frame_writer
from csd_nerf.media.pixels import add_change, resize
from csd_nerf.media.regions import Segmenter, parse_region
from csd_nerf.priors import precision
from csd_nerf.priors.base import Prior, ranks_of
from csd_nerf.priors.decoders import Decoder, check_latents, fetch_decoder, load_decoder


def edit_video(
    prior: Prior,
    source: FrameSource,
    output: Path,
    options: VideoOptions,
    *,
    segmenter: Segmenter | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Edit a video or a folder of frames by the method that the options name.

    Args:
        prior: The diffusion model.
        source: The frames.
        output: A video file or a folder for pictures, as `frame_writer` takes it.
        options: The options; those about files and the prior's loading are ignored.
        segmenter: Finds what a region's word names.
        reporter: Gets the progress and saves the state.

    Returns:
        Facts about the edit and its costs, for a JSON file; sizes are (width, height).

    Raises:
        ValueError: If there is no instruction, the region doesn't fit the frames, or the decoder
            doesn't fit the prior.
        OSError: If the output can't be written, or the decoder's weights can't be had.
        FloatingPointError: If a gradient isn't finite.
    """
    ranks = ranks_of(prior)
    check_frames_output(output, size=source.size)
    ranks.first_does(lambda: check_writable(output))
    plan = _plan(prior, source, options, segmenter, reporter)
    latents, facts = _edited_latents(plan)
    writer = frame_writer(
        output,
        size=source.size,
        fps=source.fps,
        times=source.times,
        pixel_aspect=source.pixel_aspect,
        sound_from=source.sound,
        note=plan.session.note,
    )
    with ExitStack() as opened:
        write = ranks.first_does(lambda: opened.enter_context(writer))

        def write_once(frame: Frame) -> None:
            ranks.first_does(lambda: None if write is None else write(frame))

        _decode(plan, latents, write_once)
        ranks.first_does(opened.close)
    return _facts(plan, facts)


def edit_frames(
    prior: Prior,
    frames: UInt8[Tensor, "n H W 3"],
    options: VideoOptions,
    *,
    segmenter: Segmenter | None = None,
    reporter: Reporter = SILENT,
) -> tuple[UInt8[Tensor, "n H W 3"], dict[str, Any]]:
    """Edit frames in memory; returns the edited frames and the facts of `edit_video`."""
    size = (frames.shape[1], frames.shape[2])
    source = FrameSource(size, len(frames), lambda: iter(frames))
    plan = _plan(prior, source, options, segmenter, reporter)
    latents, facts = _edited_latents(plan)
    edited = torch.empty_like(frames)
    places = iter(edited)
    _decode(plan, latents, lambda frame: next(places).copy_(frame))
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
    masks: FrameMasks | None
    """Where frames may change; None means everywhere."""

    @property
    def edited(self) -> Int[Tensor, "k"]:
        """Numbers of the frames that are edited."""
        return torch.arange(self.source.count) if self.masks is None else self.masks.edited

    @property
    def keeps_detail(self) -> bool:
        """Whether the change alone is added to the frames."""
        return self.session.keeps_detail([self.options.prompt])

    @property
    def prior(self) -> Prior:
        return self.session.prior


def _plan(
    prior: Prior,
    source: FrameSource,
    options: VideoOptions,
    segmenter: Segmenter | None,
    reporter: Reporter,
) -> _Plan:
    """Check all that can be checked before frames are encoded."""
    options.check_prompt()
    if options.decoder != "vae":
        check_latents(options.decoder, prior.latent_channels)
        fetch_decoder(options.decoder, options.decoder_weights)
    size = work_size(prior, source.size, longest=options.size, square=options.square)
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
    masks = None
    if options.region is not None:
        grid = (size[0] // prior.cell_size, size[1] // prior.cell_size)
        region = parse_region(options.region)
        with session.stage("masks"):
            masks = make_frame_masks(
                region, source, grid=grid, segmenter=segmenter, reporter=reporter
            )
    return _Plan(session, options, source, size, batch, masks)


@dataclass(frozen=True)
class _Latents:
    """The latents of all frames."""

    edited: Float[Tensor, "n c h w"]
    source: Float[Tensor, "n c h w"]


def _edited_latents(plan: _Plan) -> tuple[_Latents, dict[str, Any]]:
    session = plan.session
    with session.stage("encode"):
        source, image_rows = encode_frames(
            plan.prior, plan.source, size=plan.size, batch=plan.batch, reporter=session.reporter
        )
    editable = None if plan.masks is None else plan.masks.editable
    stack = Stack(source, image_rows, plan.batch, editable)
    with session.stage("edit"):
        edit = sample_stacks if plan.options.method == "ip2p" else optimise_stacks
        (latent,), (facts,) = edit(session, [stack], plan.options.prompt)
    return _Latents(latent, source), facts


def _decode(plan: _Plan, latents: _Latents, write: Callable[[Frame], Any]) -> None:
    with plan.session.stage("decode"):
        decoder, edited = _decoder(plan), plan.edited
        source = latents.source[edited] if plan.keeps_detail else None
        frames = decoded_frames(decoder, latents.edited[edited], source)
        plan.session.reporter.begin("decode", plan.source.count)
        for done, frame in enumerate(_finished(plan, frames), start=1):
            write(frame)
            plan.session.reporter.tick(done)


def _finished(
    plan: _Plan, decoded: Iterator[tuple[Frame, Float[Tensor, "3 h w"] | None]]
) -> Iterator[Frame]:
    """All frames in order, at their own size; those that aren't edited are the original's."""
    size, masks = plan.source.size, plan.masks
    if masks is None and not plan.keeps_detail:
        yield from (resize(frame, size) for frame, _ in decoded)
        return
    edited = {*plan.edited.tolist()}
    for number, original in enumerate(plan.source):
        if number not in edited:
            yield original
            continue
        frame, pair = next(decoded)
        result = resize(frame, size) if pair is None else add_change(original, *pair)
        if masks is not None:
            result = masks.keep_outside(number, original, result)
        yield result


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
        "keep_detail": plan.keeps_detail,
        "edited_frames": len(plan.edited),
        "decoder": plan.options.decoder,
        "input_size": [*reversed(source.size)],
        "work_size": [*reversed(plan.size)],
        "frames": source.count,
        "fps": None if source.fps is None else round(float(source.fps), 3),
        **facts,
        **plan.session.facts(),
    }
