"""Edit a picture of any size through the windows of a prior.

The picture is resized to what the prior's grid needs, encoded by tiles, edited on its latent
canvas, decoded by tiles and brought back to its size. The paper's method and the ones it compares
with differ only in what happens on the canvas.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.adapters.costs import CountedPrior, Stopwatch, peak_memory, spread
from csd_nerf.adapters.editing import cut_prompts, edit_settings
from csd_nerf.adapters.job import Job, SilentJob
from csd_nerf.adapters.layout import Layout, plan_layout
from csd_nerf.adapters.options import PanoramaOptions
from csd_nerf.adapters.regions import PromptMap, keep_unasked, map_prompts, parse_region
from csd_nerf.adapters.tiles import decode_tiled, encode_tiled
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.core.windows import window_means, window_positions
from csd_nerf.editor import edit
from csd_nerf.media.pixels import resize
from csd_nerf.priors.base import Prior

PREVIEW_SIZE = 512
"""Longer edge of a preview in pixels, at most."""
MOST_ON_DEVICE = 2**26
"""Numbers in a latent above which canvases stay in the CPU's memory."""
SAMPLED = ("ip2p-downsize", "ip2p-windows")
"""Methods that sample instead of optimising."""
_SILENT = SilentJob()


@dataclass(frozen=True)
class PanoramaResult:
    """An edited picture."""

    image: UInt8[Tensor, "H W 3"]
    """As large as the input."""
    facts: dict[str, Any]
    """What was done and what it cost, for a JSON file; sizes are widths and heights."""


def edit_panorama(
    prior: Prior, image: UInt8[Tensor, "H W 3"], options: PanoramaOptions, *, job: Job = _SILENT
) -> PanoramaResult:
    """Edit a picture by the method that the options name.

    Args:
        prior: The diffusion model.
        image: The input, of any size.
        options: How to edit; those about files and the prior are the caller's affair.
        job: What is told of progress, and keeps what an interrupted run needs to go on.

    Raises:
        ValueError: If there is no instruction, or an option doesn't fit the picture.
        FileNotFoundError: If a region's mask is missing.
        FloatingPointError: If a gradient isn't finite.
    """
    size = (image.shape[0], image.shape[1])
    layout = plan_layout(prior, size, options)
    regions = [parse_region(text) for text in options.region]
    prompts = map_prompts(regions, options.prompt, size=size, grid=layout.grid)
    notices = layout.notices + cut_prompts(prior, [*prompts.prompts, options.negative_prompt])
    for notice in notices:
        job.note(notice)
    work = _Work(CountedPrior(prior), options, layout, prompts, job)
    watch = Stopwatch()
    with watch.stage("encode"):
        source, condition = _encode(work, image)
    with watch.stage("edit"), warnings.catch_warnings():
        # Told already.
        warnings.filterwarnings("ignore", message="The prompt .* is cut off")
        if options.method in SAMPLED:
            latent, facts = _sample(work, condition)
        else:
            latent, facts = _optimise(work, source, condition)
    with watch.stage("decode"):
        result = _decode(work, latent, image)
    return PanoramaResult(
        result,
        {
            "method": options.method,
            "input_size": [*reversed(size)],
            **layout.facts(),
            **facts,
            "evaluations": work.counted.evaluations,
            "seconds": {name: round(seconds, 2) for name, seconds in watch.seconds.items()},
            "peak_memory_mib": peak_memory(prior.device),
            "notices": notices,
        },
    )


@dataclass(frozen=True)
class _Work:
    """What a run is made of, before there are latents."""

    counted: CountedPrior
    options: PanoramaOptions
    layout: Layout
    prompts: PromptMap
    job: Job

    @property
    def prior(self) -> Prior:
        """The prior, counting."""
        return cast(Prior, self.counted)

    @property
    def tiling(self) -> dict[str, Any]:
        """How the autoencoder goes over the picture."""
        max_batch = self.options.values().max_batch
        return {"wrap": self.layout.wrap, "tile": self.layout.window, "max_batch": max_batch}


def _encode(
    work: _Work, image: UInt8[Tensor, "H W 3"]
) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "k h w"]]:
    picture = resize(image, work.layout.size, wrap=work.layout.wrap)
    told = _reporter(work.job, "encode")
    latent, condition = encode_tiled(work.prior, picture, after_row=told, **work.tiling)
    fits = latent.numel() <= MOST_ON_DEVICE
    place = work.prior.device if fits else torch.device("cpu")
    return latent.to(place), condition.to(place)


