"""What the editing stage needs of a 3D scene, whatever represents it.

Images are RGB. `image01` is float32 in [0, 1], channels first; edited images are 8-bit, channels
last. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class SceneRender:
    """A view as the scene shows it now.

    Attributes:
        image01: Colours.
        depth: Distance from the camera along each pixel's ray, in the scene's units.
    """

    image01: Float[Tensor, "3 h w"]
    depth: Float[Tensor, "h w"]


@runtime_checkable
class Scene(Protocol):
    """A scene that is trained on photographs, which edited images can replace.

    The training loop is the caller's. The `EditingStage` stands beside it: before every training
    step it may look at the scene and hand it new images to train on.

    Views are numbered 0 to num_views - 1. The number of a view means the same photograph in every
    method and in every resumed run.

    Example:
        A scene that is nothing but one image a view, and the loop around it. A training step
        brings each image halfway to what it is trained on.

        ```python
        import torch

        from csd_nerf import priors
        from csd_nerf.media.pixels import resize01
        from csd_nerf.scene.protocol import SceneRender
        from csd_nerf.scene.stage import EditingStage, StageOptions


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

            def reset_images(self):
                self.edited = {}

            def begin_editing(self, *, is_resumed):
                print("goes on editing" if is_resumed else "begins to edit")

            def state_dict(self):
                return {"edited": dict(self.edited)}

            def load_state_dict(self, state):
                self.edited = dict(state["edited"])

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
        """A name by which a person finds the photograph, such as its file's."""
        ...

    def photograph01(self, view: int) -> Float[Tensor, "3 H W"]:
        """The photograph in full size, never its edit; views may differ in size."""
        ...

    def render(self, view: int, *, size: tuple[int, int]) -> SceneRender:
        """Render a training view at another size than the photograph's.

        The render shows what the photograph shows: focal lengths and principal point scale with
        width and height, and the pose is the one that training uses for the photograph.
        Rendering has no autograd graph and leaves the scene as it is.
        """
        ...

    def set_edited(self, images: Mapping[int, UInt8[Tensor, "_ _ 3"]]) -> None:
        """Train on these images in place of the photographs, from the next step on.

        Views that are not named keep the image that they have.

        Raises:
            ValueError: If an image has not its photograph's size.
        """
        ...

    def reset_images(self) -> None:
        """Train on the photographs again, in all views."""
        ...

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Change what training needs to change: losses, how rays are drawn, densification.

        Called once in a process, before the first step of the editing stage.

        Args:
            is_resumed: Whether the run was loaded from a checkpoint within the editing stage.
                Otherwise the source was trained up to here: this is the moment to keep a copy of
                it and to start the optimizers afresh.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the trained parameters.

        These are the edited images, and counters on which training depends. Tensors, numbers,
        strings, lists and dicts only, so that `torch.load(..., weights_only=True)` reads it.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave: training then goes on as if it had never stopped."""
        ...
