"""A prior whose work several ranks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.ranks import Ranks
from csd_nerf.core.rows import Rows
from csd_nerf.priors.base import Prior

_RESULT = "result"
_ATTRIBUTES = (
    *("name", "device", "schedule", "latent_channels", "cell_size"),
    *("preferred_size", "size_multiple", "source_rows"),
)


class SharedPrior:
    """Wraps a prior: each rank encodes and decodes its share of the images, and all get all.

    All ranks call it with the same inputs at the same time. `predict` evaluates what it is given,
    in each rank: `weighted_sum` shares the particles, and gathers one sum for each instead of all
    its estimates. Texts, and the statistics of tiles, are computed by every rank.

    Attributes:
        ranks: The ranks; `ranks_of` finds them.
    """

    name: str
    device: torch.device
    schedule: Any
    latent_channels: int
    cell_size: int
    preferred_size: int
    size_multiple: int
    source_rows: tuple[str, ...]

    def __init__(self, prior: Prior, ranks: Ranks) -> None:
        for name in _ATTRIBUTES:
            setattr(self, name, getattr(prior, name))
        self._prior = prior
        self.ranks = ranks

    def __getattr__(self, name: str) -> Any:
        """Look up other attributes in the wrapped prior."""
        return getattr(self._prior, name)

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """As the prior does. With an autograd graph every rank encodes all images."""
        if torch.is_grad_enabled() and image01.requires_grad:
            return self._prior.encode(image01)
        return self._shared(image01, lambda own01: {_RESULT: self._prior.encode(own01)})[_RESULT]

    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """As the prior does."""
        return self._shared(latent, lambda own: {_RESULT: self._prior.decode(own)})[_RESULT]

    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """As the prior does."""

        def encode(own01: Float[Tensor, "m 3 H W"]) -> Rows:
            latent, image_rows = self._prior.encode_source(own01)
            return {_RESULT: latent, **image_rows}

        found = {**self._shared(image01, encode)}
        return found.pop(_RESULT), found

    def encoding_tiles(self, sample01: Float[Tensor, "n 3 H W"]) -> AbstractContextManager[None]:
        """As the prior does."""
        return self._prior.encoding_tiles(sample01)

    def decoding_tiles(self, sample: Float[Tensor, "n c h w"]) -> AbstractContextManager[None]:
        """As the prior does."""
        return self._prior.decoding_tiles(sample)

    def encode_text(self, *arguments: Any) -> Rows:
        """As the prior does."""
        return self._prior.encode_text(*arguments)

    def free_text_encoder(self) -> None:
        """As the prior does."""
        self._prior.free_text_encoder()

    def predict(self, *arguments: Any, **options: Any) -> Float[Tensor, "k n c h w"]:
        """As the prior does."""
        return self._prior.predict(*arguments, **options)

    def _shared(
        self, images: Float[Tensor, "n _ _ _"], work: Callable[[Tensor], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        def of_share(part: slice) -> Mapping[str, Tensor]:
            size = part.stop - part.start
            # A rank without images needs to know the results' shapes; the others aren't faster.
            found = work(images[part] if size else images[:1])
            # Where all ranks have it: an input may lie on the CPU in some of them.
            return {name: rows[:size].to(self.device) for name, rows in found.items()}

        whole = self.ranks.shared(len(images), of_share)
        return {name: rows.to(images.device) for name, rows in whole.items()}
