"""Base class of priors whose model is a rectified-flow transformer.

Such a model takes y = (1 - s) x + s e at a level s in [0, 1], and returns the velocity v = e - x.
The source image is no channel of its input: the source's latent is a second set of tokens, the row
`reference`. Without it the model makes an image from the text alone.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.rows import SECOND, Rows
from csd_nerf.core.schedules import FlowSchedule
from csd_nerf.priors.base import Branch
from csd_nerf.priors.family import DiffusersPrior
from csd_nerf.priors.parts import reading_part

REFERENCE = "reference"
REFERENCES = (REFERENCE, REFERENCE + SECOND)
"""Names of the rows whose tokens follow the noisy ones, in this order."""


class FlowPrior(DiffusersPrior):
    """A prior whose model predicts velocities; see `csd_nerf.core.schedules.FlowSchedule`."""

    schedule: FlowSchedule
    source_rows: tuple[str, ...] = (REFERENCE,)
    bounds_guidance: bool = False
    """Whether `bound_guidance` changes anything."""

    def __init__(
        self,
        name: str,
        transformer: Any,
        scheduler: FlowMatchEulerDiscreteScheduler,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Take a transformer that is loaded already.

        Args:
            name: The name or path under which the prior was loaded.
            transformer: The denoiser.
            scheduler: Spaces the levels of a sampler.
            device: Where the transformer runs; None means where its weights are.
            dtype: Precision of its inputs; None means that of its weights.
        """
        steps = scheduler.config["num_train_timesteps"]
        run_in = dtype or transformer.dtype
        super().__init__(name, device or transformer.device, FlowSchedule(steps), run_in)
        self._transformer = transformer.eval().requires_grad_(False)
        self._scheduler = scheduler

    @property
    def transformer(self) -> Any:
        """The denoiser, for callers that compile or profile it; its weights are frozen."""
        return self._transformer

    @torch.no_grad()
    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """Encode to clean latents, which are the rows `reference` too."""
        latent = self.encode(image01)
        return latent, {REFERENCE: latent}

    @abstractmethod
    def velocity(
        self,
        noisy: Float[Tensor, "b c h w"],
        level: Float[Tensor, "b"],
        rows: dict[str, Tensor],
    ) -> Float[Tensor, "b c h w"]:
        """Call the model once.

        Args:
            noisy: Noisy latents y in the model's own scale, on any device.
            level: Levels s in [0, 1].
            rows: The rows that `model_rows` returned, one per noisy latent.

        Returns:
            The velocity v, float32.
        """

    def bound_guidance(
        self,
        guided: Float[Tensor, "n c h w"],
        conditional: Float[Tensor, "n c h w"],  # noqa: ARG002
    ) -> Float[Tensor, "n c h w"]:
        """What a sampler takes for the guided velocity; `conditional` is that without guidance."""
        return guided

    @abstractmethod
    def shift(self, cells: int, steps: int) -> float:
        """The shift mu by which a sampler of so many steps draws levels of so many cells."""

    def run(
        self, noisy: Float[Tensor, "b c h w"], timestep: Real[Tensor, "b"], rows: dict[str, Tensor]
    ) -> Float[Tensor, "b c h w"]:
        """Call the model in its own scale."""
        scale = self.schedule.scale(timestep).to(noisy).view(-1, 1, 1, 1)
        return self.velocity(scale * noisy, self.schedule.level(timestep), rows)

    def noise_of(
        self,
        output: Float[Tensor, "b c h w"],
        noisy: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, "b"],
    ) -> Float[Tensor, "b c h w"]:
        """Convert a velocity to an estimate of the noise e."""
        return self.schedule.noise_of_velocity(output, noisy, timestep)

    def predict_velocity(
        self,
        branches: Sequence[Branch],
        timestep: Real[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """As `predict`, but the velocities, which noise doesn't tell at s = 1: z is noise there."""

        def unchanged(output: Tensor, *_: Tensor) -> Tensor:
            return output

        return self.evaluate(branches, timestep, unchanged, max_batch=max_batch)

    def linear_shift(self, tokens: int) -> float:
        """A shift that is linear in the number of tokens, as the scheduler's configuration says."""
        get = self._scheduler.config.get
        fewest, most = get("base_image_seq_len", 256), get("max_image_seq_len", 4096)
        least, largest = get("base_shift", 0.5), get("max_shift", 1.15)
        slope = (largest - least) / (most - fewest)
        return least + slope * (tokens - fewest)

    def shown(self, tensor: Tensor) -> Tensor:
        """An input of the transformer, where it runs and in its precision."""
        return tensor.to(self.device, self.dtype)

    def maps(
        self, noisy: Float[Tensor, "b c h w"], rows: dict[str, Tensor]
    ) -> list[Float[Tensor, "b c h w"]]:
        """The noisy latents, and those of the references that the rows hold."""
        return [noisy, *(rows[name].to(noisy) for name in REFERENCES if name in rows)]

    def sampling_levels(self, steps: int, size: tuple[int, int]) -> Float[Tensor, "{steps}+1"]:
        """Levels of a sampler for latents of this height and width, from 1 to 0."""
        even = np.linspace(1.0, 1 / steps, steps)
        scheduler: Any = self._scheduler
        scheduler.set_timesteps(sigmas=even, mu=self.shift(size[0] * size[1], steps))
        return scheduler.sigmas.clone()


def tokens_of(maps: Sequence[Float[Tensor, "b c h w"]]) -> Float[Tensor, "b tokens c"]:
    """One token for each cell of each map, row by row."""
    return torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)


def map_of(
    tokens: Float[Tensor, "b tokens c"], like: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """The map of this size that the first tokens are, float32."""
    height, width = like.shape[2:]
    own = tokens[:, : height * width].float()
    return own.transpose(1, 2).unflatten(2, (height, width))


def places_of(one: Float[Tensor, "b c h w"], *, plane: int, axes: int) -> Int[Tensor, "h*w {axes}"]:
    """Positions (plane, row, column, 0, ...) of the tokens of a map, on its device."""
    edges = (torch.arange(edge, device=one.device) for edge in one.shape[2:])
    rows, columns = torch.meshgrid(*edges, indexing="ij")
    places = torch.zeros(*rows.shape, axes, dtype=torch.long, device=one.device)
    places[..., 0], places[..., 1], places[..., 2] = plane, rows, columns
    return places.flatten(0, 1)


def load_flow_scheduler(folder: Path) -> FlowMatchEulerDiscreteScheduler:
    """Read the scheduler from a pipeline's folder."""
    with reading_part(folder / "scheduler"):
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        return scheduler
