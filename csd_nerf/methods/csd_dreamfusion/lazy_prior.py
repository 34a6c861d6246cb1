"""A text-to-image prior and a prompt's embeddings, loaded when the first step needs them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from csd_nerf import priors
from csd_nerf.methods.csd_dreamfusion.errors import DreamFusionError
from csd_nerf.methods.csd_dreamfusion.prompts import ViewPrompts
from csd_nerf.priors.base import Prior


@dataclass
class LazyTextPrior:
    """Names a prior and loads it once. No `nn.Module`: it would be saved with the pipeline.

    The text encoder, IF's is several times larger than its U-Net, is freed once it was used.
    """

    name: str
    device: torch.device | str
    dtype: str
    variant: str | None
    prompt: str
    negative_prompt: str
    template: str
    overhead: float
    _loaded: tuple[Prior, ViewPrompts] | None = field(default=None, init=False)

    def fetch(self) -> None:
        """Make sure that the weights are on disk.

        Raises:
            WeightsNotFoundError: If they can't be had.
        """
        priors.fetch(self.name, variant=self.variant, kind="text")

    def get(self) -> tuple[Prior, ViewPrompts]:
        """Prior and embeddings.

        Raises:
            DreamFusionError: If the named model isn't a text-to-image prior, or needs a package
                that is not installed.
        """
        if self._loaded is None:
            try:
                prior = priors.load(
                    self.name,
                    kind="text",
                    device=self.device,
                    dtype=self.dtype,
                    variant=self.variant,
                )
            except (ValueError, ImportError) as error:
                raise DreamFusionError(" ".join(str(error).split())) from None
            prompts = ViewPrompts.encode(
                prior,
                self.prompt,
                negative_prompt=self.negative_prompt,
                template=self.template,
                overhead=self.overhead,
            )
            prior.free_text_encoder()
            self._loaded = (prior, prompts)
        return self._loaded
