"""The part of `Scene` that all editing methods share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from csd_nerf.core.copies import on_cpu
from csd_nerf.media.images import image_size
from csd_nerf.methods.common.checkpoints import OUR_STATE
from csd_nerf.methods.common.edited_images import EditedImages
from csd_nerf.methods.common.edits import EditFolder
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.scene.protocol import LiveScene, SceneRender


@runtime_checkable
class StageHost(Protocol):
    """What a scene requires of its trainer."""

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Do the trainer's part of `Scene.begin_editing`."""
        ...

    def renew_optimizers(self) -> None:
        """Start with new optimizers for the parameters that the model has now."""
        ...


class PhotographScene(LiveScene):
    """A scene's model, training images, their names and their edits; the rest is a method's.

    A camera of `render_at` is nerfstudio's `Cameras` with one camera.

    Attributes:
        host: The trainer; must be set before training begins.
        edits: The run's folder of edited images; must be set before a state is saved.
        loaded_edits: That of the run that is loaded; must be set before a state is loaded.
    """

    per_photograph: ClassVar[tuple[str, ...]]
    """Ends of the names of parameters that have a row for each photograph."""
    host: StageHost
    edits: EditFolder
    loaded_edits: EditFolder | None = None

    def __init__(self, model: Any, images: EditedImages) -> None:
        """Take a model of nerfstudio, `ShowsUnedited`, and its training images."""
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

    def cameras(self) -> Iterator[Cameras]:
        """The camera of each training view, before its optimised correction."""
        cameras = self._edited_images.train_dataset.cameras
        return (cameras[view : view + 1] for view in range(self.num_views))

    def photograph_file(self, view: int) -> Path:
        """The file that the photograph was read from."""
        return Path(self._edited_images.train_dataset.image_filenames[view])

    def file_size(self, view: int) -> tuple[int, int]:
        """Height and width of the picture in that file, upright."""
        return image_size(self.photograph_file(view))

    def as_photograph(self, view: int, mask: Float[Tensor, "h w"]) -> Float[Tensor, "H W"]:
        """A mask of that picture, scaled and undistorted as the photograph is."""
        return self._edited_images.as_photograph(view, mask)

    def render(self, view: int, *, size: tuple[int, int]) -> SceneRender:
        """Render a training view with its optimised camera pose.

        nerfstudio applies its camera optimizer in training only. A render that is compared with the
        photograph needs the pose that training uses for the photograph.
        """
        return self._render_view(self._scene_model, view, size)

    def render_unedited(self, view: int, *, size: tuple[int, int]) -> SceneRender:
        """Render a training view of the unedited scene, with its pose of then."""
        return self._render_view(self._scene_model.unedited, view, size)

    def render_at(
        self, camera: Cameras, *, size: tuple[int, int], unedited: bool = False
    ) -> SceneRender:
        """Render what a camera sees."""
        model = self._scene_model
        # Rendering may count as a step of training.
        before = self.state_of(model)
        scaled = resized_camera(camera.to(model.device), size)
        try:
            return self._render(model.unedited if unedited else model, scaled)
        finally:
            self.set_state_of(model, before)

    @torch.no_grad()
    def _render_view(self, model: Any, view: int, size: tuple[int, int]) -> SceneRender:
        return self._render(model, self.camera(model, view, size))

    @torch.no_grad()
    def camera(self, model: Any, view: int, size: tuple[int, int]) -> Cameras:
        """The camera of a training view at a size, with its pose as a model has optimised it."""
        cameras = self._edited_images.train_dataset.cameras
        camera = cameras[view : view + 1].to(model.device)
        camera.metadata = {**(camera.metadata or {}), "cam_idx": view}
        scaled = resized_camera(camera, size)
        scaled.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera)
        return scaled

    @torch.no_grad()
    def _render(self, model: Any, camera: Cameras) -> SceneRender:
        was_training = model.training
        model.eval()
        with model.unedited_hidden():
            outputs = model.get_outputs_for_camera(camera)
        model.train(was_training)
        image01 = outputs["rgb"].permute(2, 0, 1).clamp(0, 1)
        return self.completed(image01, outputs["depth"][..., 0], camera)

    def completed(
        self, image01: Float[Tensor, "3 h w"], depth: Float[Tensor, "h w"], camera: Cameras
    ) -> SceneRender:
        """A render, from colours, the depth as the model has it, and the camera."""
        raise NotImplementedError

    def state_of(self, model: Any) -> dict[str, Any]:
        """What a render depends on beside the model's parameters."""
        raise NotImplementedError

    def set_state_of(self, model: Any, state: Mapping[str, Any]) -> None:
        """Set what `state_of` gave."""
        raise NotImplementedError

    def load_counters(self, state: Mapping[str, Any]) -> None:
        """Restore all of a state but the edits."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`.

        Raises:
            MethodError: If an edited image is missing, or doesn't fit.
        """
        self.load_edits(state)
        self.load_counters(state)

    def snapshot(self) -> dict[str, Any]:
        """The model, and what `state_dict` says; edited images are named, as there."""
        model = self._scene_model
        return on_cpu(
            {
                **self.state_dict(),
                "parameters": model.state_dict(),
                "rendered": self.state_of(model),
                "views": self._edited_images.names,
            }
        )

    def snapshot_of(self, state: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        """The snapshot that a checkpoint of this method amounts to.

        Args:
            state: The state of the pipeline.
            step: The step after it.
        """
        ours, prefix = state[OUR_STATE], "_model."
        names = [name for name in state if name.startswith(prefix)]
        return {
            **ours["scene"],
            "parameters": {name.removeprefix(prefix): state[name] for name in names},
            "rendered": {"step": step, **ours["scene"].get("sampler", {})},
            "views": ours.get("views"),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what there was in a snapshot.

        Raises:
            MethodError: If an edited image is missing, or the model was another. Nothing has
                changed.
        """
        model = self._scene_model
        edits = self._edited_images.read_edits(snapshot["edits"], self.edits)
        model.take_parameters(self._parameters(snapshot))
        self.set_state_of(model, snapshot["rendered"])
        self._edited_images.take_edits(edits)
        self.load_counters(snapshot)
        self.host.renew_optimizers()

    def keep_unedited(self, snapshot: Mapping[str, Any] | None = None) -> None:
        """Keep a second model on the model's device."""
        if snapshot is None:
            snapshot = self.snapshot()
        self._scene_model.keep_unedited(self._parameters(snapshot))
        self.set_state_of(self._scene_model.unedited, snapshot["rendered"])

    def _parameters(self, snapshot: Mapping[str, Any]) -> dict[str, Tensor]:
        return by_photograph(
            snapshot["parameters"],
            snapshot["views"],
            self._edited_images.names,
            per_photograph=self.per_photograph,
        )

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

    def take_over_edits(self, snapshots: Iterable[Mapping[str, Any]]) -> None:
        """Make the edits that snapshots of the loaded run name this run's too."""
        for snapshot in snapshots:
            for record in snapshot["edits"].values():
                if self.loaded_edits is not None:
                    self.edits.take_over(record, self.loaded_edits, copies=True)

    def forget_older_edits(self, snapshots: Iterable[Mapping[str, Any]] = ()) -> None:
        """Delete edits that only an earlier state named, once a later one is saved for good.

        Args:
            snapshots: Those whose edits are kept too.
        """
        named = {r["file"] for snapshot in snapshots for r in snapshot["edits"].values()}
        self.edits.keep_only(self._edited_images.edit_files | named)

    def _check_numbers(self, edited: Mapping[int, Any]) -> None:
        if edited and max(edited) >= self.num_views:
            raise MethodError(
                f"The run that is loaded, of an earlier release, needs the photographs that it "
                f"had, got {self.num_views} for an edit of number {max(edited)}; restore them, or "
                "load its source_models."
            )


def surface_points(rays: RayBundle, depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """The points at these distances along a camera's rays, in the scene's coordinates.

    These are the axes and the scale after nerfstudio's transform of the poses: those of the boxes
    of its viewer's crop and of ns-export. In the viewer's own space they are 10 times as large.
    """
    return rays.origins + depth[..., None] * rays.directions


def by_photograph(
    state: Mapping[str, Any],
    before: Sequence[str] | None,
    now: Sequence[str],
    *,
    per_photograph: tuple[str, ...],
) -> dict[str, Any]:
    """A model's state with what is kept for each photograph in the order of this run's.

    Args:
        state: Parameters by name.
        before: Names of the photographs of the state; None if they aren't known.
        now: Names of the photographs of this run.
        per_photograph: Ends of the names of parameters that have a row for each photograph.

    Raises:
        MethodError: If their number differs, and the names aren't known.
    """
    ordered = dict(state)
    for key, table in state.items():
        if not key.endswith(per_photograph):
            continue
        if before is not None:
            ordered[key] = rows_by_name(table, before, now)
        elif len(table) != len(now):
            raise MethodError(
                f"The scene that is loaded was trained on {len(table)} photographs, got "
                f"{len(now)}; name the data, its split and its eval-mode as they were then."
            )
    return ordered


def rows_by_name(
    table: Float[Tensor, "n d"], before: Sequence[str], now: Sequence[str]
) -> Float[Tensor, "m d"]:
    """Order the rows of a table by other names; new names get the mean of all rows.

    Raises:
        ValueError: If the table doesn't have a row for each name.
    """
    row_of = dict(zip(before, table, strict=True))
    mean = table.mean(0)
    return torch.stack([row_of.get(name, mean) for name in now])


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
