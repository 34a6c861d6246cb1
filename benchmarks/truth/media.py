"""The common part of the benchmark's domains panoramas and videos."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.engine.identity import plain_options
from benchmarks.engine.options import PAPER_MIXING, STEIN
from benchmarks.engine.trials import Store
from benchmarks.truth.budgets import rate_at, sampling_branches, update_branches
from benchmarks.truth.domains import Arm, Job, Outcome, column_of
from benchmarks.truth.residuals import Guidance, residuals_at_truth
from csd_nerf.core.residuals import ResidualName
from csd_nerf.evaluation.similarity import psnr, ssim
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.media.pixels import to_01
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic.edits import Edit
from csd_nerf.synthetic.scenes import Split

_MOST_STEPS = 50
"""Largest number of sampling steps, whatever the budget; more don't change the result."""

RESIDUALS: dict[str, ResidualName] = {"csd": "csd", "csd-no-stein": "csd", "sds": "sds"}
"""The methods that optimise, with their residuals."""
PATCH = {"mixing": "patch", "noise": "independent"}
"""Mixing by patches, with a noise for each image."""
_WHOLE = {"source_share": 1.0}
USUAL_ARMS = (
    Arm("source", None),
    Arm("autoencoder", None),
    Arm("csd", "csd", PAPER_MIXING),
    Arm("csd-no-stein", "csd-no-stein"),
    Arm("sds", "sds"),
    # share: with the share of the source's estimate that is best on validation inputs.
    Arm("csd-share", "csd", STEIN),
    Arm("csd-patch", "csd", {"mixing": "patch", "noise": "shared", **_WHOLE}),
    Arm("csd-patch-own-noise", "csd", {**PATCH, **_WHOLE}),
    Arm("csd-patch-own-noise-share", "csd", PATCH),
    Arm("sds-patch-own-noise", "sds", PATCH),
)
"""The references are the unedited source, and the true edit encoded and decoded, which shows the
error of the autoencoder."""
STRONG = {"text_scale": 7.5, "image_scale": 1.5}
"""The usual guidance of InstructPix2Pix, which is much stronger than the bundled prior needs."""
ABLATIONS = (
    Arm("csd-independent-noise", "csd", PAPER_MIXING | {"noise": "independent"}),
    Arm("csd-no-stein-independent-noise", "csd-no-stein", {"noise": "independent"}),
    Arm("sds-independent-noise", "sds", {"noise": "independent"}),
    # With shared noise, kernels on clean and on noisy latents are equivalent.
    Arm("csd-clean-kernel", "csd", PAPER_MIXING | {"noise": "independent", "kernel_on": "clean"}),
    Arm("csd-divided-by-n", "csd", PAPER_MIXING | {"normalize": "n"}),
    Arm("csd-full-repulsion", "csd", PAPER_MIXING | {"repulsion": 1.0}),
    Arm("csd-paper-t", "csd", PAPER_MIXING | {"t_range": (0.02, 0.5)}),
    Arm("csd-strong", "csd", PAPER_MIXING | STRONG),
    Arm("csd-no-stein-strong", "csd-no-stein", STRONG),
    Arm("sds-strong", "sds", STRONG),
)
"""Variants that show the effect of single settings. Each changes one; its learning rate is tuned
by itself, so that it isn't judged at another's."""
SIMILARITY = (column_of("psnr_edited", "psnr"), column_of("ssim_edited", "ssim"))


@dataclass(frozen=True)
class Input:
    """An input and its true edit; a panorama is one frame."""

    name: str
    edit: Edit
    source: UInt8[Tensor, "n h w 3"]
    truth01: Float[Tensor, "n 3 h w"]

    @property
    def source01(self) -> Float[Tensor, "n 3 h w"]:
        """The source in [0, 1], rounded to 8 bits, as the methods get it."""
        return to_01(self.source)


