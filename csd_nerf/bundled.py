"""The settings of CSD-Edit that were tuned for the bundled prior, `tiny`, on validation inputs.

Presets, training's card and benchmarks all take them from here. So does what users are told of the
bundled priors. This module imports nothing heavy, since the command line needs it for its help.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

LISTED_BY = "csd-nerf edits"
"""The command that lists what the bundled priors know."""

UPDATES = 30
"""Number of updates of each image of a scene or video."""
DECAYS = 6
"""Number of decays of the learning rate in a run."""
TUNED: dict[str, Any] = {
    "learning_rate": 2.0,
    # No guidance beyond the instruction itself.
    "text_scale": 1.0,
    "image_scale": 1.0,
    "t_range": (0.02, 0.8),
    "t_order": "falling-first",
    "normalize": "rowsum",
    # For Stein mixing: particles that share one noise need no repulsion.
    "repulsion": 0.0,
}
"""Fields of `EditSettings` that differ from the paper's values, for scenes and videos, with any
mixing."""
TUNED_MIXING: dict[str, Any] = {
    "mixing": "patch",
    "noise": "independent",
    "source_share": 0.25,
}
"""Mixing for all media. Images that are mixed by patches agree with less of the source's estimate
too, and come nearer to the answer."""
TUNED_PANORAMA: dict[str, Any] = {
    # Windows overlap, so that an update of all cells takes more windows than tiles.
    "updates": 20,
    "learning_rate": 4.0,
    "t_range": (0.02, 0.95),
    "t_order": "falling",
}
"""What differs from `TUNED` for panoramas, with any mixing."""
TUNED_SDS: dict[str, Any] = {"t_range": (0.02, 0.95), "t_order": "random"}
"""What differs from `TUNED` for SDS, in scenes and videos."""
TUNED_RUN: dict[str, Any] = {
    **TUNED,
    **TUNED_MIXING,
    "iterations": UPDATES,
    # Rounded up.
    "decay_every": -(-UPDATES // DECAYS),
}
"""All fields for a run on a scene or a video that updates all images at every iteration."""


def notices_of_unknown(prior: str, prompts: Iterable[str]) -> list[str]:
    """One line for each prompt that a bundled prior doesn't know; empty for all other priors.

    Args:
        prior: Name of the prior.
        prompts: The instructions, or for `tiny-text` the descriptions of objects. Empty ones are
            skipped.
    """
    asked = dict.fromkeys(prompt for prompt in prompts if prompt.strip())
    told = (_notice_of_unknown(prior, one) for one in asked)
    return [line for line in told if line is not None]


# The viewer asks anew whenever something changes, and the search for near texts takes long.
@lru_cache(maxsize=128)
def _notice_of_unknown(prior: str, prompt: str) -> str | None:
    # Late: the command line's help needs none of it.
    from csd_nerf.synthetic import known

    groups = {"tiny": known.instructions, "tiny-text": known.objects}
    if prior not in groups:
        return None
    return known.notice_of_unknown(prompt, groups[prior](), listed_by=LISTED_BY)


def keeps_detail(prior: str, prompts: Iterable[str]) -> bool:
    """Whether an edit keeps the fine detail of photographs unless its options say otherwise.

    So it is for looks with the bundled prior. They change the whole picture's colours and leave its
    shapes; and the prior works at 64 pixels, where it can't make such detail.

    Args:
        prior: Name of the prior.
        prompts: The instructions; empty ones are skipped.

    Returns:
        True if the prior is `tiny`, and there are instructions, all of which are known looks.
    """
    from csd_nerf.synthetic import known

    looks = {"look": known.instructions()["look"]}
    asked = [prompt for prompt in prompts if prompt.strip()]
    return prior == "tiny" and bool(asked) and all(known.is_known(one, looks) for one in asked)
