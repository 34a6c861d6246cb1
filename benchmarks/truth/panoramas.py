"""The benchmark on panoramas."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.engine.options import PAPER_MIXING
from benchmarks.truth.domains import SEEDS_APART, Arm, banked, column_of, edit_at
from benchmarks.truth.media import (
    ABLATIONS,
    PATCH,
    RESIDUALS,
    SIMILARITY,
    USUAL_ARMS,
    Input,
    MediaDomain,
)
from csd_nerf.adapters.layout import plan_layout
from csd_nerf.adapters.options import PanoramaOptions
from csd_nerf.adapters.panorama import edit_panorama
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.core.windows import window_positions
from csd_nerf.evaluation.consistency import border_psnr, seam_step, window_borders
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic.panoramas import find_panorama, render_panorama
from csd_nerf.synthetic.scenes import Split

PANORAMA_SIZE = (96, 256)
"""Height and width in pixels."""
_BEST = "csd-patch-own-noise-share"
"""The arm of the preset's options."""
_MANY = 1000
"""Number of updates over which the cost of one is averaged."""


class PanoramaDomain(MediaDomain):
    """Panoramas of `PANORAMA_SIZE`."""

    arms = (
        *USUAL_ARMS,
        # The paper's method: random windows, plain average.
        Arm("csd-paper-drawing", "csd", {**PAPER_MIXING, "drawing": "uniform", "taper": 0}),
        Arm("ip2p-downsize", "ip2p-downsize"),
        Arm("ip2p-windows", "ip2p-windows"),
        Arm("ip2p-tiles", "ip2p-windows", tiles=True),
    )
    ablations = (*ABLATIONS, *banked(f"{_BEST}-bank", "csd", PATCH, tuned_as=_BEST))
    columns = (
        *SIMILARITY,
        column_of("seams", "seam"),
        Column("border", "PSNR at the border"),
        Column("corners", "in the corners"),
        Column("interior", "in the interior"),
        Column("fewest_updates", "fewest updates of a cell, of the mean", 1, 2),
    )
    consistency = "seam"
    kind = PanoramaOptions

    def draw(self, position: int, split: Split) -> Input:
        """The input at a position of the benchmark."""
        return draw_panorama(position, split)

    def departures(self, arm: Arm) -> dict[str, Any]:
        """The options of an arm that differ from the preset."""
        if not arm.tiles:
            return dict(arm.options)
        return {**arm.options, "stride": self._prior.preferred_size // self._prior.cell_size}

    def cost(self, options: PanoramaOptions) -> float:
        """U-Net evaluations of one update of every cell, or of one sampling step.

        With fading edges, more windows are needed to update every cell once.
        """
        values, branches = options.values(), self.branches(options)
        layout = plan_layout(self._prior, PANORAMA_SIZE, options)
        if options.method not in RESIDUALS:
            extent = layout.window if options.method == "ip2p-windows" else layout.grid
            windows = window_positions(layout.grid, extent, stride=layout.stride)
            return float(branches * len(windows))
        assert values.batch is not None, "only videos have presets of all particles in a batch"
        blank = torch.zeros(1, *layout.grid)
        canvas = WindowCanvas(
            blank,
            blank,
            {},
            layout.window,
            layout.stride,
            values.batch,
            drawing=values.drawing,
            taper=values.taper,
        )
        return branches * canvas.windows_per_iteration * canvas.iterations_for(_MANY) / _MANY

    def edit(
        self, given: Input, options: PanoramaOptions
    ) -> tuple[Float[Tensor, "n 3 h w"], dict[str, Any]]:
        """Edit an input with these options; returns the result and the adapter's facts."""
        result = edit_panorama(self._prior, given.source[0], options)
        return to_01(result.image[None]), result.facts

    def consistency_measures(
        self, given: Input, edited01: Float[Tensor, "n 3 h w"], options: PanoramaOptions | None
    ) -> Row:
        """Seams, and PSNR at the border, in the corners and in the interior."""
        stride = None if options is None else options.stride
        return measure_panorama(self._prior, edited01[0], given.truth01[0], stride=stride)


def draw_panorama(position: int, split: Split) -> Input:
    """The input at a position of the benchmark; the edits are repeated."""
    edit, (height, width) = edit_at(position, split), PANORAMA_SIZE
    panorama = find_panorama(edit, split, skip=SEEDS_APART * position, height=height, width=width)
    source01, truth01 = render_panorama(panorama), render_panorama(panorama, edit)
    return Input(f"{position:02d} {edit.name}", edit, to_bytes(source01), truth01)


def measure_panorama(
    prior: Prior,
    edited01: Float[Tensor, "3 H W"],
    truth01: Float[Tensor, "3 H W"],
    *,
    stride: int | None = None,
) -> dict[str, float]:
    """Measure seams, and PSNR at the border, in the corners and in the interior.

    The border is a quarter of a window wide.

    Args:
        prior: The prior that edited; it determines the windows.
        edited01: The edit.
        truth01: The true edit.
        stride: Cells between windows; None means a quarter of a window, the default of the methods.
    """
    cell, extent = prior.cell_size, prior.preferred_size // prior.cell_size
    canvas, window = (truth01.shape[1] // cell, truth01.shape[2] // cell), (extent, extent)
    positions = window_positions(canvas, window, stride=stride or extent // 4)
    borders = window_borders(positions, window, canvas, cell_size=cell)
    places = border_psnr(edited01, truth01, margin=extent // 4 * cell)
    seam = seam_step(edited01, truth01, borders, cell_size=cell)
    return {"seam": seam, **dataclasses.asdict(places)}
