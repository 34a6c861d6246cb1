"""The benchmark on videos, of what makes an edit cheaper: banks, orders of timesteps, few steps.

All arms have the preset's mixing. With `--budgets` the curves show quality by evaluations. A budget
sets the number of updates; a bank then takes fewer evaluations for the same updates.
"""

from __future__ import annotations

from typing import Any

from benchmarks.truth.domains import Arm, banked
from benchmarks.truth.videos import VideoDomain

STOPS = (0.002, 0.004, 0.01)
"""Bounds of the mean step, below which an edit ends."""
GUIDED: dict[str, Any] = {"text_scale": 1.5, "image_scale": 1.5}
"""Scales at which an update takes five evaluations, as with InstructPix2Pix."""


_USUAL = "csd-patch-own-noise-share"
"""The arm of videos with the preset's options."""


class CostVideoDomain(VideoDomain):
    """Videos, edited at less cost."""

    arms = (
        Arm("source", None),
        Arm("autoencoder", None),
        # The preset: falling in the first half, then random.
        Arm("usual", "csd", tuned_as=_USUAL),
        Arm("random", "csd", {"t_order": "random"}),
        Arm("falling", "csd", {"t_order": "falling"}),
        *banked("bank", "csd", {}, tuned_as=_USUAL),
        *(Arm(f"stop-{bound}", "csd", {"stop_below": bound}, tuned_as=_USUAL) for bound in STOPS),
        Arm("guided", "csd", GUIDED),
        *banked("guided-bank", "csd", GUIDED, tuned_as="guided"),
    )
    ablations = ()
    baseline = "usual"
