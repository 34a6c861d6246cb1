"""The interface of every diffusion prior, whatever its model, space and parameterisation.

Conventions:
    image01: RGB in [0, 1], shape (n, 3, height, width), float32.
    latent: the space in which the prior diffuses, float32, scaled so that
        z_t = alpha_t x + sigma_t e with alpha_t^2 + sigma_t^2 = 1.
    timestep: the noise level, from 0 (clean) to T (noise); see `Schedule`.
    rows: named inputs of the model other than noisy latent and timestep; see `csd_nerf.core.rows`.

A prior computes in its own dtype and on its own device, without an autograd graph (except in
`encode`, as described there). Input tensors are float32 on any device; results are float32 on the
device of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.ranks import ALONE, Ranks
from csd_nerf.core.rows import Rows
from csd_nerf.core.schedules import Schedule


@dataclass(frozen=True)
class Branch:
    """The inputs of one guidance branch (one noise estimate) for n particles.

    Attributes:
        noisy: Noisy latents z_t.
        rows: The rows of `Prior.encode_text`, and those of `Prior.encode_source` to condition on
            the source image. Without the latter the family's null condition is used.
        particles: Indices of the particles for which the branch is evaluated, on the CPU; None
            means all. The estimates of the others are zero.
    """

    noisy: Float[Tensor, "n c h w"]
    rows: Rows = field(default_factory=dict)
    particles: Int[Tensor, "m"] | None = None

    @property
    def evaluations(self) -> int:
        """Number of model evaluations that the branch takes."""
        return len(self.noisy if self.particles is None else self.particles)


@runtime_checkable
class Prior(Protocol):
    """A 2D diffusion model with its encoders, as the editor and distillation use it.

    An implementation must obey two laws. `decode(encode(image))` is the image, up to the error of
    the autoencoder. For z = alpha_t x + sigma_t e, `predict` estimates e, whatever the model itself
    returns: for a perfect model of a single image x0 it is (z - alpha_t x0) / sigma_t.

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

                def encode_text(self, prompts, image_rows=None):
                    return {"text": torch.zeros(len(prompts), 1, 1)}

                def free_text_encoder(self):
                    pass

                def predict(self, branches, timestep, *, max_batch=None):
                    sigma = self.schedule.sigma(timestep)[:, None, None, None]
                    return torch.stack([branch.noisy / sigma for branch in branches])

        Priors made of diffusers models inherit most of this from
        `csd_nerf.priors.family.DiffusersPrior`.
    """

    name: str
    """The name or path under which it was loaded, for messages."""
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
    """Names of the rows that `encode_source` returns; empty for a text-to-image model."""

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Encode images to clean latents (the mode of the encoder's distribution).

        Differentiable with respect to the images: the autograd graph is kept if autograd is on and
        the images require a gradient. The model's weights require none.

        Raises:
            ValueError: If an edge is not a multiple of `size_multiple`.
        """
        ...

    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Decode clean latents to images, clamped to [0, 1]."""
        ...

    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """Encode source images to clean latents and to the rows named in `source_rows`.

        The encoder runs once for both. The rows condition the model on the source images.
        """
        ...

    def encoding_tiles(self, sample01: Float[Tensor, "n 3 H W"]) -> AbstractContextManager[None]:
        """A context in which `encode` and `encode_source` treat images as tiles of one picture.

        An encoder's group norms take statistics over the whole input. Inside the context they use
        the statistics of the sample, which are the same for every tile, so that encoded tiles fit
        together.

        Args:
            sample01: Some tiles of the picture.
        """
        ...

    def decoding_tiles(self, sample: Float[Tensor, "n c h w"]) -> AbstractContextManager[None]:
        """The same for `decode`, with some tiles of the latent as the sample."""
        ...

    def encode_text(self, prompts: Sequence[str], image_rows: Rows | None = None) -> Rows:
        """Encode prompts to named rows, one per prompt, float32 on the prior's device.

        Only the prior interprets them; callers may mix them linearly, and put them into a `Branch`.

        Args:
            prompts: The texts; "" is the empty text.
            image_rows: Rows of `encode_source` with the `PICTURE` that the text encoder sees, if
                its model is one that does. There is one prompt for all pictures or one for each;
                what has seen a picture has one row per picture.

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
        """Estimate the noise by k branches for the same n particles, in one batch.

        An autocast context around the call has no effect on the result.

        Args:
            branches: What to evaluate; all hold n particles.
            timestep: One timestep per particle.
            max_batch: Largest number of evaluations in one call of the model; None means no limit.
                A limit saves memory, and does not change the result.
        """
        ...


def ranks_of(prior: Prior) -> Ranks:
    """The ranks that share the work of a prior; `ALONE` for any but a `SharedPrior`."""
    return getattr(prior, "ranks", ALONE)


def at_once(prior: Prior, max_batch: int | None, *, total: int) -> int:
    """The number of images to hand to a prior together, so that no rank gets more than a limit.

    Args:
        prior: The prior.
        max_batch: The limit; None means that there is none.
        total: The number of images.
    """
    return max(1, total) if max_batch is None else max_batch * ranks_of(prior).count
