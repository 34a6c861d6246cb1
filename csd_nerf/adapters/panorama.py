"""Edits a picture of any size through overlapping windows of the prior's size.

The picture is resized to a multiple of the prior's grid and encoded in tiles. Its latent is edited,
decoded in tiles, and resized back; where fine detail is kept, the picture is edited with mirrored
margins, which are cut off, and what changed is applied to the original. The paper's method and its
baselines differ only in how the latent is edited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from csd_nerf.adapters.costs import update_statistics
from csd_nerf.adapters.editing import EditSession
from csd_nerf.adapters.layout import Layout, plan_layout
from csd_nerf.adapters.options import PanoramaOptions
from csd_nerf.adapters.regions import PromptMap, map_prompts, masks_of
from csd_nerf.adapters.reporter import SILENT, Reporter
from csd_nerf.adapters.tiles import decode_tiled, encode_tiled
from csd_nerf.core.rows import Rows
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.core.windows import window_positions
from csd_nerf.media.pixels import add_change, resize
from csd_nerf.media.regions import Segmenter, keep_outside, parse_region
from csd_nerf.priors.base import Prior

PREVIEW_SIZE = 512
"""Largest length in pixels of a preview's longer edge."""
MAX_NUMEL_ON_DEVICE = 2**26
"""Latents and conditions of a canvas with more elements than this stay in the CPU's memory."""
SAMPLED = ("ip2p-downsize", "ip2p-windows")
"""Methods that sample instead of optimising."""


@dataclass(frozen=True)
class PanoramaResult:
    """An edited picture."""

    image: UInt8[Tensor, "H W 3"]
    """The result, at the size of the input."""
    facts: dict[str, Any]
    """Facts about the edit and its costs, for a JSON file; sizes are (width, height)."""


def edit_panorama(
    prior: Prior,
    image: UInt8[Tensor, "H W 3"],
    options: PanoramaOptions,
    *,
    name: str = "",
    segmenter: Segmenter | None = None,
    reporter: Reporter = SILENT,
) -> PanoramaResult:
    """Edit a picture by the method that the options name.

    Args:
        prior: The diffusion model.
        image: The input, of any size.
        options: The options; those about files and the prior's loading are ignored.
        name: The picture's name, by which its mask is found in a folder of masks.
        segmenter: Finds what a region's word names.
        reporter: Gets the progress and saves the state.

    Raises:
        ValueError: If there is no instruction, or an option doesn't fit the picture.
        FileNotFoundError: If a region's mask is missing.
        FloatingPointError: If a gradient isn't finite.
    """
    options.check_prompt()
    size = (image.shape[0], image.shape[1])
    layout = plan_layout(prior, size, options)
    regions = [parse_region(text) for text in options.region]
    mask_of = masks_of(image, name=name, segmenter=segmenter)
    prompts = map_prompts(
        regions, options.prompt, mask_of, size=size, grid=layout.grid, wrap=layout.wrap
    )
    session = EditSession(prior, options, reporter)
    if session.keeps_detail(prompts.prompts):
        layout = layout.with_margins(prior)
        prompts = prompts.with_margins(layout.margins)
    for notice in layout.notices:
        session.note(notice)
    session.note_cut_prompts([*prompts.prompts, options.negative_prompt])
    plan = _Plan(session, layout, prompts)
    with session.stage("encode"):
        source, image_rows = _encode(plan, image)
    with session.stage("edit"):
        if options.method in SAMPLED:
            latent, facts = _sample(plan, source, image_rows)
        else:
            latent, facts = _optimise(plan, source, image_rows)
    with session.stage("decode"):
        result = _decode(plan, latent, source, image)
    head = {
        "method": options.method,
        "input_size": [*reversed(size)],
        "keep_detail": plan.keeps_detail,
    }
    return PanoramaResult(result, {**head, **layout.facts(), **facts, **session.facts()})


@dataclass(frozen=True)
class _Plan:
    """Everything that is decided before the picture is encoded."""

    session: EditSession
    layout: Layout
    prompts: PromptMap

    @property
    def prior(self) -> Prior:
        return self.session.prior

    @property
    def keeps_detail(self) -> bool:
        """Whether the change alone is added to the picture."""
        return self.session.keeps_detail(self.prompts.prompts)

    @property
    def tiling(self) -> dict[str, Any]:
        """The arguments of `encode_tiled` and `decode_tiled`."""
        max_batch = self.session.values.max_batch
        return {"wrap": self.layout.wrap, "tile": self.layout.window, "max_batch": max_batch}

    def widened(self, picture: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, "rows columns 3"]:
        """Mirror a picture into the margins."""
        rows, columns = (self.prior.cell_size * margin for margin in self.layout.margins)
        beyond = ((rows, rows), (columns, columns), (0, 0))
        return torch.from_numpy(np.pad(picture.numpy(), beyond, mode="symmetric"))

    def cropped(
        self, whole: Shaped[Tensor, "*c rows columns"], *, cell: int = 1
    ) -> Shaped[Tensor, "*c h w"]:
        """Take the margins away; `cell` is the edge of a cell in what is given."""
        rows, columns = (cell * margin for margin in self.layout.margins)
        height, width = whole.shape[-2:]
        return whole[..., rows : height - rows, columns : width - columns]


