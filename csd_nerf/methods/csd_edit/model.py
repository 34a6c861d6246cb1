"""Nerfacto with a second loss for the editing stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from torch import Tensor

from csd_nerf.methods.common.perceptual import LazyPerceptualDistance

EditingPoses = Literal["off", "in2n"]
"""What becomes of the optimisation of camera poses in the editing stage."""

PER_PHOTOGRAPH = ("embedding_appearance.embedding.weight", "camera_optimizer.pose_adjustment")
"""Ends of the names of nerfacto's parameters that have a row for each photograph."""


@dataclass
class CSDEditModelConfig(NerfactoModelConfig):
    """Options of the model: nerfacto's and those of the editing stage."""

    _target: type = field(default_factory=lambda: CSDEditModel)
    lpips_weight: float = 1.0
    """Weight of LPIPS on patches in the editing stage. With 0 the loss is L1 alone, and AlexNet's
    weights are not needed."""
    editing_poses: EditingPoses = "off"
    """Optimisation of the camera poses in the editing stage, if `camera_optimizer` is on. off: the
    poses stay as the source stage left them. in2n: as in Instruct-NeRF2NeRF, by Adam with weight
    decay 0.01, at a rate of 6e-4 that falls to 6e-6 over 5,000 steps."""


class CSDEditModel(NerfactoModel):
    """Nerfacto, with L1 + LPIPS on patches instead of squared errors in the editing stage.

    The losses and the patches of 32 pixels are those of Instruct-NeRF2NeRF, which the paper adopts
    for its 3D experiments (CSD, Appendix B).
    """

    config: CSDEditModelConfig

    def populate_modules(self) -> None:
        """Build nerfacto, but its LPIPS only at first use."""
        self.patch_size = 1
        self.perceptual = LazyPerceptualDistance()
        with _lpips_replaced(self.perceptual):
            super().populate_modules()

    def begin_editing(self, *, patch_size: int) -> None:
        """Switch to the losses of the editing stage.

        Args:
            patch_size: Edge in pixels of the square patches of rays from now on.
        """
        self.rgb_loss = torch.nn.L1Loss()
        self.patch_size = patch_size

    @property
    def uses_perceptual_loss(self) -> bool:
        """Whether the editing stage needs LPIPS."""
        return self.config.lpips_weight > 0

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        """Nerfacto's losses; when training in the editing stage, also LPIPS on the patches."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if self.training and self.patch_size > 1 and self.uses_perceptual_loss:
            truth = self.renderer_rgb.blend_background(batch["image"].to(self.device))
            distance = self.perceptual(self._patches(outputs["rgb"]), self._patches(truth))
            losses["lpips_loss"] = self.config.lpips_weight * distance
        return losses

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Nerfacto's metrics, without LPIPS if its weights are not on disk."""
        if self.perceptual.is_available:
            return super().get_image_metrics_and_images(outputs, batch)
        self.lpips = _not_a_number
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        self.lpips = self.perceptual
        del metrics["lpips"]
        return metrics, images

    def _patches(self, rgb: Float[Tensor, "rays 3"]) -> Float[Tensor, "n 3 p p"]:
        patches = rgb.view(-1, self.patch_size, self.patch_size, 3).permute(0, 3, 1, 2)
        return patches.clamp(0, 1)


@contextmanager
def _lpips_replaced(distance: LazyPerceptualDistance) -> Iterator[None]:
    """Within it, nerfacto gets `distance` in place of torchmetrics' LPIPS."""
    from torchmetrics.image import lpip

    original = lpip.LearnedPerceptualImagePatchSimilarity
    lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: distance
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = original


def _not_a_number(*_: Tensor) -> float:
    return float("nan")
