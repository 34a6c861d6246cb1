"""The methods of the benchmark on scenes, and how each spends its budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.truth.budgets import sampling_branches, update_branches
from csd_nerf.core.settings import EditSettings

EDIT_STEPS = 480
"""Training steps of the editing stage, for every method."""
ROUNDS = 3
ROUND_VIEWS = 16
"""Number of views that csd edits in a round; `ROUNDS` rounds edit all views of a scene."""
UPDATES = 20
"""Iterations of csd per round."""
IN2N_EVERY = 10
"""Training steps between Instruct-NeRF2NeRF's rounds of one view."""
DENOISING_STEPS = 20
"""Sampling steps of Instruct-NeRF2NeRF per view."""
DECAYS = 6
"""Number of decays of the learning rate in a round."""
_UNIT = {"text_scale": 1.25, "image_scale": 1.0}
"""Scales of the csd whose evaluations are the unit of the budget, whatever its tuned scales are: an
update takes three."""

SCENE_ARMS: dict[str, dict[str, Any]] = {
    "source": {},
    "autoencoder": {},
    "ip2p": {"update": "ip2p"},
    # As published, training also uses photographs that are not edited yet.
    "in2n": {"update": "in2n", "only_edited_views": False},
    "csd-no-stein": {"mixing": "none"},
    "sds": {"mixing": "none", "residual": "sds"},
    "csd": {},
}
"""The options that define each method, for `EditSettings`, the pipeline and the datamanager.

Rates and scales are not among them: they are tuned, see `tuned`. source is the unedited scene.
autoencoder is trained on the true edits after encoding and decoding, which is the result of a
perfect editor with this prior, scene model and training.
"""
PLANNED = ("updates", "rounds", "round_views")
"""Options that `plan_arm` alone reads; `edit_steps` is the pipeline's too."""
REFERENCES = ("source", "autoencoder")
"""Arms that are references."""


@dataclass(frozen=True)
class ArmPlan:
    """How a method spends its budget.

    Attributes:
        edit_steps: Training steps of the editing stage.
        edit_every: Training steps between rounds.
        edit_views: Views per round.
        denoising_steps: Sampling steps per view, for methods that sample.
        iterations: Iterations per round, for methods that optimise.
        evaluations: Number of U-Net evaluations of all rounds.
    """

    edit_steps: int
    edit_every: int
    edit_views: int
    denoising_steps: int
    iterations: int
    evaluations: int

    def options(self) -> dict[str, Any]:
        """The options of the scene method; editing begins at once, since the source is loaded."""
        return {
            "source_steps": 0,
            "edit_steps": self.edit_steps,
            "edit_every": self.edit_every,
            "edit_views": self.edit_views,
            "denoising_steps": self.denoising_steps,
            "iterations": self.iterations,
            "decay_every": -(-self.iterations // DECAYS),
        }


def plan_arm(
    name: str,
    options: Mapping[str, Any],
    *,
    budget: float = 1.0,
    csd: Mapping[str, Any] | None = None,
) -> ArmPlan:
    """Plan a method so that it makes as many U-Net evaluations as csd, times the budget.

    The budget sets the number of iterations of methods that optimise, the sampling steps of ip2p,
    and the number of rounds of in2n. A round of in2n has one view; it has more if rounds would be
    more frequent than published.

    Args:
        name: One of `SCENE_ARMS`.
        options: Options that replace those of the method; `updates`, `edit_steps`, `rounds` and
            `round_views` replace the constants of these names. With other rounds of csd its
            iterations change, so that the evaluations stay.
        budget: Number of U-Net evaluations, relative to that of csd.
        csd: The `updates`, `image_scale` and `text_scale` of csd that set the budget; missing ones
            are those of `_UNIT`. None takes them from `options`.
    """
    csd = options if csd is None else csd
    edit_steps, updates = options.get("edit_steps", EDIT_STEPS), csd.get("updates", UPDATES)
    rounds, each = options.get("rounds", ROUNDS), options.get("round_views", ROUND_VIEWS)
    views, every = rounds * each, -(-edit_steps // rounds)
    total = budget * updates * ROUNDS * ROUND_VIEWS * _branches({**_UNIT, **_scales(csd)})
    arm = {**SCENE_ARMS[name], **options}
    update = arm.get("update", "csd")
    if name in REFERENCES:
        return ArmPlan(edit_steps, edit_steps, 1, 1, 1, 0)
    branches = _branches(arm)
    if update == "ip2p":
        steps = max(1, round(total / views / branches))
        count = views * steps * branches
        return ArmPlan(edit_steps, every, each, steps, 1, count)
    if update == "in2n":
        edits = max(1, round(total / DENOISING_STEPS / branches))
        each = -(-edits * IN2N_EVERY // edit_steps)
        every = max(1, edit_steps // max(1, round(edits / each)))
        rounds = -(-edit_steps // every)
        count = rounds * each * DENOISING_STEPS * branches
        return ArmPlan(edit_steps, every, each, DENOISING_STEPS, 1, count)
    iterations = max(1, round(total / views / branches))
    return ArmPlan(edit_steps, every, each, 1, iterations, views * iterations * branches)


def _scales(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("text_scale", "image_scale") if key in options}


def _branches(arm: Mapping[str, Any]) -> int:
    scales = {
        "image_scale": arm.get("image_scale", EditSettings.image_scale),
        "text_scale": arm.get("text_scale", EditSettings.text_scale),
    }
    if arm.get("update", "csd") != "csd":
        return sampling_branches(**scales)
    share = arm.get("source_share", 1.0)
    return update_branches(arm.get("residual", "csd"), **scales, source_share=share)
