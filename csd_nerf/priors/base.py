"""What every diffusion prior offers, whatever its model, space and parameterisation.

Conventions:
    image01: RGB in [0, 1], shape (n, 3, height, width), float32.
    latent: the space in which the prior diffuses, in the scale of its U-Net, float32.
    condition: the encoded source image of an editing model, in the scale it was trained on.
    timestep: integer index into the prior's training schedule, 0 (clean) to T - 1 (noise).

A prior computes without an autograd graph (`encode` is the exception where its docstring says
so), in its own dtype and on its own device. Tensors come in as float32 on any device and go out as
float32 on the device that they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.schedules import NoiseSchedule

Text = Any
"""An encoded prompt: opaque to everyone but the prior that made it."""


@dataclass(frozen=True)
class Branch:
    """One guidance branch for n particles: what the model is shown.

    Attributes:
        noisy: Noisy latents z_t.
        text: Encoded prompt from `Prior.encode_text`, of one row or of n rows.
        condition: Encoded source images from `Prior.encode_condition`; None drops them.
        rows: Particles for which the branch is evaluated, on the CPU; None means all. The
            estimates of the others are zero.
    """

    noisy: Float[Tensor, "n c h w"]
    text: Text
    condition: Float[Tensor, "n k h w"] | None = None
    rows: Int[Tensor, "m"] | None = None


@runtime_checkable
class Prior(Protocol):
    """A 2D diffusion model as the editor sees it."""

    name: str
    device: torch.device
    schedule: NoiseSchedule
    latent_channels: int
    cell_size: int
    """Pixels along one edge of a latent cell."""
    preferred_size: int
    """Edge length in pixels of the square images that the model was trained on."""
    size_multiple: int
    """Heights and widths in pixels must be multiples of this."""

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Images to clean latents (the mode of the encoder's distribution)."""
        ...

    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Clean latents to images, clamped to [0, 1]."""
        ...

    def encode_condition(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n k h w"]:
        """Source images to the model's image condition."""
        ...

    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n k h w"]]:
        """Clean latents and image condition, by one pass of the encoder."""
        ...

    def encoding_tiles(self, sample01: Float[Tensor, "n 3 H W"]) -> AbstractContextManager[None]:
        """Within it, images to encode count as tiles of one picture, of which these are some.

        What a model derives from a whole picture, as its normalisation, it then derives from the
        sample, so that tiles fit together.
        """
        ...

    def decoding_tiles(self, sample: Float[Tensor, "n c h w"]) -> AbstractContextManager[None]:
        """Within it, latents to decode count as tiles of one picture, of which these are some."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Prompts to one opaque bundle with a row per prompt; "" is the empty prompt."""
        ...

    def predict(
        self,
        branches: Sequence[Branch],
        timestep: Int[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """Noise estimates of k branches for the same n particles, evaluated as one batch.

        Args:
            branches: What to evaluate; all hold n particles.
            timestep: One timestep a particle.
            max_batch: Largest number of model evaluations a call; None means all at once.
                Splitting changes memory, not the result.
        """
        ...


@runtime_checkable
class TextToImage(Protocol):
    """A 2D diffusion model that makes images from texts, as distillation sees it."""

    name: str
    device: torch.device
    schedule: NoiseSchedule
    latent_channels: int
    cell_size: int
    """Pixels along one edge of a latent cell; 1 for a model that diffuses pixels."""
    preferred_size: int
    """Edge length in pixels of the square images that the model was trained on."""
    size_multiple: int
    """Heights and widths in pixels must be multiples of this."""

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Images to clean latents (the mode of the encoder's distribution).

        Differentiable with respect to the images: where autograd is on and they need a gradient,
        the graph is kept. The model's weights never need one.
        """
        ...

    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Clean latents to images, clamped to [0, 1]."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "r tokens width"]:
        """Prompts to a row each, float32 on the prior's device; "" is the empty prompt.

        Rows may be mixed linearly, and handed to `predict` as a branch's text.

        Raises:
            RuntimeError: After `free_text_encoder`.
        """
        ...

    def free_text_encoder(self) -> None:
        """Drop the text encoder from memory once all texts are encoded."""
        ...

    def predict(
        self,
        branches: Sequence[Branch],
        timestep: Int[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """Noise estimates as `Prior.predict` gives them; no branch has a condition."""
        ...
