"""The interface between the editing stage and a 3D scene.

Images are RGB. `image01` is float32 in [0, 1], channels first; edited images are 8-bit, channels
last. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.scene.masks import SceneMasks


@dataclass(frozen=True)
class SceneRender:
    """A rendered view.

    Attributes:
        image01: Colours.
        depth: Distance from the camera centre along each pixel's ray, in the scene's units.
        axial: The same distance along the camera's axis; None if it isn't known.
        points: The points of the surface that the pixels show, in the scene's coordinates; None if
            they aren't known.
    """

    image01: Float[Tensor, "3 h w"]
    depth: Float[Tensor, "h w"]
    axial: Float[Tensor, "h w"] | None = None
    points: Float[Tensor, "h w 3"] | None = None


@runtime_checkable
class Scene(Protocol):
    """A scene that is trained on photographs, which edited images can replace.

    The caller runs the training loop. Before every training step it calls the `EditingStage`, which
    may render views of the scene and give it edited images to train on. This is all that a run
    without a user needs; a viewer's requests, and edits on top of edits, need a `LiveScene`.

    Views are numbered 0 to num_views - 1. A number must denote the same photograph in all methods
    of this class. In a resumed run photographs may have been added, removed or reordered: there, a
    photograph is known by its name.

    Example:
        A scene that consists of one image per view, and its training loop. A training step moves
        each image halfway to its training image.

        ```python
        import torch

        from csd_nerf import priors
        from csd_nerf.media.pixels import resize01
        from csd_nerf.scene.protocol import SceneRender
        from csd_nerf.scene.options import StageOptions
        from csd_nerf.scene.stage import EditingStage


        class ImageScene:
            def __init__(self, photographs01):
                self.photographs01 = photographs01
                self.edited = {}
                self.images01 = torch.full_like(photographs01, 0.5)

            @property
            def num_views(self):
                return len(self.photographs01)

            def name(self, view):
                return f"image {view}"

            def photograph01(self, view):
                return self.photographs01[view]

            def render(self, view, *, size):
                image01 = resize01(self.images01[view : view + 1], size)[0]
                return SceneRender(image01, depth=torch.ones(size))

            def set_edited(self, images):
                self.edited |= images

            def begin_editing(self, *, is_resumed):
                print("goes on editing" if is_resumed else "begins to edit")

            def state_dict(self):
                return {"edited": {self.name(v): image for v, image in self.edited.items()}}

            def load_state_dict(self, state):
                edited, views = state["edited"], range(self.num_views)
                self.edited = {v: edited[self.name(v)] for v in views if self.name(v) in edited}

            def train_step(self):
                for view, image01 in enumerate(self.images01):
                    target01 = self.photographs01[view]
                    if view in self.edited:
                        target01 = self.edited[view].permute(2, 0, 1) / 255
                    image01.lerp_(target01, 0.5)


        scene = ImageScene(torch.rand(6, 3, 48, 64))
        options = StageOptions(
            prompt="make it night", source_steps=10, edit_steps=30, edit_every=10, edit_views=2
        )
        stage = EditingStage(scene, options, prior=lambda: priors.load("tiny"))
        plan = stage.plan_run()
        for step in range(plan.end):
            stage.before_step(step)
            scene.train_step()
        ```
    """

    @property
    def num_views(self) -> int:
        """Number of training views, at least 1; it never changes."""
        ...

    def name(self, view: int) -> str:
        """Name of the photograph, which no other view has, such as its path in a folder."""
        ...

    def photograph01(self, view: int) -> Float[Tensor, "3 H W"]:
        """The original photograph, never its edit, in full size; views may differ in size."""
        ...

    def render(self, view: int, *, size: tuple[int, int]) -> SceneRender:
        """Render a training view at a size that may differ from the photograph's.

        The render must show what the photograph shows: scale focal length and principal point in x
        with the width and in y with the height, and use the pose that training uses for the
        photograph. Rendering builds no autograd graph and doesn't change the scene.
        """
        ...

    def set_edited(self, images: Mapping[int, UInt8[Tensor, "_ _ 3"]]) -> None:
        """From the next step on, train on these images in place of the photographs.

        Views that are not in `images` keep their current training image.

        Raises:
            ValueError: If the size of an image isn't its photograph's.
        """
        ...

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Prepare training for the editing stage: change losses, ray sampling or densification.

        Called once per process, before the first step in the editing stage.

        Args:
            is_resumed: Whether the run was loaded from a checkpoint within the editing stage. If
                not, the scene has just been trained on the photographs: this is the moment to save
                a copy of it and to reset the optimizers.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state to save in a checkpoint beside the trained parameters.

        It holds the edited images by the names of their photographs, and all counters that training
        depends on, as tensors, numbers, strings, lists and dicts, so that `torch.load(...,
        weights_only=True)` can read it. In place of large images it may hold the names of files,
        which this call writes whole before it returns.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`, so that training continues as if never interrupted.

        The edits of photographs that are gone are left out; new photographs have none.
        """
        ...


