"""A family of priors in one file: a rectified flow over pixels, known in closed form.

The images x that it knows are Gaussian around a mean m: the source image with its channels in
reverse order where there is an instruction, the source image itself without one, and mid-grey
without a source image. Its velocity is the exact E[e - x | y] of that distribution.
"""

from __future__ import annotations

from pathlib import Path

import torch

from csd_nerf.core.schedules import FlowSchedule
from csd_nerf.priors.family import DiffusersPrior

DEVIATION = 0.3
"""Of the Gaussian."""


def velocity_of(own, level, mean):
    """E[e - x | y] for y = (1 - s) x + s e and x from N(mean, DEVIATION^2)."""
    spread = (1 - level) ** 2 * DEVIATION**2 + level**2
    off = own - (1 - level) * mean
    noise = level * off / spread
    clean = mean + (1 - level) * DEVIATION**2 * off / spread
    return noise - clean


class ToyFlow(DiffusersPrior):
    """The family."""

    latent_channels, cell_size, preferred_size, size_multiple = 3, 1, 32, 1
    source_rows = ("condition",)

    @classmethod
    def from_folder(cls, folder: Path, *, name: str, device: torch.device, **_):
        return cls(name, device, FlowSchedule())

    def encode(self, image01):
        return 2 * image01 - 1

    def decode(self, latent):
        return (latent / 2 + 0.5).clamp(0, 1)

    def encode_source(self, image01):
        return self.encode(image01), {"condition": self.encode(image01)}

    def encode_text(self, prompts, image_rows=None):
        return {"text": torch.tensor([[float(bool(prompt))] for prompt in prompts])}

    def free_text_encoder(self):
        pass

    def model_rows(self, branch):
        return {"condition": torch.zeros_like(branch.noisy), **super().model_rows(branch)}

    def run(self, noisy, timestep, rows):
        """The model itself works in its own scale, y = n z."""
        asked = rows["text"][:, :, None, None] > 0
        mean = torch.where(asked, rows["condition"].flip(1), rows["condition"])
        level, scale = (
            values.view(-1, 1, 1, 1)
            for values in (self.schedule.level(timestep), self.schedule.scale(timestep))
        )
        return velocity_of(scale * noisy, level, mean)

    def noise_of(self, output, noisy, timestep):
        return self.schedule.noise_of_velocity(output, noisy, timestep)
