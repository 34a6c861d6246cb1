"""The methods of the benchmark on scenes, and what each makes of one budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.truth.budgets import sampling_branches, update_branches

EDIT_STEPS = 480
"""Training steps of every method after editing has begun."""
ROUNDS = 3
ROUND_VIEWS = 16
"""Views that csd edits together; all views of a scene have their turn in `ROUNDS` rounds."""
UPDATES = 20
"""Iterations of csd a round."""
IN2N_EVERY = 10
"""Training steps between Instruct-NeRF2NeRF's rounds of one view."""
DENOISING_STEPS = 20
"""Sampling steps of Instruct-NeRF2NeRF a view."""
DECAYS = 6
"""Decays of the learning rate in a round."""

# As the tiny preset has them for videos, tuned there on validation inputs.
_OPTIMISED = {
    "text_scale": 1.25,
    "image_scale": 1.0,
    "normalize": "rowsum",
    "t_range": (0.02, 0.8),
    "repulsion": 0.0,
    "learning_rate": 2.0,
}
_SAMPLED = {"text_scale": 2.0, "image_scale": 1.5}
SCENE_ARMS: dict[str, dict[str, Any]] = {
    "source": {},
    "autoencoder": {},
    "ip2p": {"update": "ip2p", **_SAMPLED},
    # As published, photographs that are not edited yet stay among the training images.
    "in2n": {"update": "in2n", "only_edited_views": False, **_SAMPLED},
    "csd-no-stein": {**_OPTIMISED, "mixing": "none"},
    "sds": {
        **_OPTIMISED,
        "mixing": "none",
        "residual": "sds",
        "text_scale": 1.0,
        "learning_rate": 1.0,
    },
    "csd": _OPTIMISED,
}
"""What each method sets of `EditSettings`, of the pipeline and of the datamanager.

source is the unedited scene. autoencoder is trained on the true edits, encoded and decoded: what
a perfect editor could reach with this prior, this scene model and this training.
"""
REFERENCES = ("source", "autoencoder")
"""Arms that edit nothing."""


@dataclass(frozen=True)
class ArmPlan:
    """How a method spends its budget.

    Attributes:
        edit_steps: Training steps after editing has begun.
        edit_every: Training steps between rounds.
        edit_views: Views a round.
        denoising_steps: Sampling steps a view, for methods that sample.
        iterations: Iterations a round, for methods that optimise.
        evaluations: U-Net evaluations of all rounds.
    """

    edit_steps: int
    edit_every: int
    edit_views: int
    denoising_steps: int
    iterations: int
    evaluations: int

    def options(self) -> dict[str, Any]:
        """The scene method's options; editing begins at once, as the source is loaded."""
        return {
            "source_steps": 0,
            "edit_steps": self.edit_steps,
            "edit_every": self.edit_every,
            "edit_views": self.edit_views,
            "denoising_steps": self.denoising_steps,
            "iterations": self.iterations,
            "decay_every": -(-self.iterations // DECAYS),
        }


def plan_arm(name: str, options: Mapping[str, Any], *, budget: float = 1.0) -> ArmPlan:
    """Give a method as many U-Net evaluations as csd makes, times a budget.

    csd and what departs from it get more or fewer iterations, ip2p sampling steps, and in2n rounds
    of one view, or of more where rounds would come more often than published.

    Args:
        name: One of `SCENE_ARMS`.
        options: What replaces the method's own settings; `updates` and `edit_steps` replace
            `UPDATES` and `EDIT_STEPS`.
        budget: In those evaluations that csd makes by its own settings.
    """
    edit_steps, updates = options.get("edit_steps", EDIT_STEPS), options.get("updates", UPDATES)
    views, every = ROUNDS * ROUND_VIEWS, -(-edit_steps // ROUNDS)
    total = budget * updates * views * _branches({**SCENE_ARMS["csd"], **_scales(options)})
    arm = {**SCENE_ARMS[name], **options}
    update = arm.get("update", "csd")
    if name in REFERENCES:
        return ArmPlan(edit_steps, edit_steps, 1, 1, 1, 0)
    branches = _branches(arm)
    if update == "ip2p":
        steps = max(1, round(total / views / branches))
        count = views * steps * branches
        return ArmPlan(edit_steps, every, ROUND_VIEWS, steps, 1, count)
    if update == "in2n":
        edits = max(1, round(total / DENOISING_STEPS / branches))
        each = -(-edits * IN2N_EVERY // edit_steps)
        every = max(1, edit_steps // max(1, round(edits / each)))
        rounds = -(-edit_steps // every)
        count = rounds * each * DENOISING_STEPS * branches
        return ArmPlan(edit_steps, every, each, DENOISING_STEPS, 1, count)
    iterations = max(1, round(total / views / branches))
    return ArmPlan(edit_steps, every, ROUND_VIEWS, 1, iterations, views * iterations * branches)


def _scales(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("text_scale", "image_scale") if key in options}


def _branches(arm: Mapping[str, Any]) -> int:
    scales = {"image_scale": arm["image_scale"], "text_scale": arm["text_scale"]}
    if arm.get("update", "csd") != "csd":
        return sampling_branches(**scales)
    return update_branches(arm.get("residual", "csd"), **scales)
