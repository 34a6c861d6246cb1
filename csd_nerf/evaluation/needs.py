"""Conditions that measures need, with the reasons that are reported if they are not met."""

from __future__ import annotations

from collections.abc import Callable

from csd_nerf.evaluation.comparison import Comparison
from csd_nerf.evaluation.networks import Name

Need = Callable[[Comparison], str | None]
"""A condition on a comparison; returns None if it is met, else the reason."""


def _met_if(condition: Callable[[Comparison], bool], otherwise: str) -> Need:
    return lambda comparison: None if condition(comparison) else otherwise


TRUTH = _met_if(lambda of: of.truth is not None, "it needs --truth or --look")
CAPTIONS = _met_if(
    lambda of: of.captions is not None, "it needs --source-caption and --edited-caption"
)
TWO_FRAMES = _met_if(lambda of: of.edited.count > 1, "it needs two frames or more")
BORDERS = _met_if(
    lambda of: of.borders is not None,
    "it needs a picture with the record of csd-nerf panorama beside it",
)


def _views(comparison: Comparison) -> str | None:
    """Needs poses and depth of the source's frames."""
    return comparison.source.obstacle if comparison.source.views is None else None


VIEWS: Need = _views


def _network(name: Name) -> Need:
    return lambda comparison: comparison.networks.obstacle(name)


CLIP, LPIPS, INCEPTION = _network("CLIP"), _network("LPIPS"), _network("Inception")


def _same_size(one: str, other: str) -> Need:
    """Needs equal sizes of two of source, edit and truth, if both are given."""

    def need(comparison: Comparison) -> str | None:
        sizes = {
            "source": comparison.source.size,
            "edit": comparison.edited.size,
            "truth": comparison.truth_size,
        }
        first, second = sizes[one], sizes[other]
        if first is None or second is None or first == second:
            return None
        return (
            f"it needs equal sizes, got {first[1]} x {first[0]} in the {one} and {second[1]} x "
            f"{second[0]} in the {other}; resize one"
        )

    return need


TRUTH_LIKE_EDIT = _same_size("truth", "edit")
TRUTH_LIKE_SOURCE = _same_size("truth", "source")
SOURCE_LIKE_EDIT = _same_size("source", "edit")
SAME_SIZES = (TRUTH_LIKE_EDIT, TRUTH_LIKE_SOURCE, SOURCE_LIKE_EDIT)
"""The needs of measures that compare pixels."""
