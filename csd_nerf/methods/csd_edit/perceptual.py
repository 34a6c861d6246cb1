"""LPIPS, built when it is first needed.

Nerfacto builds it at once and downloads AlexNet's weights, so that offline neither training nor
evaluation starts; and as a module of the model it would be part of every checkpoint.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.methods.csd_edit.errors import EditError


class LatePerceptualDistance:
    """LPIPS on AlexNet; deliberately no `nn.Module`."""

    def __init__(self) -> None:
        self._network: Any = None

    @property
    def weights_path(self) -> Path:
        """Where torch keeps AlexNet's weights once they were fetched."""
        from torchvision.models import AlexNet_Weights

        name = Path(AlexNet_Weights.IMAGENET1K_V1.url).name
        return Path(torch.hub.get_dir()) / "checkpoints" / name

    @property
    def is_available(self) -> bool:
        """Whether the distance can be computed without fetching anything."""
        return self._network is not None or self.weights_path.is_file()

    def require(self) -> None:
        """Build the network, fetching AlexNet's weights if needed.

        Raises:
            EditError: If they can't be had.
        """
        if self._network is not None:
            return
        import lpips

        try:
            with warnings.catch_warnings():
                # lpips uses an argument of torchvision that is deprecated.
                warnings.simplefilter("ignore")
                network = lpips.LPIPS(net="alex", verbose=False)
        except (OSError, RuntimeError) as error:
            raise EditError(
                f"LPIPS needs AlexNet's weights at {self.weights_path}, and they can't be fetched "
                f"({type(error).__name__}); run `python -c \"import lpips; lpips.LPIPS('alex')\"` "
                "with a network, or train without it: --pipeline.model.lpips-weight 0."
            ) from None
        self._network = network.requires_grad_(False)

    def __call__(
        self, first01: Float[Tensor, "n 3 h w"], second01: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, ""]:
        """Mean distance of pairs of images, differentiable; at least 32 pixels an edge."""
        self.require()
        self._network.to(first01.device)
        # Autocast would take the distance's differences of features in half precision.
        with torch.autocast(first01.device.type, enabled=False):
            return self._network(first01.float(), second01.float(), normalize=True).mean()
