"""The `Scene` interface of the editing stage for a nerfacto model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from csd_nerf.methods.common.edit_scene import PhotographScene, surface_points
from csd_nerf.methods.csd_edit.datamanager import CSDEditDataManager
from csd_nerf.methods.csd_edit.model import PER_PHOTOGRAPH, CSDEditModel
from csd_nerf.scene.masks import SceneMasks
from csd_nerf.scene.protocol import SceneRender


class NerfactoScene(PhotographScene):
    """The `Scene` of a nerfacto model and its training images."""

    per_photograph = PER_PHOTOGRAPH

    def __init__(self, model: CSDEditModel, images: CSDEditDataManager) -> None:
        super().__init__(model, images)
        self._model, self._images = model, images

    @property
    def _background(self) -> Float[Tensor, "3"]:
        """What training shows through a fully transparent pixel."""
        return self._model.blend_background(torch.zeros(4))

    def completed(
        self, image01: Float[Tensor, "3 h w"], depth: Float[Tensor, "h w"], camera: Cameras
    ) -> SceneRender:
        """A render; nerfacto's depth is along rays."""
        rays = camera.generate_rays(0, keep_shape=True)
        # A ray's length for one along the axis; 1 for cameras of other projections.
        lengths = rays.metadata["directions_norm"][..., 0]
        points = surface_points(rays, depth)
        return SceneRender(image01, depth, axial=depth / lengths, points=points)

    def set_edited(self, images: Mapping[int, UInt8[Tensor, "_ _ 3"]]) -> None:
        """Train on edited images from now on."""
        self._images.set_edited(images, background=self._background)

    def hold_outside(self, masks: SceneMasks | None) -> None:
        """Train pixels outside of a region on what the unedited scene shows there."""
        self._images.hold_outside(masks)

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Draw rays in patches, and use the losses for patches."""
        self.host.begin_editing(is_resumed=is_resumed)
        self._images.begin_editing()
        self._model.begin_editing(patch_size=self._images.config.edit_patch_size)

    def state_dict(self) -> dict[str, Any]:
        """What `Scene.state_dict` says; edited images are written to the folder `edits`.

        They are recorded by their photographs' names. The counters are those that decide when
        proposal networks are trained.
        """
        return {"edits": self.save_edits(), "sampler": self._model.counters()}

    def state_of(self, model: CSDEditModel) -> dict[str, Any]:
        """Its sampler's counters, by which it anneals densities."""
        return model.counters()

    def set_state_of(self, model: CSDEditModel, state: Mapping[str, Any]) -> None:
        """Set what `state_of` gave."""
        model.set_counters(state)

    def load_counters(self, state: Mapping[str, Any]) -> None:
        """Restore the sampler's counters, which nerfstudio itself would reset."""
        self._model.set_counters(state["sampler"])

    @torch.no_grad()
    def surface(self, *, rays: int) -> tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]:
        """Points of the surfaces that the training views see, in the scene's coordinates.

        Args:
            rays: Number of rays of all views together, about. Those that meet nothing are left out.

        Returns:
            The points, and their colours.
        """
        model, points, colours = self._model, [], []
        edge = max(round((rays / self.num_views) ** 0.5), 1)
        before, was_training = model.counters(), model.training
        model.eval()
        for view in range(self.num_views):
            camera = self.camera(model, view, (edge, edge))
            bundle = camera.generate_rays(0, keep_shape=True)
            with model.unedited_hidden():
                outputs = model.get_outputs_for_camera(camera)
            seen = outputs["accumulation"][..., 0] > 0.5
            ends = bundle.origins + outputs["depth"] * bundle.directions
            points.append(ends[seen].cpu())
            colours.append((255 * outputs["rgb"][seen].clamp(0, 1)).round().byte().cpu())
        model.train(was_training)
        model.set_counters(before)
        return torch.cat(points), torch.cat(colours)
