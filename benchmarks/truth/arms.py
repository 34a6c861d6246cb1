"""The benchmark on panoramas and videos: its methods as data, its inputs, how one is measured."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.truth.domains import Arm, Job, Outcome
from benchmarks.truth.residuals import residuals_at_truth
from csd_nerf.adapters.layout import plan_layout
from csd_nerf.adapters.options import EditOptions, PanoramaOptions, VideoOptions
from csd_nerf.adapters.panorama import edit_panorama
from csd_nerf.adapters.video import edit_frames
from csd_nerf.core.residuals import EDIT_RESIDUALS, ResidualName, edit_guidance
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.core.windows import window_positions
from csd_nerf.evaluation.consistency import (
    border_psnr,
    extra_change,
    flicker,
    seam_step,
    window_borders,
)
from csd_nerf.evaluation.similarity import psnr, ssim
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic.edits import Edit, all_edits
from csd_nerf.synthetic.panoramas import find_panorama, render_panorama
from csd_nerf.synthetic.scenes import Split
from csd_nerf.synthetic.videos import find_video, render_video

Medium = Literal["panorama", "video"]

_MANY = 100
"""Updates over which the cost of one is averaged."""
_MOST_STEPS = 50
"""Sampling steps beyond which more change nothing, whatever the budget."""

EDITS = (
    "night",
    "floor grass",
    "sky orange",
    "sepia",
    "blueprint",
    "fog",
    "sunset",
    "floor water",
    "sky pink",
    "negative",
    "infrared",
    "floor sand",
)
"""What is asked for, one edit an input: looks, floors, skies and fog, which the prior knows."""
PANORAMA_SIZE = (96, 256)
"""Height and width in pixels."""
FRAME_SIZE = (64, 64)
FRAMES = 10
SEEDS_APART = 7
"""Seeds between the places from which two inputs look for a scene that shows their edit."""


@dataclass(frozen=True)
class Input:
    """An input and its true edit; a panorama is one frame."""

    name: str
    edit: Edit
    source: UInt8[Tensor, "n h w 3"]
    truth01: Float[Tensor, "n 3 h w"]

    @property
    def source01(self) -> Float[Tensor, "n 3 h w"]:
        """The source as the methods see it, with its 8 bits."""
        return to_01(self.source)


RESIDUALS: dict[str, ResidualName] = {"csd": "csd", "csd-no-stein": "csd", "sds": "sds"}
"""The methods that optimise, and what they subtract."""
REFERENCES = (Arm("source", None), Arm("autoencoder", None))
"""Nothing done, and the true edit encoded and decoded, which shows the autoencoder's own errors."""
_OPTIMISED = tuple(Arm(name, name) for name in RESIDUALS)
_STRONG = {"text_scale": 7.5, "image_scale": 1.5, "learning_rate": 0.5}
"""The guidance that InstructPix2Pix is used with, far from what suits the bundled prior."""
_ABLATIONS = (
    Arm("csd-independent-noise", "csd", {"noise": "independent"}),
    Arm("csd-no-stein-independent-noise", "csd-no-stein", {"noise": "independent"}),
    Arm("sds-independent-noise", "sds", {"noise": "independent"}),
    # With one noise for all a kernel on clean latents is the same: all are moved alike.
    Arm("csd-clean-kernel", "csd", {"noise": "independent", "kernel_on": "clean"}),
    # The kernel's sum over the batch in place of its row sum: the step is shorter by what rows
    # sum to, 0.2 to 0.4 for these batches.
    Arm("csd-divided-by-n", "csd", {"normalize": "n", "learning_rate": 5.0}),
    Arm("csd-full-repulsion", "csd", {"repulsion": 1.0}),
    Arm("csd-paper-t", "csd", {"t_range": (0.02, 0.5)}),
    Arm("csd-strong", "csd", _STRONG),
    Arm("csd-no-stein-strong", "csd-no-stein", _STRONG),
    Arm("sds-strong", "sds", _STRONG),
)
ARMS: dict[Medium, tuple[Arm, ...]] = {
    "panorama": (
        *REFERENCES,
        *_OPTIMISED,
        Arm("csd-paper-drawing", "csd", {"drawing": "uniform", "taper": 0}),
        Arm("ip2p-downsize", "ip2p-downsize"),
        Arm("ip2p-windows", "ip2p-windows"),
        Arm("ip2p-tiles", "ip2p-windows", tiles=True),
    ),
    "video": (
        *REFERENCES,
        *_OPTIMISED,
        Arm("ip2p", "ip2p"),
        Arm("ip2p-shared-noise", "ip2p", {"noise": "shared"}),
    ),
}
"""csd-paper-drawing draws windows by chance and averages them plainly."""
ABLATIONS: dict[Medium, tuple[Arm, ...]] = {
    "panorama": _ABLATIONS,
    "video": (*_ABLATIONS, Arm("ip2p-strong", "ip2p", _STRONG)),
}
"""What csd owes to each of its settings; one departure an arm."""

