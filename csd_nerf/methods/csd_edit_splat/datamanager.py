"""The training images of splats, which editing rounds replace by edited ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Float, UInt8
from nerfstudio.data.datamanagers.full_images_datamanager import (
    FullImageDatamanager,
    FullImageDatamanagerConfig,
    _undistort_image,
)
from torch import Tensor
from torch.nn import functional

from csd_nerf.methods.common.edited_images import EditedImages
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.photographs import Photographs
from csd_nerf.methods.common.transforms import checked


@dataclass
class CSDEditSplatDataManagerConfig(FullImageDatamanagerConfig):
    """Options of images: nerfstudio's and those of the editing stage."""

    _target: type = field(default_factory=lambda: CSDEditSplatDataManager)
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """Images are kept with 8 bits, as edits are."""
    only_edited_views: bool = False
    """Train only on views that have been edited already, once there are any in the editing
    stage."""
    max_image_size: int | None = None
    """Largest length of the photographs' longer edge in pixels; if one is longer, all are scaled
    down. None means no limit."""
    scene_frame: tyro.conf.Suppress[tuple[float, ...] | None] = None
    """Axes and scale of a scene that is loaded; see csd-edit's option of this name."""

    def __post_init__(self) -> None:
        """Check the type of the images."""
        if self.cache_images_type != "uint8":
            raise MethodError(
                "cache_images_type needs to be uint8, as edits are, got "
                f"{self.cache_images_type}; leave it out."
            )


class CSDEditSplatDataManager(EditedImages, FullImageDatamanager[Photographs]):
    """Gives the edited images of edited views, and the photographs of all others.

    nerfstudio undistorts the photographs as it reads them, and changes their cameras with them;
    here a photograph is the undistorted one.
    """

    config: CSDEditSplatDataManagerConfig

    def __init__(
        self,
        config: CSDEditSplatDataManagerConfig,
        device: str | torch.device = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        self._edits = {}
        self._originals: dict[int, UInt8[Tensor, "_ _ _"]] = {}
        self._is_editing = False
        # nerfstudio renders camera paths without looking at the photographs.
        config.dataparser = checked(config.dataparser, pictures=test_mode != "inference")
        if not torch.cuda.is_available():
            # The other value pins memory, which needs CUDA too; this one means `device`.
            config.cache_images = "gpu"
        super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
        if test_mode == "val":
            # Before the source stage, so that a damaged photograph is found at once.
            _ = self.cached_train, self.cached_eval

    def create_train_dataset(self) -> Photographs:
        """As `EditedImages` does."""
        dataset = super().create_train_dataset()
        # Undistorting changes the others in place.
        self._cameras_of_files = copy.deepcopy(dataset.cameras)
        return dataset

    def as_photograph(self, view: int, mask: Float[Tensor, "_ _"]) -> Float[Tensor, "h w"]:
        """As `EditedImages` does; undistorted as nerfstudio does with the photograph."""
        camera = self._cameras_of_files[view].reshape(())
        bent = camera.distortion_params
        if bent is None or not bool(bent.any()):
            return super().as_photograph(view, mask)
        size = (int(camera.height), int(camera.width))
        scaled = functional.interpolate(mask[None, None], size, mode="area")[0, 0]
        channels = scaled[..., None].expand(-1, -1, 3).contiguous().numpy()
        intrinsics = camera.get_intrinsics_matrices().numpy()
        _, straight, _ = _undistort_image(camera, bent.numpy(), {}, channels, intrinsics)
        return torch.from_numpy(straight)[..., 0].clamp(0, 1)

    def held_out01(self) -> list[Float[Tensor, "_ _ _"]]:
        """The undistorted photographs of the evaluation split, RGB or RGBA in [0, 1]."""
        return [data["image"].float() / 255 for data in self.cached_eval]

    def _image(self, view: int) -> UInt8[Tensor, "h w c"]:
        return self.cached_train[view]["image"]

    def _photograph(self, view: int) -> UInt8[Tensor, "h w c"]:
        return self._originals.get(view, self._image(view))

    def _before_edit(self, view: int) -> None:
        if view not in self._originals:
            self._originals[view] = self._image(view).clone()

    def set_edited(
        self,
        edited: Mapping[int, UInt8[Tensor, "_ _ 3"]],
        *,
        background: Float[Tensor, "3"] | None = None,
    ) -> None:
        """As `EditedImages` does; draws from edited views alone, if asked for."""
        first = not self._edits
        super().set_edited(edited, background=background)
        if first:
            self._draw_anew()

    def reset_images(self) -> None:
        """Train on the photographs again."""
        super().reset_images()
        self._originals.clear()
        self._draw_anew()

    def take_edits(
        self, edits: Mapping[int, tuple[UInt8[Tensor, "_ _ _"], dict[str, Any]]]
    ) -> None:
        """As `EditedImages` does."""
        super().take_edits(edits)
        self._draw_anew()

    def begin_editing(self) -> None:
        """Draw from edited views alone from now on, if asked for."""
        self._is_editing = True

    def _draw_anew(self) -> None:
        if self._is_editing and self.config.only_edited_views:
            self.train_unseen_cameras = self.sample_train_cameras()

    def sample_train_cameras(self) -> list[int]:
        """The order of the views that are trained on next."""
        order = super().sample_train_cameras()
        if self._is_editing and self.config.only_edited_views and self._edits:
            return [view for view in order if view in self._edits]
        return order

    def order_state(self) -> dict[str, Any]:
        """What decides the order in which views are drawn, for checkpoints."""
        state: dict[str, Any] = {"unseen": [*self.train_unseen_cameras]}
        if hasattr(self, "random_generator"):
            state["random"] = self.random_generator.getstate()
        if hasattr(self, "train_unsampled_epoch_count"):
            state["unsampled"] = self.train_unsampled_epoch_count.tolist()
        return state

    def load_order(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `order_state`; with other photographs, the order begins anew."""
        if max(state["unseen"], default=0) >= self.num_views:
            return
        self.train_unseen_cameras = [*state["unseen"]]
        if "random" in state:
            self.random_generator.setstate(state["random"])
        if "unsampled" in state and len(state["unsampled"]) == self.num_views:
            self.train_unsampled_epoch_count[:] = state["unsampled"]
