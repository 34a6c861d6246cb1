"""The arguments of measures: an edit with its source and its truth, whole or by frames."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.evaluation.consistency import Borders
from csd_nerf.evaluation.cross_view import CrossViewError, cross_view_error
from csd_nerf.evaluation.inputs import ImageSequence, at_work_size, find_borders
from csd_nerf.evaluation.networks import Networks
from csd_nerf.synthetic.edits import Edit


@dataclass(frozen=True)
class CrossView:
    """Cross-view errors of neighbouring views; see `cross_view_error`.

    Attributes:
        source: Mean error of the source over all compared pixels; NaN if none was compared.
        edited: Mean error of the edit over the same pixels.
        seen: Share of the pixels that were compared, in [0, 1].
    """

    source: float
    edited: float
    seen: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """One edit with its references; values that several measures need are computed once."""

    source: ImageSequence
    edited: ImageSequence
    networks: Networks
    truth: ImageSequence | Edit | None = None
    """The true edit: frames, or a look to apply to the source; None if not known."""
    captions: tuple[str, str] | None = None
    """Descriptions of the source and of the wanted edit; None if not given."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts in the record beside the edit; see `read_facts`."""
    device: str = "cpu"
    """Device to which samples are moved."""

    @property
    def truth_size(self) -> tuple[int, int] | None:
        """Height and width of the true edit; for a look those of the source, without truth None."""
        if self.truth is None:
            return None
        return self.source.size if isinstance(self.truth, Edit) else self.truth.size

    @cached_property
    def borders(self) -> tuple[Borders, int] | None:
        """Borders of the windows of a single edited picture; see `find_borders`."""
        return find_borders(dict(self.facts)) if self.edited.count == 1 else None

    @property
    def wrap(self) -> bool:
        """Whether the left and right edges of the edited picture meet."""
        return bool(self.facts.get("wrap"))

    @property
    def source_features(self) -> Float[Tensor, "n d"]:
        """CLIP features of the source's frames."""
        return self.networks.image_features(self.source)

    @property
    def edited_features(self) -> Float[Tensor, "n d"]:
        """CLIP features of the edit's frames."""
        return self.networks.image_features(self.edited)

    @property
    def caption_features(self) -> tuple[Float[Tensor, "1 d"], Float[Tensor, "1 d"]]:
        """CLIP features of both captions."""
        assert self.captions is not None
        source, edited = self.networks.text_features(self.captions).split(1)
        return source, edited

    @cached_property
    def cross_view(self) -> CrossView:
        """Cross-view errors of neighbours in the order of names; two views at a time in memory."""
        views, size = self.source.views, self.source.size
        assert views is not None
        lens = views.intrinsics(size)
        distances = (views.distance(view, size) for view in range(self.source.count))
        posed = itertools.pairwise(zip(distances, self.source, self.edited, strict=True))

        def error(pair: int, distance: Tensor, *image01: Tensor) -> CrossViewError:
            two = slice(pair, pair + 2)
            poses = views.camera_to_world[two]
            return cross_view_error(torch.cat(image01), distance, poses, lens[two])

        results = []
        for pair, (before, now) in enumerate(posed):
            distance = torch.stack([before[0], now[0]])
            results.append([error(pair, distance, before[i], now[i]) for i in (1, 2)])
        seen = sum(of_source.seen for of_source, _ in results)
        if not seen:
            return CrossView(math.nan, math.nan, 0.0)
        source, edited = (
            sum(result.error * result.seen for result in kind if result.seen) / seen
            for kind in zip(*results, strict=True)
        )
        return CrossView(source, edited, seen / len(results))


@dataclass(frozen=True, eq=False)
class Sample:
    """The same frame, or pair of consecutive frames, of source, edit and truth.

    Sizes may differ.
    """

    comparison: Comparison
    source01: Float[Tensor, "n 3 source_h source_w"]
    edited01: Float[Tensor, "n 3 edited_h edited_w"]
    known01: Float[Tensor, "n 3 truth_h truth_w"] | None
    """The true edit; None if it is not known."""

    @property
    def truth01(self) -> Float[Tensor, "n 3 truth_h truth_w"]:
        """The true edit, for measures that need it."""
        assert self.known01 is not None, "A measure that reads the truth must need TRUTH."
        return self.known01

    @cached_property
    def at_work_size(self) -> Sample:
        """The sample resized to the size of the edit; unchanged if the record doesn't hold it."""
        facts, truth = dict(self.comparison.facts), self.comparison.truth
        if "work_size" not in facts:
            return self
        source01, edited01 = (at_work_size(i, facts) for i in (self.source01, self.edited01))
        if isinstance(truth, Edit):
            return Sample(self.comparison, source01, edited01, truth.edit_image(source01))
        known01 = None if self.known01 is None else at_work_size(self.known01, facts)
        return Sample(self.comparison, source01, edited01, known01)

    def and_next(self, following: Sample) -> Sample:
        """Concatenate this sample and the following one to a pair."""
        known01 = None
        if self.known01 is not None and following.known01 is not None:
            known01 = torch.cat([self.known01, following.known01])
        return Sample(
            self.comparison,
            torch.cat([self.source01, following.source01]),
            torch.cat([self.edited01, following.edited01]),
            known01,
        )


def samples(comparison: Comparison) -> Iterator[Sample]:
    """Samples of all frames of a comparison, one at a time, on its device."""
    truth, device = comparison.truth, comparison.device
    truths = truth if isinstance(truth, ImageSequence) else itertools.repeat(None)
    for source01, edited01, truth01 in zip(
        comparison.source, comparison.edited, truths, strict=False
    ):
        source01, edited01 = source01.to(device), edited01.to(device)
        if isinstance(truth, Edit):
            truth01 = truth.edit_image(source01)
        yield Sample(
            comparison, source01, edited01, None if truth01 is None else truth01.to(device)
        )
