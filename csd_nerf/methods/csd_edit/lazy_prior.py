"""A prior that is loaded when the first round needs it."""

from __future__ import annotations

import torch

from csd_nerf import priors
from csd_nerf.priors import Prior


class LazyPrior:
    """Names a prior and loads it once.

    Deliberately no `nn.Module`: as an attribute of the pipeline it would be saved with it.

    Args:
        name_or_path: What `csd_nerf.priors.load` takes.
        device: Where it runs.
        dtype: Its precision.
        variant: Which weight files: `fp16` stands for `*.fp16.safetensors`.
        vae_slicing: Encode and decode one image at a time.
        vae_tiling: Encode and decode large images in tiles.
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        device: torch.device | str,
        dtype: str,
        variant: str | None,
        vae_slicing: bool,
        vae_tiling: bool,
    ) -> None:
        self._name = name_or_path
        self._variant = variant
        self._vae_slicing, self._vae_tiling = vae_slicing, vae_tiling
        self._device, self._dtype = device, dtype
        self._prior: Prior | None = None

    def fetch(self) -> None:
        """Make sure that the weights are on disk, without loading them.

        Raises:
            WeightsNotFoundError: If they can't.
        """
        priors.fetch(self._name, variant=self._variant)

    def get(self) -> Prior:
        """Load the prior at the first call."""
        if self._prior is None:
            self._prior = priors.load(
                self._name,
                device=self._device,
                dtype=self._dtype,
                variant=self._variant,
                vae_slicing=self._vae_slicing,
                vae_tiling=self._vae_tiling,
            )
        return self._prior

    def lend(self, prior: Prior) -> None:
        """Take a prior that is loaded already, as a caller has that makes many runs."""
        self._prior = prior
