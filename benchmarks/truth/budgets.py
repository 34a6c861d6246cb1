"""Converts a budget of U-Net evaluations to updates or sampling steps."""

from __future__ import annotations

import math

from csd_nerf.core.residuals import EDIT_RESIDUALS, ResidualName, edit_guidance


def update_branches(
    residual: ResidualName, *, image_scale: float, text_scale: float, source_share: float = 1.0
) -> int:
    """Number of noise estimates for one update of one image.

    Estimates whose weight is zero at these scales and this share are not evaluated, so the cost of
    an update differs between methods.
    """
    terms = EDIT_RESIDUALS[residual](
        image_scale=image_scale, text_scale=text_scale, source_share=source_share
    )
    return len(terms.weights)


def sampling_branches(*, image_scale: float, text_scale: float) -> int:
    """Number of noise estimates for one sampling step of one image; see `update_branches`."""
    return len(edit_guidance("target", image_scale=image_scale, text_scale=text_scale).weights)


def rate_at(budget: float, rate: float) -> float:
    """The learning rate at a budget: rate / sqrt(budget), since fewer updates need longer steps.

    The exponent was chosen on validation inputs.
    """
    return rate / math.sqrt(budget)
