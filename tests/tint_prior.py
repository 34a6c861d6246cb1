"""An editing prior in pixel space whose edit is known."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from csd_nerf.core.schedules import DiscreteSchedule
from csd_nerf.priors import Branch


class TintPrior:
    """A prior in pixel space that knows the edit: swap red and blue, whatever the text.

    Its estimates are those of a model that is sure of the clean image: the swapped condition
    with a text, the condition without, black without either. With text scale 1 the fixed point
    of CSD-Edit is the swapped source.
    """

    name = "tint"
    device = torch.device("cpu")
    schedule = DiscreteSchedule.scaled_linear()
    latent_channels = 3
    cell_size = 1
    preferred_size = 32
    size_multiple = 8
    source_rows = ("condition",)

    def encode(self, image01: torch.Tensor) -> torch.Tensor:
        return image01 * 2 - 1

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return ((latent + 1) / 2).clamp(0, 1)

    def encoding_tiles(self, sample01):
        return nullcontext()

    def decoding_tiles(self, sample):
        return nullcontext()

    def encode_source(self, image01: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.encode(image01), {"condition": self.encode(image01)}

    def encode_text(self, prompts: Sequence[str], image_rows=None) -> dict[str, torch.Tensor]:
        return {"text": torch.tensor([float(prompt != "") for prompt in prompts])}

    def free_text_encoder(self) -> None:
        pass

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
        if "condition" not in branch.rows:
            return -torch.ones_like(branch.noisy)
        condition = branch.rows["condition"]
        return condition.flip(1) if bool(branch.rows["text"].any()) else condition


class RecordingPrior(TintPrior):
    """Remembers what it was asked.

    Attributes:
        asked: For each call of `predict` the texts of its branches, the shape of the noisy
            latents, and `max_batch`.
        timesteps: For each call, the timestep of its first particle.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], tuple[int, ...], int | None]] = []
        self.timesteps: list[int] = []
        self._texts = [""]

    def encode_text(self, prompts, image_rows=None):
        self._texts += [prompt for prompt in prompts if prompt not in self._texts]
        return {"text": torch.tensor([float(self._texts.index(prompt)) for prompt in prompts])}

    def predict(self, branches, timestep, *, max_batch=None):
        rows = [row for branch in branches for row in branch.rows["text"].flatten().tolist()]
        texts = [self._texts[int(row)] for row in rows]
        self.timesteps.append(int(timestep[0]))
        self.asked.append((texts, tuple(branches[0].noisy.shape), max_batch))
        return super().predict(branches, timestep, max_batch=max_batch)
