"""An editing prior for a set of images whose right answers are known, without a network.

The prior diffuses images averaged over squares of `CELL` pixels, scaled to [-1, 1]. With an
instruction it believes that image i is one of its right answers a_i,k:

    p(x) = sum over k of pi_i,k N(x; a_i,k, spread^2 I),

with preferences pi that depend on the image. Without an instruction it believes in the source alone
(the same with one answer), without an image in a unit Gaussian. Its noise estimates are exact: with
v = sigma_t^2 + alpha_t^2 spread^2,

    p(k | z) proportional to pi_k exp(-|z - alpha_t a_k|^2 / 2v),
    E[x | z] = sum over k of p(k | z) (a_k + alpha_t spread^2 / v (z - alpha_t a_k)),
    e(z) = (z - alpha_t E[x | z]) / sigma_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.nn import functional

from benchmarks.worlds.choices import ChoiceSet, join_tiles
from csd_nerf.core.rows import Rows
from csd_nerf.core.schedules import DiscreteSchedule, Schedule
from csd_nerf.priors.base import Branch

CELL = 4
"""Pixels along an edge of a latent cell."""
SPREAD = 0.1
"""Standard deviation of a value around an answer, in the latent's scale."""


class ExactPrior:
    """A `Prior` of one set of images; see the module."""

    name = "exact"
    device = torch.device("cpu")
    schedule: Schedule = DiscreteSchedule.scaled_linear()
    latent_channels = 3
    cell_size = CELL
    preferred_size = 64
    size_multiple = CELL
    source_rows: tuple[str, ...] = ("condition",)

    def __init__(
        self,
        source01: Float[Tensor, "m 3 H W"],
        truths01: Float[Tensor, "k m 3 H W"],
        preferences: Float[Tensor, "m k H W"],
        *,
        spread: float = SPREAD,
    ) -> None:
        """Take the images, their answers, and each answer's probability at each pixel.

        An image or window has the geometric mean of its pixels' probabilities, normalised.
        """
        self._spread = spread
        latents = [self.encode(image01) for image01 in (source01, *truths01)]
        self._condition = torch.cat([*latents, functional.avg_pool2d(preferences.log(), CELL)], 1)

    @classmethod
    def of(cls, given: ChoiceSet) -> ExactPrior:
        """The prior of a set; a panorama is one image, so that any window can be asked for."""
        preferences = given.preferences[:, :, None, None].expand(-1, -1, *given.source.shape[1:3])
        if given.medium != "panorama":
            return cls(given.source01, given.truths01, preferences)
        truths = torch.stack([join_tiles(truth) for truth in given.truths01])
        return cls(join_tiles(given.source01), truths, join_tiles(preferences))

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Average over cells, and scale to [-1, 1]."""
        return functional.avg_pool2d(2 * image01 - 1, CELL)

    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Enlarge bilinearly."""
        large = functional.interpolate(latent, scale_factor=CELL, mode="bilinear")
        return (large / 2 + 0.5).clamp(0, 1)

    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """Encode, and find the images, or windows of one, among those that the prior knows.

        The row `condition` holds source, answers and log preferences as maps, so that windows can
        be cut out of it.
        """
        latent = self.encode(image01)
        size = (latent.shape[2], latent.shape[3])
        known = functional.unfold(self._condition, size).transpose(1, 2).flatten(0, 1)
        known = known.view(len(known), -1, *size)
        away = torch.cdist(latent.flatten(1), known[:, :3].flatten(1))
        return latent, {"condition": known[away.argmin(1)]}

    def encoding_tiles(self, sample01: Float[Tensor, "n 3 H W"]) -> AbstractContextManager[None]:
        """Tiles need no statistics of the whole."""
        del sample01
        return nullcontext()

    def decoding_tiles(self, sample: Float[Tensor, "n c h w"]) -> AbstractContextManager[None]:
        """Tiles need no statistics of the whole."""
        del sample
        return nullcontext()

    def encode_text(self, prompts: Sequence[str], image_rows: Rows | None = None) -> Rows:
        """One number a prompt: whether there is one. Any instruction asks for the set's choice."""
        del image_rows
        return {"text": torch.tensor([float(prompt != "") for prompt in prompts])}

    def free_text_encoder(self) -> None:
        """There is none."""

    def predict(
        self,
        branches: Sequence[Branch],
        timestep: Real[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """The exact noise estimates; see the module."""
        del max_batch
        return torch.stack([self._estimate(branch, timestep) for branch in branches])

    def _estimate(self, branch: Branch, timestep: Real[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
        alpha = self.schedule.alpha(timestep)[:, None, None, None]
        sigma = self.schedule.sigma(timestep)[:, None, None, None]
        noisy = branch.noisy
        if "condition" not in branch.rows:
            return sigma * noisy
        condition = branch.rows["condition"]
        # Three channels of the source, three for each answer, one log preference for each.
        count = (condition.shape[1] - 3) // 4
        if bool(branch.rows["text"].any()):
            centres = condition[:, 3 : 3 + 3 * count].unflatten(1, (count, 3))
            logits = condition[:, 3 + 3 * count :].mean((2, 3))
        else:
            centres, logits = condition[:, None, :3], torch.zeros(len(noisy), 1)
        variance = sigma.square() + (alpha * self._spread).square()
        off = noisy[:, None] - alpha[:, None] * centres
        logits = logits - off.square().sum((2, 3, 4)) / (2 * variance[:, 0, :, 0])
        share = logits.softmax(1)[:, :, None, None, None]
        gain = (alpha * self._spread**2 / variance)[:, None]
        clean = (share * (centres + gain * off)).sum(1)
        return (noisy - alpha * clean) / sigma