def _decode(
    work: _Work, latent: Float[Tensor, "c h w"], original: UInt8[Tensor, "H W 3"]
) -> UInt8[Tensor, "H W 3"]:
    told = _reporter(work.job, "decode")
    result = decode_tiled(work.prior, latent, after_row=told, **work.tiling)
    result = resize(result, (original.shape[0], original.shape[1]), wrap=work.layout.wrap)
    if not work.prompts.leaves_parts_alone:
        return result
    return keep_unasked(original, result, work.prompts.editable, wrap=work.layout.wrap)


def _preview(work: _Work, latent: Float[Tensor, "c h w"]) -> UInt8[Tensor, "H W 3"]:
    """Decode a shrunken latent: a large one would take longer than the iterations in between."""
    shrink = max(latent.shape[1:]) * work.prior.cell_size / PREVIEW_SIZE
    if shrink > 1:
        size = tuple(max(1, round(edge / shrink)) for edge in latent.shape[1:])
        latent = torch.nn.functional.interpolate(latent[None], size=size, mode="area")[0]
    return decode_tiled(work.prior, latent, **work.tiling)


def _optimise(
    work: _Work, source: Float[Tensor, "c h w"], condition: Float[Tensor, "k h w"]
) -> tuple[Float[Tensor, "c h w"], dict[str, Any]]:
    """CSD-Edit and its ablations."""
    options, values, layout, job = work.options, work.options.values(), work.layout, work.job
    canvas = WindowCanvas(
        source.clone(),
        source,
        condition,
        layout.window,
        layout.stride,
        values.batch,
        wrap=layout.wrap,
        drawing=values.drawing,
        taper=values.taper,
        editable=work.prompts.editable if work.prompts.leaves_parts_alone else None,
        device=work.prior.device,
    )
    settings = edit_settings(options, canvas)
    generator = torch.Generator().manual_seed(options.seed)
    done = 0
    if (saved := job.restored()) is not None:
        canvas.restore(saved["canvas"])
        generator.set_state(saved["generator"])
        work.counted.evaluations, done = saved["evaluations"], saved["done"]

    def state() -> dict[str, Any]:
        return {
            "canvas": canvas.state(),
            "generator": generator.get_state(),
            "evaluations": work.counted.evaluations,
        }

    job.begin("edit", settings.iterations, done=done)
    edit(
        work.prior,
        canvas,
        prompts=work.prompts.prompts,
        prompt_weights=window_means(work.prompts.masks, canvas.positions, layout.window),
        negative_prompt=options.negative_prompt,
        settings=settings,
        randomness=SeededRandomness(generator),
        start=done,
        after_step=lambda now, _: job.tick(
            now, state=state, preview=lambda: _preview(work, canvas.latent)
        ),
    )
    return canvas.latent, {
        "windows": canvas.size,
        "iterations": settings.iterations,
        "updates_per_cell": spread(canvas.updates),
    }


def _sample(
    work: _Work, condition: Float[Tensor, "k h w"]
) -> tuple[Float[Tensor, "c h w"], dict[str, Any]]:
    """InstructPix2Pix on the canvas's windows, or on the whole of a small canvas."""
    from csd_nerf.priors.sampling import sample_windows

    options, values, layout, job = work.options, work.options.values(), work.layout, work.job
    positions = window_positions(layout.grid, layout.window, stride=layout.stride, wrap=layout.wrap)
    generator = torch.Generator().manual_seed(options.seed)
    done = None
    if (saved := job.restored()) is not None:
        done = (saved["done"], saved["latent"])
        generator.set_state(saved["generator"])
        work.counted.evaluations = saved["evaluations"]

    def after_step(now: int, latent: Float[Tensor, "c h w"]) -> None:
        # No preview: until the last steps there is little but noise to see.
        job.tick(
            now,
            state=lambda: {
                "latent": latent,
                "generator": generator.get_state(),
                "evaluations": work.counted.evaluations,
            },
        )

    job.begin("sample", values.steps, done=0 if done is None else done[0])
    latent = sample_windows(
        work.prior,
        condition,
        work.prompts.prompts,
        window_means(work.prompts.masks, positions, layout.window),
        positions=positions,
        window=layout.window,
        negative_prompt=options.negative_prompt,
        text_scale=values.text_scale,
        image_scale=values.image_scale,
        steps=values.steps,
        solver=values.solver,
        generator=generator,
        max_batch=values.max_batch,
        done=done,
        after_step=after_step,
    )
    return latent, {"windows": len(positions), "steps": values.steps}


def _reporter(job: Job, label: str) -> Callable[[int, int], None]:
    """Tell a job of rows of tiles that are done."""

    def after_row(done: int, total: int) -> None:
        if done == 1:
            job.begin(label, total)
        job.tick(done)

    return after_row
