"""Nerfacto with a second loss for the editing stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from torch import Tensor

from csd_nerf.methods.common.perceptual import LpipsAtFirstUse
from csd_nerf.methods.common.unedited import ShowsUnedited
from csd_nerf.methods.csd_edit.datamanager import HELD, UNUSED

EditingPoses = Literal["off", "in2n"]
"""What becomes of the optimisation of camera poses in the editing stage."""

PER_PHOTOGRAPH = ("embedding_appearance.embedding.weight", "camera_optimizer.pose_adjustment")
"""Ends of the names of nerfacto's parameters that have a row for each photograph."""


@dataclass
class CSDEditModelConfig(NerfactoModelConfig):
    """Options of the model: nerfacto's and those of the editing stage."""

    _target: type = field(default_factory=lambda: CSDEditModel)
    held_weight: float = 50.0
    """If a region is edited alone: weight of the squared difference between the scene and the
    unedited scene outside of the region. With 50 a difference of 0.01 (40 dB) pulls as strongly as
    the L1 loss inside does."""
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
        # Late: it imports numba.
        from csd_nerf.methods.common.quick_fields import speed_up_fields

        self.patch_size = 1
        super().populate_modules()
        speed_up_fields(self)

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

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Nerfacto's; in training also what the unedited scene shows where rays are held."""
        outputs: dict[str, Any] = super().get_outputs(ray_bundle)  # pyright: ignore[reportAssignmentType]
        held = (ray_bundle.metadata or {}).get(HELD)
        if self.training and held is not None:
            # Nerfacto has corrected the rays' poses in place.
            outputs[HELD] = self._unedited_rgb(ray_bundle, held[:, 0])
        return outputs

    @torch.no_grad()
    def _unedited_rgb(self, rays: RayBundle, held: Bool[Tensor, "rays"]) -> Float[Tensor, "rays 3"]:
        """Colours of the unedited scene along some of the rays; black along the others."""
        kept = self.unedited
        kept.eval()
        # Only in training it takes the appearance of the photograph itself.
        kept.field.train()
        shown01 = torch.zeros(len(held), 3, device=rays.origins.device)
        if bool(held.any()):
            shown01[held] = kept.get_outputs(rays[held])["rgb"].to(shown01)
        return shown01

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict | None = None
    ) -> dict[str, Tensor]:
        """Nerfacto's losses; when training in the editing stage, also LPIPS on the patches."""
        if HELD not in outputs:
            return self._edit_losses(outputs, batch, metrics_dict)
        held, target = batch[HELD].to(self.device), outputs[HELD]
        error = ((outputs["rgb"] - target) ** 2).where(held, 0.0).sum() / (3 * len(held))
        # Pixels that don't count are as the loss wants them.
        skipped = held | batch[UNUSED].to(self.device)
        image = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        shown = {**outputs, "rgb": torch.where(skipped, image, outputs["rgb"])}
        losses = self._edit_losses(shown, {**batch, "image": image}, metrics_dict)
        return {**losses, "held_loss": self.config.held_weight * error}

    def _edit_losses(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict | None
    ) -> dict[str, Tensor]:
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if self.training and self.patch_size > 1 and self.uses_perceptual_loss:
            truth = self.renderer_rgb.blend_background(batch["image"].to(self.device))
            distance = self.perceptual(self._patches(outputs["rgb"]), self._patches(truth))
            losses["lpips_loss"] = self.config.lpips_weight * distance
        return losses

    def _patches(self, rgb: Float[Tensor, "rays 3"]) -> Float[Tensor, "n 3 p p"]:
        patches = rgb.view(-1, self.patch_size, self.patch_size, 3).permute(0, 3, 1, 2)
        return patches.clamp(0, 1)
