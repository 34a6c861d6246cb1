"""Canvases: the latents that an edit optimises, divided into particles.

A canvas is a stack of images (views of a scene, frames of a video), each of which is a particle, or
one large latent whose windows are the particles. Particles are numbered from 0.

Copies from the CPU to a device are by `sent`: a plain copy would make the CPU wait for all work
that is queued on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.copies import sent
from csd_nerf.core.randomness import Randomness
from csd_nerf.core.rows import PICTURE, Rows, take_rows, without_picture
from csd_nerf.core.sweeps import Deck, Drawing, check_drawing


@dataclass(frozen=True)
class Particles:
    """A batch of particles, in the prior's latent scale."""

    latent: Float[Tensor, "n c h w"]
    """Clean latents x_i of the images being edited."""
    source: Float[Tensor, "n c h w"]
    """Clean latents of the source images."""
    image_rows: Rows
    """Conditions from the source images, but `PICTURE`; see `Prior.encode_source`."""


@runtime_checkable
class Canvas(Protocol):
    """What the editor's loop optimises. Particles and noise are returned on the prior's device.

    An iteration calls `draw_batch`, `draw_timestep`, `draw_noise`, `read` and `descend` once each,
    in this order.
    """

    latent: Tensor
    """Clean latents being edited: a stack (n, c, h, w) or one large latent (c, H, W)."""

    @property
    def size(self) -> int:
        """Number of particles."""
        ...

    @property
    def iterations_per_update(self) -> float:
        """Iterations after which an image, or a cell of a large latent, has a mean of 1 update."""
        ...

    def draw_batch(self, randomness: Randomness) -> Int[Tensor, "n"]:
        """Draw this iteration's particles: their numbers, each at most once, on the CPU.

        There may be none, and the iteration then ends here.
        """
        ...

    def read(self, index: Int[Tensor, "n"]) -> Particles:
        """The current latents of these particles, with their sources."""
        ...

    def pictures(self, index: Int[Tensor, "n"]) -> Rows:
        """The rows `PICTURE` of these particles, on the prior's device; empty if there are none.

        Texts are encoded once, so that `read` leaves the pictures out.
        """
        ...

    def draw_timestep(self, randomness: Randomness, low: int, high: int) -> int:
        """Draw the timestep of the current batch, from `low` to `high`, both included."""
        ...

    def draw_noise(
        self, index: Int[Tensor, "n"], randomness: Randomness, *, shared: bool, whole: bool = False
    ) -> Float[Tensor, "n c h w"]:
        """Draw unit Gaussian noise for the current batch.

        Args:
            index: The batch.
            randomness: Source of the noise.
            shared: Whether all images of a stack have the same noise, and windows take their parts
                of one large field. Otherwise each particle has noise of its own.
            whole: Whether to draw a shared field for the whole canvas, so that a seed gives a
                window the same noise in every batch.
        """
        ...

    def descend(self, index: Int[Tensor, "n"], step: Float[Tensor, "n c h w"]) -> None:
        """Subtract steps from these particles; where windows overlap, their steps are averaged."""
        ...