class MediaDomain:
    """Base class of the domains panoramas and videos."""

    arms: ClassVar[tuple[Arm, ...]]
    ablations: ClassVar[tuple[Arm, ...]] = ABLATIONS
    columns: ClassVar[tuple[Column, ...]]
    consistency: ClassVar[str]
    baseline: ClassVar[str] = "csd"
    kind: ClassVar[Callable[..., Any]]
    """The adapter's class of options."""

    def __init__(self, prior: Prior, options: Mapping[str, Any], store: Store) -> None:
        """Take a prior, and options that replace those of all arms."""
        del store  # Inputs are drawn anew every time, so none are stored.
        self._prior, self._options = prior, options

    def draw(self, position: int, split: Split) -> Input:
        """The input at a position of the benchmark."""
        raise NotImplementedError

    def cost(self, options: Any) -> float:
        """U-Net evaluations of one update or sampling step, per frame or for a whole panorama."""
        raise NotImplementedError

    def edit(self, given: Input, options: Any) -> tuple[Float[Tensor, "n 3 h w"], dict[str, Any]]:
        """Edit an input with these options; returns the result and the adapter's facts."""
        raise NotImplementedError

    def consistency_measures(
        self, given: Input, edited01: Float[Tensor, "n 3 h w"], options: Any
    ) -> Row:
        """The domain's measures of consistency; options are None for a reference."""
        raise NotImplementedError

    def departures(self, arm: Arm) -> dict[str, Any]:
        """The options of an arm that differ from the preset."""
        return dict(arm.options)

    def options(self, job: Job) -> Any:
        """The options of a job: the user's first, then those of the arm, then those of the preset.

        All arms get the same number of U-Net evaluations: that of csd with the preset's number of
        updates, times the budget. It sets the number of updates of methods that optimise, and of
        sampling steps of the others.
        """
        # What is measured are the prior's own pictures.
        given: dict[str, Any] = {"keep_detail": False, **self._options}
        given |= {"preset": "tiny", "seed": job.seed}
        csd = self.kind(**given, method="csd")
        options = self.kind(**{**self.departures(job.arm), **given, "method": job.arm.method})
        count = job.budget * csd.values().updates * self.cost(csd) / self.cost(options)
        if job.arm.method in RESIDUALS:
            rate = rate_at(job.budget, options.values().learning_rate)
            return dataclasses.replace(options, updates=max(1, round(count)), learning_rate=rate)
        return dataclasses.replace(options, steps=min(max(1, round(count)), _MOST_STEPS))

    def decides(self, job: Job, given: Input) -> dict[str, Any]:
        """Everything but the prior that decides a job's result on an input."""
        contents = {"source": given.source, "truth": given.truth01}
        if job.arm.method is None:
            return {"reference": job.arm.name, **contents}
        options = self.options(job)
        values = {**dataclasses.asdict(options), **dataclasses.asdict(options.values())}
        prompt = given.edit.instructions[0]
        return {
            "options": plain_options({**values, "prompt": prompt}),
            **contents,
        }

    def measure(self, job: Job, given: Input, folder: Path) -> Outcome:
        """Run a method on an input, and measure the result against the truth."""
        del folder  # The adapters write no files.
        facts: dict[str, Any] = {}
        options = None if job.arm.method is None else self.options(job)
        began = time.perf_counter()
        if options is None:
            edited01 = self._reference(job.arm.name, given)
        else:
            asked = dataclasses.replace(options, prompt=given.edit.instructions[0])
            edited01, facts = self.edit(given, asked)
        seconds = time.perf_counter() - began
        row: Row = {"psnr": psnr(edited01, given.truth01), "ssim": ssim(edited01, given.truth01)}
        row |= self.consistency_measures(given, edited01, options)
        if (updates := facts.get("updates_per_cell")) is not None:
            row["fewest_updates"] = updates["min"] / updates["mean"]
        row |= {"evaluations": facts.get("evaluations", 0), "seconds": seconds}
        return Outcome(row, edited01, given.truth01)

    def residuals(self, given: Input, scales: Mapping[ResidualName, Guidance]) -> dict[str, Row]:
        """What methods would still change at the truth of an input's first frame."""
        found = residuals_at_truth(
            self._prior,
            given.source01[0],
            given.truth01[0],
            given.edit.instructions[0],
            scales,
        )
        return {**found}

    def guidance(self, arm: Arm) -> Guidance:
        """The guidance scales with which an arm edits."""
        values = self.options(Job(arm)).values()
        return Guidance(image_scale=values.image_scale, text_scale=values.text_scale)

    def branches(self, options: Any) -> int:
        """Number of noise estimates for one update or sampling step of one image."""
        values = options.values()
        scales = {"image_scale": values.image_scale, "text_scale": values.text_scale}
        if options.method not in RESIDUALS:
            return sampling_branches(**scales)
        return update_branches(
            RESIDUALS[options.method], **scales, source_share=values.source_share
        )

    def _reference(self, name: str, given: Input) -> Float[Tensor, "n 3 h w"]:
        if name == "source":
            return given.source01
        coded = [self._prior.decode(self._prior.encode(image[None])) for image in given.truth01]
        return torch.cat(coded)
