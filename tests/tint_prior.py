"""An editing prior in pixel space whose edit is known."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from csd_nerf.core.schedules import NoiseSchedule
from csd_nerf.priors import Branch


class TintPrior:
    """A prior in pixel space that knows the edit: swap red and blue, whatever the text.

    Its estimates are those of a model that is sure of the clean image: the swapped condition
    with a text, the condition without, black without either. With text scale 1 the fixed point
    of CSD-Edit is the swapped source.
    """

    name = "tint"
    device = torch.device("cpu")
    schedule = NoiseSchedule.scaled_linear()
    latent_channels = 3
    cell_size = 1
    preferred_size = 32
    size_multiple = 8

    def encode(self, image01: torch.Tensor) -> torch.Tensor:
        return image01 * 2 - 1

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return ((latent + 1) / 2).clamp(0, 1)

    def encode_condition(self, image01: torch.Tensor) -> torch.Tensor:
        return self.encode(image01)

    def encoding_tiles(self, sample01):
        return nullcontext()

    def decoding_tiles(self, sample):
        return nullcontext()

    def encode_source(self, image01: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encode(image01), self.encode_condition(image01)

    def encode_text(self, prompts: Sequence[str]) -> list[str]:
        return list(prompts)

    def predict(
        self,
        branches: Sequence[Branch],
        timestep: torch.Tensor,
        *,
        max_batch: int | None = None,
    ) -> torch.Tensor:
        alpha = self.schedule.alpha(timestep)[:, None, None, None]
        sigma = self.schedule.sigma(timestep)[:, None, None, None]
        return torch.stack([(b.noisy - alpha * self._clean(b)) / sigma for b in branches])

    def _clean(self, branch: Branch) -> torch.Tensor:
        if branch.condition is None:
            return -torch.ones_like(branch.noisy)
        return branch.condition.flip(1) if branch.text != [""] else branch.condition


class RecordingPrior(TintPrior):
    """Remembers what it was asked.

    Attributes:
        asked: For each call of `predict` the texts of its branches, the shape of the noisy
            latents, and `max_batch`.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], tuple[int, ...], int | None]] = []

    def predict(self, branches, timestep, *, max_batch=None):
        texts = [text for branch in branches for text in branch.text]
        self.asked.append((texts, tuple(branches[0].noisy.shape), max_batch))
        return super().predict(branches, timestep, max_batch=max_batch)
