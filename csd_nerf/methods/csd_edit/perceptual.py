"""LPIPS, built when it is first needed.

Nerfacto builds it at once and downloads AlexNet's weights: offline neither training nor evaluation
would start. It would also become part of every checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.priors.lpips import lpips_network, weights_path


class LazyPerceptualDistance:
    """LPIPS on AlexNet; deliberately no `nn.Module`."""

    def __init__(self) -> None:
        self._network: Any = None

    @property
    def is_available(self) -> bool:
        """Whether the distance can be computed without fetching anything."""
        return self._network is not None or weights_path().is_file()

    def require(self) -> None:
        """Build the network, fetching AlexNet's weights if needed.

        Raises:
            MethodError: If they can't be had.
        """
        if self._network is None:
            try:
                self._network = lpips_network()
            except FileNotFoundError as error:
                raise MethodError(
                    f"{error}, or train without it: --pipeline.model.lpips-weight 0."
                ) from None

    def __call__(
        self, first01: Float[Tensor, "n 3 h w"], second01: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, ""]:
        """Mean distance of pairs of images, differentiable; at least 32 pixels an edge."""
        self.require()
        self._network.to(first01.device)
        # Autocast would take the distance's differences of features in half precision.
        with torch.autocast(first01.device.type, enabled=False):
            return self._network(first01.float(), second01.float(), normalize=True).mean()