@dataclass
class ImageStack:
    """Images that are edited together, one particle each."""

    latent: Float[Tensor, "size c h w"]
    """Clean latents being edited; `descend` changes them in place. They may be on another device
    than the prior, for example on the CPU if there are many."""
    source: Float[Tensor, "size c h w"]
    """Clean latents of the source images."""
    image_rows: Rows
    """Conditions from the source images, one row per image."""
    batch_size: int | None = None
    """Images per iteration, drawn without replacement; None takes all, in order."""
    drawing: Drawing = "uniform"
    """uniform: random batches, as in the paper. balanced: sweep after sweep over all images, each
    in a new order; a sweep has one timestep and, if noise is shared, one noise."""
    device: torch.device | None = None
    """Device of the particles that `read` returns; None means the latents'."""
    editable: Float[Tensor, "size h w"] | None = None
    """Factor of each cell's step, such as 0 for cells to keep; None means 1 everywhere. An image
    whose factors are all 0 is never drawn."""
    updates: Int[Tensor, "size"] = field(init=False)
    """Number of updates of each image."""
    drawn: Int[Tensor, "d"] = field(init=False)
    """Numbers of the images that are drawn, ascending."""

    def __post_init__(self) -> None:
        """Start with no updates."""
        check_drawing(self.drawing)
        self.updates = torch.zeros(self.size, dtype=torch.long)
        self.device = self.latent.device if self.device is None else self.device
        self.drawn = torch.arange(self.size)
        if self.editable is not None:
            self.drawn = self.drawn[self.editable.flatten(1).any(1).cpu()]
            self.editable = self.editable.to(self.latent)
        self._deck = Deck(lambda randomness: self._choice(len(self.drawn), randomness))

    def _choice(self, count: int, randomness: Randomness) -> Int[Tensor, "{count}"]:
        return self.drawn[randomness.choice(len(self.drawn), count)]

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.latent)

    @property
    def _batch(self) -> int:
        count = max(1, len(self.drawn))
        return min(self.batch_size or count, count)

    @property
    def batches_per_sweep(self) -> int:
        """Iterations per sweep; 1 for uniform drawing."""
        balanced = self.drawing == "balanced"
        return max(1, math.ceil(len(self.drawn) / self._batch)) if balanced else 1

    @property
    def iterations_per_update(self) -> float:
        """See `Canvas.iterations_per_update`."""
        balanced = self.drawing == "balanced"
        return float(self.batches_per_sweep) if balanced else len(self.drawn) / self._batch

    def iterations_for(self, updates: int) -> int:
        """Iterations, in whole sweeps, that update an image `updates` times on average."""
        if self.drawing == "balanced":
            return self.batches_per_sweep * updates
        return max(1, math.ceil(updates * len(self.drawn) / self._batch))

    def draw_batch(self, randomness: Randomness) -> Int[Tensor, "n"]:
        """All images that are edited, or `batch_size` of them."""
        if self.batch_size is None or self.batch_size >= len(self.drawn):
            return self.drawn
        if self.drawing == "balanced":
            return self._deck.draw(self.batch_size, randomness)
        return self._choice(self.batch_size, randomness)

    def draw_timestep(self, randomness: Randomness, low: int, high: int) -> int:
        """A new timestep for every batch, or with balanced drawing for every sweep."""
        return self._deck.draw_timestep(randomness, low, high)

    def read(self, index: Int[Tensor, "n"]) -> Particles:
        """The latents, sources and conditions of these images."""
        assert self.device is not None
        index, handed_out = sent(index, self.latent.device), partial(sent, device=self.device)

        image_rows = take_rows(without_picture(self.image_rows), index)
        return Particles(
            handed_out(self.latent[index]),
            handed_out(self.source[index]),
            {name: handed_out(rows) for name, rows in image_rows.items()},
        )

    def pictures(self, index: Int[Tensor, "n"]) -> Rows:
        """See `Canvas.pictures`."""
        if PICTURE not in self.image_rows:
            return {}
        assert self.device is not None
        whole = self.image_rows[PICTURE]
        return {PICTURE: sent(whole[sent(index, whole.device)], self.device)}

    def draw_noise(
        self, index: Int[Tensor, "n"], randomness: Randomness, *, shared: bool, whole: bool = False
    ) -> Float[Tensor, "n c h w"]:
        """One noise for all (CSD Eq. 8), or one for each image (the authors' release)."""
        # One noise for all is the same in every batch.
        del whole
        assert self.device is not None
        shape = self.latent.shape[1:]
        if not shared:
            return sent(randomness.normal((len(index), *shape)), self.device)
        noise = self._deck.draw_noise(randomness, (1, *shape))
        return sent(noise, self.device).expand(len(index), *shape)

    def descend(self, index: Int[Tensor, "n"], step: Float[Tensor, "n c h w"]) -> None:
        """Subtract a step from these images' latents, times `editable`."""
        self.updates[index] += 1
        at = self.latent.device
        index, step = sent(index, at), step.to(at)
        if self.editable is not None:
            step = step * self.editable[index, None]
        self.latent.index_add_(0, index, step, alpha=-1)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to resume; the tensors are the stack's own, not copies."""
        return {"latent": self.latent, "updates": self.updates, **self._deck.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from the state of a stack of the same shape."""
        self.latent.copy_(state["latent"])
        self.updates.copy_(state["updates"])
        self._deck.restore(state)
