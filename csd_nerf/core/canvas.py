"""What an edit works on: particles, read from and written back to a whole.

The whole may be a stack of images (views of a scene, frames of a video) or one large latent of
which windows are cut. A particle's index is its place in the whole.

What comes from the CPU is copied with `non_blocking`: the plain copy makes the host wait for all
work that is queued on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.randomness import Randomness


@dataclass(frozen=True)
class Particles:
    """A batch of particles, in the prior's latent scale."""

    latent: Float[Tensor, "n c h w"]
    """Clean latents x_i, being edited."""
    source: Float[Tensor, "n c h w"]
    """Clean latents of the source images."""
    condition: Float[Tensor, "n k h w"]
    """Encoded source images, as the prior's image condition."""


@runtime_checkable
class Canvas(Protocol):
    """What the editor's loop needs of a domain; tensors lie on the prior's device."""

    @property
    def size(self) -> int:
        """Number of particles in the whole."""
        ...

    def draw_batch(self, randomness: Randomness) -> Int[Tensor, "n"]:
        """Indices of this iteration's particles, without repetition."""
        ...

    def read(self, index: Int[Tensor, "n"]) -> Particles:
        """These particles as they are now."""
        ...

    def draw_noise(
        self, index: Int[Tensor, "n"], randomness: Randomness, *, shared: bool
    ) -> Float[Tensor, "n c h w"]:
        """Unit Gaussian noise for these particles.

        Shared noise belongs to the whole: one noise for all images of a stack, one field of
        which windows take their part. Otherwise every particle has its own.
        """
        ...

    def descend(self, index: Int[Tensor, "n"], step: Float[Tensor, "n c h w"]) -> None:
        """Subtract a step from these particles; what lies under several takes their mean."""
        ...


@dataclass
class ImageStack:
    """Images that are edited together, one particle each."""

    latent: Float[Tensor, "size c h w"]
    """Clean latents; `descend` changes them in place."""
    source: Float[Tensor, "size c h w"]
    """Clean latents of the source images."""
    condition: Float[Tensor, "size k h w"]
    """Encoded source images."""
    batch_size: int | None = None
    """Images an iteration, drawn without replacement; None takes all, in order."""

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.latent)

    def draw_batch(self, randomness: Randomness) -> Int[Tensor, "n"]:
        """All images, or `batch_size` of them by chance."""
        if self.batch_size is None or self.batch_size >= self.size:
            return torch.arange(self.size)
        return randomness.choice(self.size, self.batch_size)

    def read(self, index: Int[Tensor, "n"]) -> Particles:
        """These images' latents and conditions."""
        index = index.to(self.latent.device, non_blocking=True)
        return Particles(self.latent[index], self.source[index], self.condition[index])

    def draw_noise(
        self, index: Int[Tensor, "n"], randomness: Randomness, *, shared: bool
    ) -> Float[Tensor, "n c h w"]:
        """One noise for all (CSD Eq. 8), or one for each image (the authors' release)."""
        shape = self.latent.shape[1:]
        noise = randomness.normal((1 if shared else len(index), *shape))
        noise = noise.to(self.latent, non_blocking=True)
        return noise.expand(len(index), *shape)

    def descend(self, index: Int[Tensor, "n"], step: Float[Tensor, "n c h w"]) -> None:
        """Subtract a step from these images' latents."""
        index = index.to(self.latent.device, non_blocking=True)
        self.latent.index_add_(0, index, step, alpha=-1)
