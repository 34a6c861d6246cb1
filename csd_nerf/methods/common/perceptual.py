"""LPIPS that is built at first use.

Nerfacto builds LPIPS at once and downloads AlexNet's weights, so that without a network neither
training nor evaluation would start. It would also be saved in every checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.priors.lpips import lpips_network, weights_path


class LazyPerceptualDistance:
    """LPIPS on AlexNet; not an `nn.Module`, so that checkpoints don't contain it."""

    def __init__(self) -> None:
        self._network: Any = None

    @property
    def is_available(self) -> bool:
        """Whether the distance can be computed without a download."""
        return self._network is not None or weights_path().is_file()

    def require(self) -> None:
        """Build the network; downloads AlexNet's weights if needed.

        Raises:
            MethodError: If the weights are not there and can't be downloaded.
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
        """Mean distance of pairs of images, differentiable; edges of at least 32 pixels."""
        self.require()
        self._network.to(first01.device)
        # Autocast would compute differences of features in half precision.
        with torch.autocast(first01.device.type, enabled=False):
            return self._network(first01.float(), second01.float(), normalize=True).mean()