COLUMNS: dict[Medium, tuple[Column, ...]] = {
    "panorama": (
        Column("psnr", "PSNR, dB", better="higher"),
        Column("ssim", "SSIM", digits=3, better="higher"),
        Column("seam", "seams, 1/1000", 1000, 2, better="lower"),
        Column("border", "PSNR at the border"),
        Column("corners", "in the corners"),
        Column("interior", "in the interior"),
        Column("fewest_updates", "fewest updates of a cell, of the mean", 1, 2),
    ),
    "video": (
        Column("psnr", "PSNR, dB", better="higher"),
        Column("ssim", "SSIM", digits=3, better="higher"),
        Column("flicker", "flicker, 1/1000", 1000, better="lower"),
        Column("extra_change", "change beyond the source's, 1/1000", 1000),
    ),
}
"""`csd_nerf.evaluation.consistency` defines the measures; the cost comes behind them."""


class MediaDomain:
    """Panoramas or videos."""

    def __init__(self, medium: Medium, prior: Prior, options: Mapping[str, Any]) -> None:
        """Take a prior, and options of all arms in place of the preset's."""
        self.columns = COLUMNS[medium]
        self.consistency = "seam" if medium == "panorama" else "flicker"
        self._medium: Medium = medium
        self._prior = prior
        self._options = options

    def draw(self, position: int, split: Split) -> Input:
        """The input at a position of the benchmark."""
        return draw_input(self._medium, position, split)

    def settings(self, job: Job) -> dict[str, Any]:
        """What decides a job's result; nothing for a reference."""
        return {} if job.arm.method is None else dataclasses.asdict(self._job_options(job))

    def measure(self, job: Job, given: Input) -> Outcome:
        """Run a method on an input, and measure the result against the truth."""
        facts: dict[str, Any] = {}
        stride = None
        began = time.perf_counter()
        if job.arm.method is None:
            edited01 = reference(self._prior, job.arm.name, given)
        else:
            options = self._job_options(job)
            stride = getattr(options, "stride", None)
            edited01, facts = run_arm(self._prior, given, options)
        seconds = time.perf_counter() - began
        row = {"psnr": psnr(edited01, given.truth01), "ssim": ssim(edited01, given.truth01)}
        if self._medium == "panorama":
            row |= measure_panorama(self._prior, edited01[0], given.truth01[0], stride=stride)
            if (updates := facts.get("updates_per_cell")) is not None:
                row["fewest_updates"] = updates["min"] / updates["mean"]
        else:
            row["flicker"] = flicker(edited01, given.truth01)
            row["extra_change"] = extra_change(edited01, given.source01)
        row |= {"evaluations": facts.get("evaluations", 0), "seconds": seconds}
        return Outcome(row, edited01, given.truth01)

    def residuals(self, given: Input) -> list[Row]:
        """What csd and sds would still change at the truth of an input's first frame."""
        kind = PanoramaOptions if self._medium == "panorama" else VideoOptions
        values = kind(preset="tiny", **self._options).values()
        found = residuals_at_truth(
            self._prior,
            given.source01[0],
            given.truth01[0],
            given.edit.instructions[0],
            image_scale=values.image_scale,
            text_scale=values.text_scale,
        )
        return [{"input": given.name, "arm": residual, **row} for residual, row in found.items()]

    def _job_options(self, job: Job) -> PanoramaOptions | VideoOptions:
        given = {**self._options, "seed": job.seed}
        return arm_options(self._medium, job.arm, self._prior, given, budget=job.budget)


def draw_input(medium: Medium, position: int, split: Split) -> Input:
    """The input at a position of the benchmark; after the last edit the first comes again."""
    edit, skip = all_edits()[EDITS[position % len(EDITS)]], SEEDS_APART * position
    if medium == "panorama":
        height, width = PANORAMA_SIZE
        panorama = find_panorama(edit, split, skip=skip, height=height, width=width)
        source01, truth01 = render_panorama(panorama), render_panorama(panorama, edit)
    else:
        height, width = FRAME_SIZE
        video = find_video(edit, split, skip=skip, frames=FRAMES)
        source01 = render_video(video, height=height, width=width)
        truth01 = render_video(video, edit, height=height, width=width)
    return Input(f"{position:02d} {edit.name}", edit, to_bytes(source01), truth01)


