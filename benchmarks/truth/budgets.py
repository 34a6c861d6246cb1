"""How a budget of U-Net evaluations becomes updates or sampling steps."""

from __future__ import annotations

import math

from csd_nerf.core.residuals import EDIT_RESIDUALS, ResidualName, edit_guidance


def update_branches(residual: ResidualName, *, image_scale: float, text_scale: float) -> int:
    """Estimates that one update of one image takes.

    An estimate whose weight is zero at these scales is not evaluated, so that methods differ in
    what an update costs.
    """
    terms = EDIT_RESIDUALS[residual](image_scale=image_scale, text_scale=text_scale)
    return len(terms.weights)


def sampling_branches(*, image_scale: float, text_scale: float) -> int:
    """Estimates that one sampling step of one image takes; see `update_branches`."""
    return len(edit_guidance("target", image_scale=image_scale, text_scale=text_scale).weights)


def rate_at(budget: float, rate: float) -> float:
    """The learning rate at a budget: fewer updates need longer steps.

    It goes with budget^(-1/2), which suits validation inputs.
    """
    return rate / math.sqrt(budget)
