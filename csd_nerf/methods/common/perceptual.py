"""LPIPS that is built at first use.

nerfstudio's models build LPIPS at once and download AlexNet's weights, so that without a
network neither training nor evaluation would start. It would also be saved in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


class LpipsAtFirstUse:
    """To be mixed into a model of nerfstudio: its LPIPS is built at first use.

    Attributes:
        perceptual: LPIPS.
    """

    config: Any
    lpips: Any

    def populate_modules(self) -> None:
        """Build the model."""
        self.perceptual = LazyPerceptualDistance()
        with _lpips_replaced(self.perceptual):
            super().populate_modules()  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def uses_perceptual_loss(self) -> bool:
        """Whether the editing stage needs LPIPS."""
        return self.config.lpips_weight > 0

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The model's metrics, without LPIPS if its weights are not on disk."""
        plain: Any = super().get_image_metrics_and_images  # pyright: ignore[reportAttributeAccessIssue]
        if self.perceptual.is_available:
            return plain(outputs, batch)
        self.lpips = _not_a_number
        metrics, images = plain(outputs, batch)
        self.lpips = self.perceptual
        del metrics["lpips"]
        return metrics, images


@contextmanager
def _lpips_replaced(distance: LazyPerceptualDistance) -> Iterator[None]:
    """Within it, a model gets `distance` in place of torchmetrics' LPIPS."""
    from torchmetrics.image import lpip

    original = lpip.LearnedPerceptualImagePatchSimilarity
    lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: distance
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = original


def _not_a_number(*_: Tensor) -> float:
    return float("nan")
