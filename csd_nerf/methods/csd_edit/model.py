"""Nerfacto with a second loss for the editing stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from torch import Tensor

from csd_nerf.methods.common.perceptual import LpipsAtFirstUse
from csd_nerf.methods.common.unedited import ShowsUnedited

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


class CSDEditModel(ShowsUnedited, LpipsAtFirstUse, NerfactoModel):
    """Nerfacto, with L1 + LPIPS on patches instead of squared errors in the editing stage.

    The losses and the patches of 32 pixels are those of Instruct-NeRF2NeRF, which the paper adopts
    for its 3D experiments (CSD, Appendix B).
    """

    config: CSDEditModelConfig

    def populate_modules(self) -> None:
        """Build nerfacto."""
        self.patch_size = 1
        super().populate_modules()

    def begin_editing(self, *, patch_size: int) -> None:
        """Switch to the losses of the editing stage.

        Args:
            patch_size: Edge in pixels of the square patches of rays from now on.
        """
        self.rgb_loss = torch.nn.L1Loss()
        self.patch_size = patch_size

    def counters(self) -> dict[str, Any]:
        """What decides when proposal networks are trained, and how densities are annealed."""
        sampler = self.proposal_sampler
        return {
            "step": int(sampler._step),
            "since": int(sampler._steps_since_update),
            "anneal": float(sampler._anneal),
        }

    def set_counters(self, counters: Mapping[str, Any]) -> None:
        """Restore what `counters` gave; earlier releases saved no annealing."""
        sampler = self.proposal_sampler
        sampler._step, sampler._steps_since_update = counters["step"], counters["since"]
        sampler._anneal = counters.get("anneal", sampler._anneal)

    def blend_background(self, image: Float[Tensor, "*pixels c"]) -> Float[Tensor, "*pixels 3"]:
        """RGB as it is; RGBA over the background of training."""
        return self.renderer_rgb.blend_background(image)

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

    def _patches(self, rgb: Float[Tensor, "rays 3"]) -> Float[Tensor, "n 3 p p"]:
        patches = rgb.view(-1, self.patch_size, self.patch_size, 3).permute(0, 3, 1, 2)
        return patches.clamp(0, 1)