def _encode(plan: _Plan, image: UInt8[Tensor, "H W 3"]) -> tuple[Float[Tensor, "c h w"], Rows]:
    picture = plan.widened(resize(image, plan.layout.size, wrap=plan.layout.wrap))
    told = _row_reporter(plan.session.reporter, "encode")
    latent, image_rows = encode_tiled(plan.prior, picture, after_row=told, **plan.tiling)

    def placed(whole: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        return whole.to(plan.prior.device) if whole.numel() <= MAX_NUMEL_ON_DEVICE else whole

    return placed(latent), {name: placed(rows) for name, rows in image_rows.items()}


def _decode(
    plan: _Plan,
    latent: Float[Tensor, "c h w"],
    source: Float[Tensor, "c h w"],
    original: UInt8[Tensor, "H W 3"],
) -> UInt8[Tensor, "H W 3"]:
    reporter, wrap = plan.session.reporter, plan.layout.wrap

    def decoded(latent: Float[Tensor, "c h w"], label: str) -> UInt8[Tensor, "rows columns 3"]:
        told = _row_reporter(reporter, label)
        return decode_tiled(plan.prior, latent, after_row=told, **plan.tiling)

    result = decoded(latent, "decode")
    if plan.keeps_detail:
        # In the same tiles, so that their errors cancel, such as those at the picture's edges,
        # beyond which convolutions see zeros.
        before01, after01 = (
            plan.cropped(pixels.movedim(2, 0), cell=plan.prior.cell_size).half() / 255
            for pixels in (decoded(source, "decode the source"), result)
        )
        result = add_change(original, before01, after01, wrap=wrap)
    else:
        result = resize(result, (original.shape[0], original.shape[1]), wrap=wrap)
    inside = plan.prompts.inside
    return result if inside is None else keep_outside(original, result, inside, wrap=wrap)


def _preview(plan: _Plan, latent: Float[Tensor, "c h w"]) -> UInt8[Tensor, "H W 3"]:
    """Decode a shrunken latent; a large one would take longer than the iterations themselves."""
    latent = plan.cropped(latent)
    shrink = max(latent.shape[1:]) * plan.prior.cell_size / PREVIEW_SIZE
    if shrink > 1:
        size = tuple(max(1, round(edge / shrink)) for edge in latent.shape[1:])
        latent = torch.nn.functional.interpolate(latent[None], size=size, mode="area")[0]
    return decode_tiled(plan.prior, latent, **plan.tiling)


def _optimise(
    plan: _Plan, source: Float[Tensor, "c h w"], image_rows: Rows
) -> tuple[Float[Tensor, "c h w"], dict[str, Any]]:
    """CSD-Edit and its ablations."""
    values, layout, prompts = plan.session.values, plan.layout, plan.prompts
    assert values.batch is not None, "only videos have presets of all particles in a batch"
    canvas = WindowCanvas(
        source.clone(),
        source,
        image_rows,
        layout.window,
        layout.stride,
        values.batch,
        wrap=layout.wrap,
        drawing=values.drawing,
        taper=values.taper,
        editable=prompts.editable,
        device=plan.prior.device,
    )
    iterations = plan.session.optimise(
        canvas,
        prompts.prompts,
        prompt_weights=prompts.shares(canvas.positions, layout.window),
        preview=lambda: _preview(plan, canvas.latent),
    )
    return canvas.latent, {
        "windows": canvas.size,
        "iterations": iterations,
        "updates_per_cell": update_statistics(
            canvas.updates if canvas.editable is None else canvas.updates[canvas.editable > 0]
        ),
    }


def _sample(
    plan: _Plan, source: Float[Tensor, "c h w"], image_rows: Rows
) -> tuple[Float[Tensor, "c h w"], dict[str, Any]]:
    """InstructPix2Pix on the canvas's windows, or on the whole of a small canvas."""
    from csd_nerf.priors.sampling import sample_windows

    session, layout = plan.session, plan.layout
    positions = window_positions(layout.grid, layout.window, stride=layout.stride, wrap=layout.wrap)
    saved = session.restored()
    noise, done = torch.zeros_like(source), None
    if saved is not None:
        done = (saved["done"], saved["latent"])
    else:
        noise = torch.randn(noise.shape, generator=session.generator).to(source)

    def after_step(now: int, latent: Float[Tensor, "c h w"]) -> None:
        # No preview: until the last steps it would show little but noise.
        session.reporter.tick(now, state=lambda: session.state(latent=latent))

    steps = session.values.steps
    session.reporter.begin("sample", steps, done=0 if done is None else done[0])
    latent = sample_windows(
        plan.prior,
        image_rows,
        plan.prompts.prompts,
        plan.prompts.shares(positions, layout.window),
        positions=positions,
        window=layout.window,
        **session.sampling(),
        noise=noise,
        done=done,
        after_step=after_step,
    )
    return latent, {"windows": len(positions), "steps": steps}


def _row_reporter(reporter: Reporter, label: str) -> Callable[[int, int], None]:
    """Returns a callback that reports the number of finished rows of tiles."""

    def after_row(done: int, total: int) -> None:
        if done == 1:
            reporter.begin(label, total)
        reporter.tick(done)

    return after_row
