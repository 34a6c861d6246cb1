"""Scores of an edited set of images whose instruction has several right answers.

Symbols: n images x_i, K answers with true results a_k,i, sources s_i, and in each image the region
R_i that an answer changes. D_R(x, y) is the mean squared difference over R and the three channels,
D that over the whole image, PSNR(x, y) = -10 log10 D(x, y). All images are in [0, 1].

The answer of an image is the a_k,i nearest to it in D_R, or none if its source is nearer: an
unchanged image has no answer. The common answer of a set is the k with the largest mean PSNR over
the set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd_nerf.evaluation.tables import Column, Row

CHOICE_COLUMNS = (
    Column("agree", "images with the commonest answer, %", 100, 0, "higher"),
    Column("changed", "images changed, %", 100, 0, "higher"),
    Column("psnr", "PSNR to the common answer", digits=2, better="higher"),
    Column("psnr_nearest", "to the nearest answer", digits=2, better="higher"),
    Column("blend", "distance to the nearest answer", digits=2, better="lower"),
    Column("blends", "blends, %", 100, 0, "lower"),
    Column("spread", "spread over images, x1000", 1000, 0, "lower"),
    Column("psnr_outside", "PSNR outside the target", digits=2, better="higher"),
)
BLEND = 0.25
"""From this distance to the nearest answer on, in units of the answers' distance, an image counts
as a blend."""


@dataclass(frozen=True)
class Judged:
    """An edited set and what it is judged by."""

    edited01: Float[Tensor, "n 3 h w"]
    truths01: Float[Tensor, "k n 3 h w"]
    source01: Float[Tensor, "n 3 h w"]
    region: Bool[Tensor, "n h w"]

    @property
    def common(self) -> int:
        """The common answer of the set."""
        return int(self._psnr().mean(1).argmax())

    def scores(self) -> Row:
        """All scores by the keys of `CHOICE_COLUMNS`; a score that doesn't exist is None."""
        distances, psnr = self.distances(), self._psnr()
        return {
            "agree": self.agreement(),
            "changed": self.changed(),
            "psnr": float(psnr.mean(1).max()),
            "psnr_nearest": float(psnr.amax(0).mean()),
            "blend": float(distances.mean()) if len(distances) else None,
            "blends": float((distances > BLEND).float().mean()) if len(distances) else None,
            "spread": self.spread(),
            "psnr_outside": self.psnr_outside(),
        }

    def answers(self) -> Int[Tensor, "n"]:
        """The answer of each image; K for none: argmin of D_R over a_1,i ... a_K,i and s_i."""
        others = torch.cat([self.truths01, self.source01[None]])
        return self._errors(self.edited01, others).argmin(0)

    def agreement(self) -> float:
        """Share of images with the commonest answer: max over k of #{i: answer of i is k} / n."""
        count = len(self.truths01)
        return int(self.answers().bincount(minlength=count + 1)[:count].max()) / len(self.source01)

    def changed(self) -> float:
        """Share of images that have an answer."""
        return float((self.answers() < len(self.truths01)).float().mean())

    def distances(self) -> Float[Tensor, "changed"]:
        """Distance of each changed image to its nearest answer, in units of the answers' distance.

        sqrt(D_R(x, a) / D_R(a, b)) with the nearest answer a and the second nearest b. It is 0 for
        an answer and 0.5 for the mean of two.
        """
        near = self._errors(self.edited01, self.truths01).argsort(0)
        images = torch.arange(len(self.source01))
        first, second = (self.truths01[near[rank], images] for rank in range(2))
        found = self._errors(self.edited01, first[None]) / self._errors(second, first[None])
        return found[0].sqrt()[self.answers() < len(self.truths01)]

    def spread(self) -> float:
        """How much the result varies over the images beyond the common answer.

        With the mean colour m_i of x_i over R_i, minus that of the common answer's truth:
        sqrt(mean over channels of the population variance of m_i over i).
        """
        off = self._colours(self.edited01) - self._colours(self.truths01[self.common])
        return float(off.var(0, unbiased=False).mean().sqrt())

    def psnr_outside(self) -> float | None:
        """Mean PSNR to the common answer outside of R_i; None if there is no outside."""
        outside = ~self.region
        seen = outside.any((1, 2))
        if not seen.any():
            return None
        truth = self.truths01[self.common]
        error = masked_error(self.edited01[seen], truth[seen], outside[seen])
        return float((-10 * error.log10()).mean())

    def _psnr(self) -> Float[Tensor, "k n"]:
        return -10 * (self.edited01 - self.truths01).square().mean((2, 3, 4)).log10()

    def _errors(
        self, image01: Float[Tensor, "n 3 h w"], others01: Float[Tensor, "j n 3 h w"]
    ) -> Float[Tensor, "j n"]:
        """D_R of the images and each of j others."""
        return torch.stack([masked_error(image01, other, self.region) for other in others01])

    def _colours(self, image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3"]:
        mask = self.region[:, None].to(image01)
        return (image01 * mask).sum((2, 3)) / mask.sum((2, 3))


def variety(answers: Sequence[str]) -> Row:
    """How many different common answers the seeds of an input have.

    `variety` is their number, `entropy` is -sum over answers of p log2 p in bits, where p is the
    answer's share of the seeds. Always the same answer has 1 and 0.
    """
    shares = [answers.count(answer) / len(answers) for answer in sorted(set(answers))]
    return {
        "variety": len(shares),
        "entropy": sum(-share * math.log2(share) for share in shares),
    }


VARIETY_COLUMNS = (
    Column("variety", "different common answers", digits=2, better="higher"),
    Column("entropy", "their entropy, bits", digits=2, better="higher"),
)


def masked_error(
    image01: Float[Tensor, "n 3 h w"],
    other01: Float[Tensor, "n 3 h w"],
    mask: Bool[Tensor, "n h w"],
) -> Float[Tensor, "n"]:
    """Mean squared difference over the mask of each image and the channels."""
    weight = mask[:, None].to(image01)
    squares = ((image01 - other01).square() * weight).sum((1, 2, 3))
    return squares / (3 * weight.sum((1, 2, 3)))
