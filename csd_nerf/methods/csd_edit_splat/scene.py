"""The `Scene` interface of the editing stage for splats."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from csd_nerf.methods.common.edit_scene import PhotographScene, surface_points
from csd_nerf.methods.csd_edit_splat.datamanager import CSDEditSplatDataManager
from csd_nerf.methods.csd_edit_splat.model import PER_PHOTOGRAPH, CSDEditSplatModel
from csd_nerf.scene.masks import SceneMasks
from csd_nerf.scene.protocol import SceneRender


class SplatScene(PhotographScene):
    """The `Scene` of a splatfacto model and its training images."""

    per_photograph = PER_PHOTOGRAPH

    def __init__(self, model: CSDEditSplatModel, images: CSDEditSplatDataManager) -> None:
        super().__init__(model, images)
        self._model, self._images = model, images

    def completed(
        self, image01: Float[Tensor, "3 h w"], depth: Float[Tensor, "h w"], camera: Cameras
    ) -> SceneRender:
        """A render; a splat's depth is along the camera's axis."""
        along = depth * ray_lengths(camera)
        # Photographs are undistorted when they are read, and their cameras keep the distortion.
        pinhole = copy.copy(camera)
        pinhole.distortion_params = None
        points = surface_points(pinhole.generate_rays(0, keep_shape=True), along)
        return SceneRender(image01, along, axial=depth, points=points)

    def set_edited(self, images: Mapping[int, UInt8[Tensor, "_ _ 3"]]) -> None:
        """Train on edited images from now on."""
        self._images.set_edited(images, background=self._model.background_color)

    def hold_outside(self, masks: SceneMasks | None) -> None:
        """Train the Gaussians alone whose centres lie in a region."""
        self._model.hold_outside(None if masks is None else masks.inside)

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Use the loss of the editing stage."""
        self.host.begin_editing(is_resumed=is_resumed)
        self._images.begin_editing()
        self._model.begin_editing()
        # The host may have other optimizers now, which densification must change.
        self._model.step_cb(self.host, self._model.step)

    def state_dict(self) -> dict[str, Any]:
        """What `Scene.state_dict` says; edited images are written to the folder `edits`.

        The other parts are the order of the views, and what densification has counted so far.
        """
        return {
            "edits": self.save_edits(),
            "order": self._images.order_state(),
            "strategy": {**self._model.strategy_state},
        }

    def state_of(self, model: CSDEditSplatModel) -> dict[str, Any]:
        """Its step, which decides how many spherical harmonics it shows."""
        return {"step": int(model.step)}

    def set_state_of(self, model: CSDEditSplatModel, state: Mapping[str, Any]) -> None:
        """Set what `state_of` gave, but in training.

        There the step is the run's. Harmonics that were not shown then are zero still.
        """
        if model is not self._model:
            model.step = state["step"]

    def load_counters(self, state: Mapping[str, Any]) -> None:
        """Restore the order of the views, and what densification has counted."""
        self._images.load_order(state["order"])
        device = self._model.device
        for name, value in state["strategy"].items():
            moved = value.to(device, copy=True) if isinstance(value, Tensor) else value
            self._model.strategy_state[name] = moved

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what there was in a snapshot, which may have another number of Gaussians."""
        super().restore(snapshot)
        # Densification must change the optimizers that there are now.
        self._model.step_cb(self.host, self._model.step)


def ray_lengths(camera: Cameras) -> Float[Tensor, "h w"]:
    """Distance from the camera per depth along its axis, for each pixel of a pinhole camera."""
    height, width = int(camera.height), int(camera.width)
    x = (torch.arange(width, device=camera.device) + 0.5 - camera.cx.view(())) / camera.fx.view(())
    y = (torch.arange(height, device=camera.device) + 0.5 - camera.cy.view(())) / camera.fy.view(())
    return (1 + x**2 + y[:, None] ** 2).sqrt()
