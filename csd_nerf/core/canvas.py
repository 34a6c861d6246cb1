"""What an edit works on: particles, read from and written back to a whole.

The whole may be a stack of images (views of a scene, frames of a video) or one large latent of
which windows are cut. A particle's index is its place in the whole.

What comes from the CPU is copied with `non_blocking`: the plain copy makes the host wait for all
work that is queued on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.randomness import Randomness
from csd_nerf.core.rows import Rows, take_rows
from csd_nerf.core.sweeps import Deck, Drawing, check_drawing


@dataclass(frozen=True)
class Particles:
    """A batch of particles, in the prior's latent scale."""

    latent: Float[Tensor, "n c h w"]
    """Clean latents x_i, being edited."""
    source: Float[Tensor, "n c h w"]
    """Clean latents of the source images."""
    image_rows: Rows
    """What the model is shown of the source images; see `Prior.encode_source`."""


@runtime_checkable
class Canvas(Protocol):
    """What the editor's loop needs of a domain; it hands out tensors on the prior's device."""

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

    def draw_timestep(self, randomness: Randomness, low: int, high: int) -> int:
        """The timestep of the batch drawn last, from `low` to `high`, both included."""
        ...

    def draw_noise(
        self, index: Int[Tensor, "n"], randomness: Randomness, *, shared: bool
    ) -> Float[Tensor, "n c h w"]:
        """Unit Gaussian noise for these particles, which were drawn last.

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
    """Clean latents; `descend` changes them in place. They may lie on another device than the
    prior, where many images would not fit on its own."""
    source: Float[Tensor, "size c h w"]
    """Clean latents of the source images."""
    image_rows: Rows
    """What the model is shown of the source images, a row each."""
    batch_size: int | None = None
    """Images an iteration, drawn without replacement; None takes all, in order."""
    drawing: Drawing = "uniform"
    """A batch by chance, as in the paper, or sweeps over all images in shuffled order, each at one
    timestep and, if noise is shared, with one noise for all."""
    device: torch.device | None = None
    """Where particles are handed out; None means where the latents lie."""
    updates: Int[Tensor, "size"] = field(init=False)
    """How often each image was updated."""

    def __post_init__(self) -> None:
        """Start with no updates."""
        check_drawing(self.drawing)
        self.updates = torch.zeros(self.size, dtype=torch.long)
        self.device = self.latent.device if self.device is None else self.device
        self._deck = Deck(lambda randomness: randomness.choice(self.size, self.size))

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.latent)

    @property
    def _batch(self) -> int:
        return min(self.batch_size or self.size, self.size)

    @property
    def batches_per_sweep(self) -> int:
        """Iterations that go over everything once; 1 where images are drawn by chance."""
        return math.ceil(self.size / self._batch) if self.drawing == "balanced" else 1

    def iterations_for(self, updates: int) -> int:
        """Iterations, in whole sweeps, that update an image this often on average."""
        if self.drawing == "balanced":
            return self.batches_per_sweep * updates
        return math.ceil(updates * self.size / self._batch)

    def draw_batch(self, randomness: Randomness) -> Int[Tensor, "n"]:
        """All images, or `batch_size` of them."""
        if self.batch_size is None or self.batch_size >= self.size:
            return torch.arange(self.size)
        if self.drawing == "balanced":
            return self._deck.draw(self.batch_size, randomness)
        return randomness.choice(self.size, self.batch_size)

    def draw_timestep(self, randomness: Randomness, low: int, high: int) -> int:
        """A timestep for each batch, or for each sweep."""
        return self._deck.draw_timestep(randomness, low, high)

    def read(self, index: Int[Tensor, "n"]) -> Particles:
        """These images' latents and conditions."""
        index = index.to(self.latent.device, non_blocking=True)

        def handed_out(rows: Tensor) -> Tensor:
            return rows.to(self.device, non_blocking=True)

        image_rows = take_rows(self.image_rows, index)
        return Particles(
            handed_out(self.latent[index]),
            handed_out(self.source[index]),
            {name: handed_out(rows) for name, rows in image_rows.items()},
        )

    def draw_noise(
        self, index: Int[Tensor, "n"], randomness: Randomness, *, shared: bool
    ) -> Float[Tensor, "n c h w"]:
        """One noise for all (CSD Eq. 8), or one for each image (the authors' release)."""
        shape = self.latent.shape[1:]
        if not shared:
            return randomness.normal((len(index), *shape)).to(self.device, non_blocking=True)
        noise = self._deck.draw_noise(randomness, (1, *shape))
        return noise.to(self.device, non_blocking=True).expand(len(index), *shape)

    def descend(self, index: Int[Tensor, "n"], step: Float[Tensor, "n c h w"]) -> None:
        """Subtract a step from these images' latents."""
        self.updates[index] += 1
        at = self.latent.device
        self.latent.index_add_(0, index.to(at, non_blocking=True), step.to(at), alpha=-1)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to go on; the tensors are the stack's own, not copies."""
        return {"latent": self.latent, "updates": self.updates, **self._deck.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state of a stack of the same shape."""
        self.latent.copy_(state["latent"])
        self.updates.copy_(state["updates"])
        self._deck.restore(state)