@runtime_checkable
class LiveScene(Scene, Protocol):
    """A scene that can also go back to what it was, and be seen as it was before it was edited.

    The stage asks for it while a user is there (previews, undoing, before and after) and for edits
    on top of edits, `StageOptions.chain`.

    A snapshot is a dictionary of tensors on the CPU, numbers, strings, lists and dicts, such as
    `torch.load(..., weights_only=True)` can read. The stage keeps it in memory or in a file. In
    place of large images it may hold the names of files, as `state_dict` may.

    Example:
        What the scene of `Scene`'s example needs in addition. A camera is the number of a view
        here, in an object that says how large a picture of it is.

        ```python
        class LiveImageScene(ImageScene):
            unedited01 = None

            def render_at(self, camera, *, size, unedited=False):
                if unedited and self.unedited01 is not None:
                    return self.render_unedited(camera.view, size=size)
                return self.render(camera.view, size=size)

            def render_unedited(self, view, *, size):
                image01 = resize01(self.unedited01[view : view + 1], size)[0]
                return SceneRender(image01, depth=torch.ones(size))

            def snapshot(self):
                return {"images01": self.images01.clone(), "edited": dict(self.edited)}

            def restore(self, snapshot):
                self.images01 = snapshot["images01"].clone()
                self.edited = dict(snapshot["edited"])

            def keep_unedited(self, snapshot=None):
                self.unedited01 = (snapshot or self.snapshot())["images01"].clone()
        ```
    """

    def render_at(
        self, camera: Any, *, size: tuple[int, int], unedited: bool = False
    ) -> SceneRender:
        """Render what a camera sees, as `render` does for a training view.

        Args:
            camera: A camera of the scene's own kind, with `height` and `width` in pixels.
            size: Height and width of the render.
            unedited: Render the unedited scene, if one is kept; else there is only one.
        """
        ...

    def render_unedited(self, view: int, *, size: tuple[int, int]) -> SceneRender:
        """Render a training view of the unedited scene, as `render` would have at that time."""
        ...

    def keep_unedited(self, snapshot: Mapping[str, Any] | None = None) -> None:
        """From now on the unedited scene is what there is now, or what there was in a snapshot.

        Called as the editing stage begins, and when an edit begins on top of an edited scene. It
        must be kept where it can be rendered at once, and not be saved with the state: the stage
        does that, by `snapshot`.
        """
        ...

    def snapshot(self) -> dict[str, Any]:
        """What the scene shows and trains on: parameters, edited images and counters.

        Optimizers are not part of it.
        """
        ...

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what there was in a snapshot, so that renders are equal to the last bit.

        The edited images are those of the snapshot. Optimizers start anew, as in `begin_editing`.
        If this fails, nothing has changed.
        """
        ...


@runtime_checkable
class HoldsOutside(Protocol):
    """A scene that can be trained in a region alone."""

    def hold_outside(self, masks: SceneMasks | None) -> None:
        """From the next step on, keep the scene outside of a region as the unedited scene is.

        Photographs alone don't: a scene that isn't trained to the end moves towards them, and
        parameters that both sides share move with the edit.

        Args:
            masks: The region; None lets all of the scene change.
        """
        ...


@runtime_checkable
class PhotographFiles(Protocol):
    """A scene whose photographs are files, beside which masks and label images may lie."""

    def photograph_file(self, view: int) -> Path:
        """The file of a photograph."""
        ...

    def file_size(self, view: int) -> tuple[int, int]:
        """Height and width of the picture in that file, as a user sees it."""
        ...

    def as_photograph(self, view: int, mask: Float[Tensor, "h w"]) -> Float[Tensor, "H W"]:
        """A mask of that picture, scaled and undistorted as `photograph01` is."""
        ...
