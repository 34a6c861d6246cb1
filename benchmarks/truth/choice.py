"""The benchmark on sets of images with an instruction that has several right answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.engine.identity import plain
from benchmarks.engine.trials import Store
from benchmarks.truth.choice_arms import (
    CHOICE_ABLATIONS,
    CHOICE_ARMS,
    Edited,
    arm_options,
    run_arm,
)
from benchmarks.truth.choice_scores import CHOICE_COLUMNS, Judged
from benchmarks.truth.domains import Job, Outcome
from benchmarks.truth.exact_prior import ExactPrior
from benchmarks.worlds.choices import IMAGES, MEDIA, ChoiceSet, draw_choice_set
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic.scenes import Split


class ChoiceDomain:
    """Sets of views, of frames and of a panorama's tiles, in turn."""

    arms = CHOICE_ARMS
    ablations = CHOICE_ABLATIONS
    columns = CHOICE_COLUMNS
    consistency = "agree"
    baseline = "none-shared-noise"

    def __init__(self, prior: Prior | None, options: Mapping[str, Any], store: Store) -> None:
        """Take a prior, or None for the exact one, and options that replace those of all arms.

        The option `media` says which media the inputs have.
        """
        del store  # Inputs are drawn anew every time, so none are stored.
        self._prior = prior
        self._options = {key: value for key, value in options.items() if key != "media"}
        self._media = options.get("media", MEDIA)

    def draw(self, position: int, split: Split) -> ChoiceSet:
        """The input at a position: the media take turns, and within a medium the kinds do."""
        turn, number = divmod(position, len(self._media))
        return draw_choice_set(self._media[number], turn, split)

    def decides(self, job: Job, given: ChoiceSet) -> dict[str, Any]:
        """Everything but the prior that decides a job's result on an input."""
        contents = {"source": given.source, "truths": given.truths01, "region": given.region}
        if self._prior is None:
            contents["preferences"] = given.preferences
        asked = {"prompt": given.choice.instructions[0], "medium": given.medium}
        if job.arm.method is None:
            return {"reference": job.arm.name, **contents}
        options = plain(self._arm_options(job))
        return {"method": job.arm.method, "seed": job.seed, "options": options, **asked, **contents}

    def measure(self, job: Job, given: ChoiceSet, folder: Path) -> Outcome:
        """Run an arm on a set, and score the result against its answers."""
        del folder  # The arms write no files.
        prior = ExactPrior.of(given) if self._prior is None else self._prior
        began = time.perf_counter()
        if job.arm.method is None:
            edited = Edited(_reference(job.arm.name, prior, given), 0)
        else:
            edited = run_arm(prior, given, job, self._arm_options(job))
        seconds = time.perf_counter() - began
        judged = Judged(edited.image01, given.truths01, given.source01, given.region)
        row = {
            "medium": given.medium,
            "kind": given.choice.kind,
            "answer": given.answers[judged.common],
            **judged.scores(),
            "evaluations": edited.evaluations / IMAGES,
            "seconds": seconds,
        }
        return Outcome(row, edited.image01, given.truths01[judged.common])

    def _arm_options(self, job: Job) -> dict[str, Any]:
        return arm_options(job, self._options, exact=self._prior is None)


def _reference(name: str, prior: Prior, given: ChoiceSet) -> Float[Tensor, "n 3 h w"]:
    """The source, or the first answer through the autoencoder."""
    if name == "source":
        return given.source01
    coded = [prior.decode(prior.encode(image01[None])) for image01 in given.truths01[0]]
    return torch.cat(coded)
