"""A text-to-image prior that is sure of its picture."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from csd_nerf.core.schedules import DiscreteSchedule


class SurePrior:
    """Knows the picture of a text: its first number, everywhere; the empty text's is black."""

    name = "sure"
    device = torch.device("cpu")
    schedule = DiscreteSchedule.scaled_linear()
    latent_channels = 3
    cell_size = 1
    preferred_size = 4
    size_multiple = 1
    source_rows = ()

    def encode(self, image01):
        return 2 * image01 - 1

    def encode_source(self, image01):
        return self.encode(image01), {}

    def encoding_tiles(self, sample01):
        return nullcontext()

    def decoding_tiles(self, sample):
        return nullcontext()

    def decode(self, latent):
        return latent / 2 + 0.5

    def encode_text(self, prompts, image_rows=None):
        return {"text": torch.tensor([float(p or 0) for p in prompts])[:, None, None]}

    def free_text_encoder(self):
        pass

    def predict(self, branches, timestep, *, max_batch=None):
        alpha = self.schedule.alpha(timestep)[:, None, None, None]
        sigma = self.schedule.sigma(timestep)[:, None, None, None]
        texts = [b.rows["text"].expand(len(timestep), -1, -1)[:, :1, :1, None] for b in branches]
        return torch.stack(
            [(b.noisy - alpha * (2 * t - 1)) / sigma for b, t in zip(branches, texts, strict=True)]
        )
