"""How a budget of U-Net evaluations becomes updates or sampling steps."""

from __future__ import annotations

import math

from csd_nerf.core.guidance import Baseline, edit_weights

SAMPLING_BRANCHES = 3
"""Estimates of Eq. 3 a sampling step."""


def update_branches(*, image_scale: float, text_scale: float, baseline: Baseline) -> int:
    """Estimates of Eq. 9 that one update of one image takes.

    An estimate whose weight is zero at these scales is not evaluated, so that methods differ in
    what an update costs.
    """
    weights = edit_weights(
        image_scale=image_scale, text_scale=text_scale, baseline=baseline
    )._asdict()
    return sum(weight != 0 for name, weight in weights.items() if name != "noise")


def rate_at(budget: float, rate: float) -> float:
    """The learning rate at a budget: fewer updates need longer steps.

    It goes with budget^(-1/2), which suits validation inputs.
    """
    return rate / math.sqrt(budget)