def arm_options(
    medium: Medium, arm: Arm, prior: Prior, given: Mapping[str, Any], *, budget: float = 1.0
) -> PanoramaOptions | VideoOptions:
    """The options of an arm: those given over its own, and both over the tiny preset's.

    All arms get as many U-Net evaluations as csd makes with the preset's number of updates, times
    `budget`: updates for those that optimise, sampling steps for the others. Fewer updates need
    longer steps: the learning rate goes with budget^(-1/2), which suits validation inputs.
    """
    kind = PanoramaOptions if medium == "panorama" else VideoOptions
    chosen = {**arm.options, **given, "preset": "tiny"}
    if arm.tiles:
        chosen["stride"] = prior.preferred_size // prior.cell_size
    options = kind(**{**chosen, "method": arm.method})
    csd = kind(**{**given, "preset": "tiny", "method": "csd"})
    count = budget * csd.values().updates * _cost(prior, csd) / _cost(prior, options)
    if arm.method in RESIDUALS:
        rate = options.values().learning_rate / math.sqrt(budget)
        return dataclasses.replace(options, updates=max(1, round(count)), learning_rate=rate)
    return dataclasses.replace(options, steps=min(max(1, round(count)), _MOST_STEPS))


def _cost(prior: Prior, options: PanoramaOptions | VideoOptions) -> float:
    """U-Net evaluations a frame, or for a whole panorama, of one update or sampling step.

    SDS asks for fewer estimates a particle than CSD, and windows that fade at their edges update
    less than plain ones.
    """
    values = options.values()
    scales = {"image_scale": values.image_scale, "text_scale": values.text_scale}
    if options.method in RESIDUALS:
        branches = len(EDIT_RESIDUALS[RESIDUALS[options.method]](**scales).weights)
    else:
        branches = len(edit_guidance("target", **scales).weights)
    if isinstance(options, VideoOptions):
        return float(branches)
    layout = plan_layout(prior, PANORAMA_SIZE, options)
    if options.method not in RESIDUALS:
        extent = layout.window if options.method == "ip2p-windows" else layout.grid
        return float(branches * len(window_positions(layout.grid, extent, stride=layout.stride)))
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
    return branches * values.batch * canvas.iterations_for(_MANY) / _MANY


def run_arm(
    prior: Prior, given: Input, options: EditOptions
) -> tuple[Float[Tensor, "n 3 h w"], dict[str, Any]]:
    """What a method makes of an input, and the facts that its adapter tells."""
    asked = dataclasses.replace(options, prompt=given.edit.instructions[0])
    if isinstance(asked, PanoramaOptions):
        result = edit_panorama(prior, given.source[0], asked)
        return to_01(result.image[None]), result.facts
    assert isinstance(asked, VideoOptions)
    frames, facts = edit_frames(prior, given.source, asked)
    return to_01(frames), facts


def reference(prior: Prior, name: str, given: Input) -> Float[Tensor, "n 3 h w"]:
    """One of `REFERENCES`."""
    if name == "source":
        return given.source01
    return torch.cat([prior.decode(prior.encode(image[None])) for image in given.truth01])


def measure_panorama(
    prior: Prior,
    edited01: Float[Tensor, "3 H W"],
    truth01: Float[Tensor, "3 H W"],
    *,
    stride: int | None = None,
) -> dict[str, float]:
    """Seams and PSNR by place; the border is as wide as a step from window to window.

    Args:
        prior: Whose windows were used.
        edited01: The edit.
        truth01: The true edit.
        stride: Cells between windows; None means a quarter of a window, as the method's default.
    """
    cell, extent = prior.cell_size, prior.preferred_size // prior.cell_size
    canvas, window = (truth01.shape[1] // cell, truth01.shape[2] // cell), (extent, extent)
    positions = window_positions(canvas, window, stride=stride or extent // 4)
    borders = window_borders(positions, window, canvas, cell_size=cell)
    places = border_psnr(edited01, truth01, margin=extent // 4 * cell)
    seam = seam_step(edited01, truth01, borders, period=cell)
    return {"seam": seam, **dataclasses.asdict(places)}
