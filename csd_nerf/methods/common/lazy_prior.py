"""Which prior a method uses, and when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from csd_nerf import priors
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.priors import Kind, Prior


@dataclass
class PriorOptions:
    """Which diffusion model is used, and how it runs."""

    prior: str = "instruct-pix2pix"
    """Editing model: instruct-pix2pix, tiny (bundled), a hub id or a local folder."""
    prior_device: str | None = None
    """Where the prior runs, such as cuda:1; None means where the scene trains."""
    prior_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the prior."""
    prior_variant: str | None = None
    """Which of the prior's weight files: fp16 stands for *.fp16.safetensors."""


class LazyPrior:
    """A prior that is loaded when it is first needed.

    Deliberately no `nn.Module`: as an attribute of the pipeline it would be saved with it.
    """

    def __init__(
        self,
        options: PriorOptions,
        *,
        kind: Kind,
        device: torch.device | str,
        **load_options: Any,
    ) -> None:
        """Name a prior.

        Args:
            options: The prior's.
            kind: Whether it edits images or makes them from texts.
            device: Where it runs if the options don't say.
            load_options: Further options of `priors.load`.
        """
        self._kind: Kind = kind
        self._name, self._variant = options.prior, options.prior_variant
        self._options: dict[str, Any] = {
            "device": options.prior_device or device,
            "dtype": options.prior_dtype,
            "variant": options.prior_variant,
            **load_options,
        }
        self._prior: Prior | None = None

    def fetch(self) -> None:
        """Make sure that the weights are on disk, without loading them.

        Raises:
            WeightsNotFoundError: If they can't be had.
            MethodError: If the model is of no known family.
        """
        try:
            priors.fetch(self._name, variant=self._variant, kind=self._kind)
        except ValueError as error:
            raise MethodError(" ".join(str(error).split())) from None

    def get(self) -> Prior:
        """Load the prior at the first call.

        Raises:
            MethodError: If the model is of another kind or needs a package that is not installed.
        """
        if self._prior is None:
            try:
                self._prior = priors.load(self._name, kind=self._kind, **self._options)
            except (ValueError, ImportError) as error:
                raise MethodError(" ".join(str(error).split())) from None
        return self._prior

    def lend(self, prior: Prior) -> None:
        """Use a prior that is loaded already, such as one that several runs share."""
        self._prior = prior
