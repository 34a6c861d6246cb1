"""The `Scene` interface of the editing stage for a nerfacto model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.csd_edit.datamanager import CSDEditDataManager
from csd_nerf.methods.csd_edit.edits import EditFolder
from csd_nerf.methods.csd_edit.model import CSDEditModel
from csd_nerf.scene.protocol import SceneRender


@runtime_checkable
class StageHost(Protocol):
    """What a scene requires of its trainer."""

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Do the trainer's part of `Scene.begin_editing`."""
        ...


class NerfactoScene:
    """The `Scene` of a nerfacto model and its training images.

    Attributes:
        host: The trainer; must be set before training begins.
        edits: The run's folder of edited images; must be set before a state is saved.
        loaded_edits: That of the run that is loaded; must be set before a state is loaded.
    """

    host: StageHost
    edits: EditFolder
    loaded_edits: EditFolder | None = None

    def __init__(self, model: CSDEditModel, images: CSDEditDataManager) -> None:
        self._model, self._images = model, images

    @property
    def num_views(self) -> int:
        """Number of training views."""
        return self._images.num_views

    def name(self, view: int) -> str:
        """The photograph's path from the folder of the data."""
        return self._images.names[view]

    def photograph01(self, view: int) -> Float[Tensor, "3 H W"]:
        """The photograph; transparent parts are blended with the training background."""
        image = self._images.photograph01(view).to(self._model.device)
        return self._model.renderer_rgb.blend_background(image).permute(2, 0, 1)

    @property
    def _background(self) -> Float[Tensor, "3"]:
        """What training shows through a fully transparent pixel."""
        return self._model.renderer_rgb.blend_background(torch.zeros(4))

    @torch.no_grad()
    def render(self, view: int, *, size: tuple[int, int]) -> SceneRender:
        """Render a training view with its optimised camera pose.

        nerfstudio applies its camera optimizer in training only. A render that is compared with the
        photograph needs the pose that training uses for the photograph.
        """
        model, cameras = self._model, self._images.train_dataset.cameras
        camera = cameras[view : view + 1].to(model.device)
        camera.metadata = {**(camera.metadata or {}), "cam_idx": view}
        scaled = resized_camera(camera, size)
        scaled.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera)
        was_training = model.training
        model.eval()
        rendered = model.get_outputs_for_camera(scaled)
        model.train(was_training)
        image01 = rendered["rgb"].permute(2, 0, 1).clamp(0, 1)
        return SceneRender(image01, rendered["depth"][..., 0])

    def set_edited(self, images: Mapping[int, UInt8[Tensor, "_ _ 3"]]) -> None:
        """Train on edited images from now on."""
        self._images.set_edited(images, background=self._background)

    def reset_images(self) -> None:
        """Train on the photographs again."""
        self._images.reset_images()

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
        sampler = self._model.proposal_sampler
        records = {}
        if self._images.edited:
            records = self._images.save_edits(self.edits, loaded=self.loaded_edits)
        return {
            "edits": records,
            "sampler": {"step": int(sampler._step), "since": int(sampler._steps_since_update)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`; nerfstudio itself would reset the sampler's counters.

        Raises:
            MethodError: If an edited image is missing, or doesn't fit.
        """
        if "edited" in state:
            # Earlier releases kept the images in the checkpoint, by number.
            self._check_numbers(state["edited"])
            self.set_edited(state["edited"])
        elif state["edits"]:
            assert self.loaded_edits is not None, "loaded_edits must be set before"
            self._images.load_edits(state["edits"], self.loaded_edits)
        sampler = self._model.proposal_sampler
        sampler._step = state["sampler"]["step"]
        sampler._steps_since_update = state["sampler"]["since"]

    def forget_older_edits(self) -> None:
        """Delete edits that only an earlier state named, once a later one is saved for good."""
        self.edits.keep_only(self._images.edit_files)

    def _check_numbers(self, edited: Mapping[int, Any]) -> None:
        if edited and max(edited) >= self.num_views:
            raise MethodError(
                f"The run that is loaded, of an earlier release, needs the photographs that it "
                f"had, got {self.num_views} for an edit of number {max(edited)}; restore them, or "
                "load its source_models."
            )


def resized_camera(camera: Cameras, size: tuple[int, int]) -> Cameras:
    """The same camera for an image of another size (height, width), with the same field of view."""
    vertical, horizontal = size[0] / float(camera.height), size[1] / float(camera.width)
    return Cameras(
        camera_to_worlds=camera.camera_to_worlds,
        fx=camera.fx * horizontal,
        fy=camera.fy * vertical,
        cx=camera.cx * horizontal,
        cy=camera.cy * vertical,
        width=size[1],
        height=size[0],
        distortion_params=camera.distortion_params,
        camera_type=camera.camera_type,
        times=camera.times,
    )
