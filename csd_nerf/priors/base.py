"""What every diffusion prior offers, whatever its model, space and parameterisation.

Conventions:
    image01: RGB in [0, 1], shape (n, 3, height, width), float32.
    latent: the space in which the prior diffuses, float32, scaled so that
        z_t = alpha_t x + sigma_t e with alpha_t^2 + sigma_t^2 = 1.
    timestep: what the model is told of the noise, from 0 (clean) to T (noise); see `Schedule`.
    rows: named inputs of the model beside the noisy latent; see `csd_nerf.core.rows`.

A prior computes without an autograd graph (`encode` is the exception where its docstring says
so), in its own dtype and on its own device. Tensors come in as float32 on any device and go out as
float32 on the device that they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.rows import Rows
from csd_nerf.core.schedules import Schedule


@dataclass(frozen=True)
class Branch:
    """One guidance branch for n particles: what the model is shown.

    Attributes:
        noisy: Noisy latents z_t.
        rows: The rows of `Prior.encode_text`, and of `Prior.encode_source` if the model is to see
            the source image. Without them it sees none: the family has its own null for that.
        particles: Particles for which the branch is evaluated, on the CPU; None means all. The
            estimates of the others are zero.
    """

    noisy: Float[Tensor, "n c h w"]
    rows: Rows = field(default_factory=dict)
    particles: Int[Tensor, "m"] | None = None

    @property
    def evaluations(self) -> int:
        """Model evaluations that the branch takes."""
        return len(self.noisy if self.particles is None else self.particles)


@runtime_checkable
class Prior(Protocol):
    """A 2D diffusion model, as the editor and distillation see it.

    Two laws tie its parts together. Decoding an encoded image gives the image, as far as the
    model's autoencoder allows. And for z = alpha_t x + sigma_t e, `predict` estimates e, whatever
    the model itself returns: a perfect model of a single image x0 returns (z - alpha_t x0) /
    sigma_t.

    Example:
        A prior in pixel space that knows one image, mid-grey, whatever the text::

            class Grey:
                name = "grey"
                device = torch.device("cpu")
                schedule = DiscreteSchedule.scaled_linear()
                latent_channels, cell_size = 3, 1
                preferred_size, size_multiple = 64, 1
                source_rows = ()

                def encode(self, image01):
                    return 2 * image01 - 1

                def decode(self, latent):
                    return (latent / 2 + 0.5).clamp(0, 1)

                def encode_source(self, image01):
                    return self.encode(image01), {}

                def encoding_tiles(self, sample01):
                    return nullcontext()

                def decoding_tiles(self, sample):
                    return nullcontext()

                def encode_text(self, prompts, image01=None):
                    return {"text": torch.zeros(len(prompts), 1, 1)}

                def free_text_encoder(self):
                    pass

                def predict(self, branches, timestep, *, max_batch=None):
                    sigma = self.schedule.sigma(timestep)[:, None, None, None]
                    return torch.stack([branch.noisy / sigma for branch in branches])

        Families on diffusers inherit all but the particulars from
        `csd_nerf.priors.family.DiffusersPrior`.
    """

    name: str
    """What it was loaded as."""
    device: torch.device
    schedule: Schedule
    latent_channels: int
    cell_size: int
    """Pixels along one edge of a latent cell; 1 for a model that diffuses pixels."""
    preferred_size: int
    """Edge length in pixels of the square images that the model was trained on."""
    size_multiple: int
    """Heights and widths in pixels must be multiples of this."""
    source_rows: tuple[str, ...]
    """Names of the rows by which it sees a source image; empty for a text-to-image model."""

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Images to clean latents (the mode of the encoder's distribution).

        Differentiable with respect to the images: where autograd is on and they need a gradient,
        the graph is kept. The model's weights never need one.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        ...

    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Clean latents to images, clamped to [0, 1]."""
        ...

    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """Clean latents of source images, and the rows `source_rows` by which the model sees them.

        Both take one pass of the encoder.
        """
        ...

    def encoding_tiles(self, sample01: Float[Tensor, "n 3 H W"]) -> AbstractContextManager[None]:
        """A context in which images to encode are tiles of one large picture.

        Encoders normalise by statistics of the whole picture. Inside the context they use those
        of the given sample of tiles instead, the same for every tile, so that encoded tiles fit
        together.
        """
        ...

    def decoding_tiles(self, sample: Float[Tensor, "n c h w"]) -> AbstractContextManager[None]:
        """The same for latents to decode."""
        ...

    def encode_text(
        self, prompts: Sequence[str], image01: Float[Tensor, "n 3 H W"] | None = None
    ) -> Rows:
        """Prompts to named rows, one a prompt, float32 on the prior's device; "" is the empty text.

        Rows are opaque to all but the prior. They may be mixed linearly, and are handed back in a
        branch.

        Args:
            prompts: The texts.
            image01: Source images, for models whose text encoder sees them; others ignore it.

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
        timestep: Real[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """Noise estimates of k branches for the same n particles, evaluated as one batch.

        An autocast context around the call has no effect on it.

        Args:
            branches: What to evaluate; all hold n particles.
            timestep: One timestep a particle.
            max_batch: Largest number of model evaluations a call; None means all at once.
                Splitting changes memory, not the result.
        """
        ...
