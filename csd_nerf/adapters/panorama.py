"""Edits a picture of any size through overlapping windows of the prior's size.

The picture is resized to a multiple of the prior's grid and encoded in tiles. Its latent is edited,
decoded in tiles, and resized back; where fine detail is kept, the picture is edited with mirrored
margins, which are cut off, and what changed is applied to the original. The paper's method and its
baselines differ only in how the latent is edited.
"""

from __future__ import annotations

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
from csd_nerf.adapters.pictures import Picture, finished
from csd_nerf.adapters.regions import PromptMap, map_prompts, masks_of
from csd_nerf.adapters.reporter import SILENT, Reporter, told_to
from csd_nerf.adapters.tiles import decode_tiled, encode_tiled
from csd_nerf.core.rows import Rows
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.core.windows import window_positions
from csd_nerf.media.pixels import Change
from csd_nerf.media.rasters import Raster
from csd_nerf.media.regions import Segmenter, parse_region
from csd_nerf.priors.base import Prior

PREVIEW_SIZE = 512
"""Largest length in pixels of a preview's longer edge."""
MAX_NUMEL_ON_DEVICE = 2**26
"""Latents and conditions of a canvas with more elements than this stay in the CPU's memory."""
SAMPLED = ("ip2p-downsize", "ip2p-windows")
"""Methods that sample instead of optimising."""


@dataclass(frozen=True)
class PanoramaResult:
    """An edited picture, as a tensor."""

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
    """Edit a picture by the method that the options name; as `edit_picture`, for a tensor.

    Args:
        prior: The diffusion model.
        image: The input, of any size.
        options: The options; those about files and the prior's loading are ignored.
        name: The picture's name, by which its mask is found in a folder of masks.
        segmenter: Finds what a region's word names.
        reporter: Gets the progress and saves the state.
    """
    picture = Picture(name, (image.shape[0], image.shape[1]), lambda: Raster.of(image))
    raster, facts = edit_picture(prior, picture, options, segmenter=segmenter, reporter=reporter)
    return PanoramaResult(raster.pixels, facts)


def edit_picture(
    prior: Prior,
    picture: Picture,
    options: PanoramaOptions,
    *,
    segmenter: Segmenter | None = None,
    reporter: Reporter = SILENT,
) -> tuple[Raster, dict[str, Any]]:
    """Edit a picture, which is read when it is needed and is not in memory in between.

    Args:
        prior: The diffusion model.
        picture: The input, of any size.
        options: The options; those about files and the prior's loading are ignored.
        segmenter: Finds what a region's word names.
        reporter: Gets the progress and saves the state.

    Returns:
        The result, and facts about the edit and its costs, as `PanoramaResult` has them.

    Raises:
        ValueError: If there is no instruction, or an option doesn't fit the picture.
        FileNotFoundError: If a region's mask is missing.
        FloatingPointError: If a gradient isn't finite.
    """
    options.check_prompt()
    layout = plan_layout(prior, picture.size, options)
    regions = [parse_region(text) for text in options.region]
    mask_of = masks_of(picture, segmenter=segmenter)
    prompts = map_prompts(
        regions, options.prompt, mask_of, size=picture.size, grid=layout.grid, wrap=layout.wrap
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
        source, image_rows = _encode(plan, picture)
    with session.stage("edit"):
        if options.method in SAMPLED:
            latent, facts = _sample(plan, source, image_rows)
        else:
            latent, facts = _optimise(plan, source, image_rows)
    with session.stage("decode"):
        result = _decode(plan, latent, source, picture)
    head = {
        "method": options.method,
        "input_size": [*reversed(picture.size)],
        "keep_detail": plan.keeps_detail,
    }
    return result, {**head, **layout.facts(), **facts, **session.facts()}


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
        if self.layout.margins == (0, 0):
            return picture
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


def _encode(plan: _Plan, picture: Picture) -> tuple[Float[Tensor, "c h w"], Rows]:
    wrap, told = plan.layout.wrap, told_to(plan.session.reporter, "encode")
    pixels = plan.widened(picture.read().resized(plan.layout.size, wrap=wrap))
    latent, image_rows = encode_tiled(plan.prior, pixels, after_row=told, **plan.tiling)

    def placed(whole: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        return whole.to(plan.prior.device) if whole.numel() <= MAX_NUMEL_ON_DEVICE else whole

    return placed(latent), {name: placed(rows) for name, rows in image_rows.items()}


def _decode(
    plan: _Plan,
    latent: Float[Tensor, "c h w"],
    source: Float[Tensor, "c h w"],
    picture: Picture,
) -> Raster:
    reporter, wrap = plan.session.reporter, plan.layout.wrap

    def decoded(latent: Float[Tensor, "c h w"], label: str) -> UInt8[Tensor, "3 rows columns"]:
        told = told_to(reporter, label)
        pixels = decode_tiled(plan.prior, latent, after_row=told, **plan.tiling)
        return plan.cropped(pixels.movedim(2, 0), cell=plan.prior.cell_size)

    after = decoded(latent, "decode")
    if plan.keeps_detail:
        # In the same tiles, so that their errors cancel, such as those at the picture's edges,
        # beyond which convolutions see zeros.
        edit = Change(decoded(source, "decode the source"), after, wrap)
    else:
        edit = after.movedim(0, 2)
    told = told_to(reporter, "detail" if plan.keeps_detail else "region")
    return finished(picture, edit, inside=plan.prompts.inside, wrap=wrap, told=told)


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
