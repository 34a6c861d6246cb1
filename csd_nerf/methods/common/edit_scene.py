"""The part of `Scene` that all editing methods share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from csd_nerf.methods.common.edited_images import EditedImages
from csd_nerf.methods.common.edits import EditFolder
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.scene.protocol import Scene, SceneRender


@runtime_checkable
class StageHost(Protocol):
    """What a scene requires of its trainer."""

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Do the trainer's part of `Scene.begin_editing`."""
        ...


class PhotographScene(Scene):
    """A scene's training images, their names and their edits; the rest of `Scene` is a method's.

    Attributes:
        host: The trainer; must be set before training begins.
        edits: The run's folder of edited images; must be set before a state is saved.
        loaded_edits: That of the run that is loaded; must be set before a state is loaded.
    """

    host: StageHost
    edits: EditFolder
    loaded_edits: EditFolder | None = None

    def __init__(self, model: Any, images: EditedImages) -> None:
        """Take a model of nerfstudio with `blend_background`, and its training images."""
        self._scene_model, self._edited_images = model, images

    @property
    def num_views(self) -> int:
        """Number of training views."""
        return self._edited_images.num_views

    def name(self, view: int) -> str:
        """The photograph's path from the folder of the data."""
        return self._edited_images.names[view]

    def photograph01(self, view: int) -> Float[Tensor, "3 H W"]:
        """The photograph; transparent parts are blended with the model's background."""
        image = self._edited_images.photograph01(view).to(self._scene_model.device)
        return self._scene_model.blend_background(image).permute(2, 0, 1)

    @torch.no_grad()
    def rendered(self, view: int, size: tuple[int, int]) -> tuple[SceneRender, Cameras]:
        """Render a training view with its optimised camera pose; the depth is as the model has it.

        nerfstudio applies its camera optimizer in training only. A render that is compared with the
        photograph needs the pose that training uses for the photograph.

        Returns:
            The render, and the camera that it was made with.
        """
        model, cameras = self._scene_model, self._edited_images.train_dataset.cameras
        camera = cameras[view : view + 1].to(model.device)
        camera.metadata = {**(camera.metadata or {}), "cam_idx": view}
        scaled = resized_camera(camera, size)
        scaled.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera)
        was_training = model.training
        model.eval()
        outputs = model.get_outputs_for_camera(scaled)
        model.train(was_training)
        image01 = outputs["rgb"].permute(2, 0, 1).clamp(0, 1)
        return SceneRender(image01, outputs["depth"][..., 0]), scaled

    def reset_images(self) -> None:
        """Train on the photographs again."""
        self._edited_images.reset_images()

    def save_edits(self) -> dict[str, Any]:
        """Write edited images to the folder `edits`, and return their records by name."""
        if not self._edited_images.edited:
            return {}
        return self._edited_images.save_edits(self.edits, loaded=self.loaded_edits)

    def load_edits(self, state: Mapping[str, Any]) -> None:
        """Train on the edited images of a state again.

        Raises:
            MethodError: If an edited image is missing, or doesn't fit.
        """
        if "edited" in state:
            # Earlier releases kept the images in the checkpoint, by number.
            self._check_numbers(state["edited"])
            self.set_edited(state["edited"])
        elif state["edits"]:
            assert self.loaded_edits is not None, "loaded_edits must be set before"
            self._edited_images.load_edits(state["edits"], self.loaded_edits)

    def forget_older_edits(self) -> None:
        """Delete edits that only an earlier state named, once a later one is saved for good."""
        self.edits.keep_only(self._edited_images.edit_files)

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
