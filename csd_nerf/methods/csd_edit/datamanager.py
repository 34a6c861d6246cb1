"""The training images, which editing rounds replace by edited ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import (
    VanillaDataManager,
    VanillaDataManagerConfig,
)
from torch import Tensor

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.photographs import Photographs
from csd_nerf.methods.common.transforms import checked
from csd_nerf.methods.csd_edit.patches import PatchSampler, gather_pixels


@dataclass
class CSDEditDataManagerConfig(VanillaDataManagerConfig):
    """Options of images and rays: nerfstudio's and those of the editing stage."""

    _target: type = field(default_factory=lambda: CSDEditDataManager)
    edit_patch_size: int = 32
    """Edge in pixels of the square patches of rays in the editing stage. LPIPS needs 32 or more; 1
    draws single pixels."""
    edit_num_rays_per_batch: int = 16384
    """Rays per training step in the editing stage, rounded down to whole patches."""
    only_edited_views: bool = False
    """Train only on views that have been edited already, once there are any in the editing
    stage."""
    max_image_size: int | None = None
    """Largest length of the photographs' longer edge in pixels; if one is longer, all are scaled
    down. None means no limit."""

    def __post_init__(self) -> None:
        """Check the options of the editing stage."""
        super().__post_init__()
        if self.edit_num_rays_per_batch < self.edit_patch_size**2:
            raise MethodError(
                "edit_num_rays_per_batch needs room for one patch of edit_patch_size pixels an "
                f"edge, got {self.edit_num_rays_per_batch} for {self.edit_patch_size}; it takes "
                f"{self.edit_patch_size**2}."
            )
        if self.patch_size != 1 or self.train_num_images_to_sample_from != -1:
            raise MethodError(
                "csd-edit keeps all training images and draws single pixels in the source stage: "
                "patch_size has to be 1 and train_num_images_to_sample_from -1, got "
                f"{self.patch_size} and {self.train_num_images_to_sample_from}."
            )


class CSDEditDataManager(VanillaDataManager[Photographs]):
    """Gives the edited images of edited views, and the photographs of all others.

    A view's number is its `image_idx`, the index of its camera. Edited images have 8 bits, so that
    a checkpoint can hold them without loss.
    """

    config: CSDEditDataManagerConfig

    def __init__(
        self,
        config: CSDEditDataManagerConfig,
        device: str | torch.device = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        # nerfstudio renders camera paths without looking at the photographs.
        config.dataparser = checked(config.dataparser, pictures=test_mode != "inference")
        super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)

    def create_train_dataset(self) -> Photographs:
        """Open the training images, scaled down to `max_image_size`.

        Raises:
            MethodError: If there are fewer than two.
        """
        count = len(self.train_dataparser_outputs.image_filenames)
        if count < 2:
            raise MethodError(
                f"A scene needs 2 training views or more, got {count} from {self.config.data}; "
                "for a picture take csd-nerf panorama."
            )
        return self._open(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> Photographs:
        """Open the held-out images at the scale of the training images.

        If none is held out, these are the training images.
        """
        held_out = self.dataparser.get_dataparser_outputs(split=self.test_split)
        self.holds_out = len(held_out.image_filenames) > 0
        return self._open(held_out if self.holds_out else self.train_dataparser_outputs)

    @property
    def notices(self) -> list[str]:
        """What was put right or taken instead of something else, for the user."""
        found: list[str] = [*getattr(self.dataparser, "notices", ())]
        if not self.holds_out:
            found.append("no view is held out: evaluation shows training views")
        if crowded := [view for view in range(self.num_views) if not self._patches.has_room(view)]:
            name = self.train_dataset.image_filenames[crowded[0]].name
            found.append(
                f"{len(crowded)} views, {name} first, have no room for a patch of "
                f"{self.config.edit_patch_size} pixels inside their masks: the editing stage "
                "doesn't train on them"
            )
        return found

    def _open(self, outputs: Any) -> Photographs:
        return self.dataset_type(dataparser_outputs=outputs, scale_factor=self._scale_factor())

    def _scale_factor(self) -> float:
        cameras = self.train_dataparser_outputs.cameras
        scale = self.config.camera_res_scale_factor
        longest = scale * max(int(cameras.width.max()), int(cameras.height.max()))
        limit = self.config.max_image_size
        if limit is None or longest <= limit:
            return scale
        # nerfstudio rounds the sizes of images and cameras down, in different precisions. Half a
        # pixel more keeps both from being rounded to different sizes.
        return scale * (limit + 0.5) / longest

    def setup_train(self) -> None:
        """Cache the training images, sorted by camera.

        nerfstudio shuffles its cache by the global random state; sorted, the cache is the same in a
        resumed run.
        """
        super().setup_train()
        batch = self._cached
        order = torch.argsort(batch["image_idx"]).cpu()
        for key, values in batch.items():
            if isinstance(values, list):
                batch[key] = [values[i] for i in order.tolist()]
            else:
                batch[key] = values[order]
        self.edited: dict[int, UInt8[Tensor, "_ _ 3"]] = {}
        self._is_editing = False
        if self.test_mode == "val":
            # Before the source stage, so that masks which leave no room are found at once.
            self._patches = self._patch_sampler()

    def _patch_sampler(self) -> PatchSampler:
        batch = self._cached
        masks = batch.get("mask")
        return PatchSampler(
            [tuple(image.shape[:2]) for image in batch["image"]],
            masks=None if masks is None else [mask[..., 0].bool() for mask in masks],
            patch_size=self.config.edit_patch_size,
        )

    @property
    def num_views(self) -> int:
        """Number of training views."""
        return len(self.train_dataset)

    def photograph01(self, view: int) -> Float[Tensor, "h w c"]:
        """Read the original photograph of a view, RGB or RGBA in [0, 1]."""
        return self.train_dataset[view]["image"]

    def set_edited(
        self,
        edited: Mapping[int, UInt8[Tensor, "_ _ 3"]],
        *,
        background: Float[Tensor, "3"] | None = None,
    ) -> None:
        """Train on edited images from now on; transparency is that of the photographs.

        Args:
            edited: Images by view, over the background where their photographs are transparent.
            background: The colour with which training blends transparent parts; None is black.

        Raises:
            MethodError: If the size of an image isn't its photograph's.
        """
        images = self._cached["image"]
        background = torch.zeros(3) if background is None else background
        for view, image in edited.items():
            height, width = images[view].shape[:2]
            if image.shape[:2] != (height, width):
                raise MethodError(
                    f"The edited image of view {view} has to be as large as its photograph, "
                    f"{width}x{height}, got {image.shape[1]}x{image.shape[0]}; keep "
                    "--pipeline.datamanager's image size as it was in the run that is loaded."
                )
            _set_colours(images[view], image.to(images[view]) / 255, background)
            self.edited[view] = image.cpu()

    def reset_images(self) -> None:
        """Train on the photographs again."""
        for view in self.edited:
            self._cached["image"][view][:] = self.photograph01(view)
        self.edited = {}

    def begin_editing(self) -> None:
        """Draw rays in patches from now on."""
        self._is_editing = True

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:
        """Draw the rays of a training step: pixels before editing, patches while editing."""
        if not self._is_editing:
            return super().next_train(step)
        self.train_count += 1
        edited_only = self.config.only_edited_views and self.edited
        views = sorted(self.edited) if edited_only else list(range(self.num_views))
        indices = self._patches.sample(views, patches=self._patches_per_batch)
        batch = {"image": gather_pixels(self._cached["image"], indices), "indices": indices}
        return self.train_ray_generator(indices), batch

    def get_train_rays_per_batch(self) -> int:
        """Number of rays per training step in the current stage."""
        if not self._is_editing:
            return super().get_train_rays_per_batch()
        return self._patches_per_batch * self.config.edit_patch_size**2

    @property
    def _patches_per_batch(self) -> int:
        return self.config.edit_num_rays_per_batch // self.config.edit_patch_size**2

    @property
    def _cached(self) -> dict[str, Any]:
        batch = self.train_image_dataloader.cached_collated_batch
        assert batch is not None
        return batch


def _set_colours(
    image: Float[Tensor, "h w c"], blended: Float[Tensor, "h w 3"], background: Float[Tensor, "3"]
) -> None:
    """Give an image, in place, the colours that look like `blended` over a background.

    With the alpha a of an RGBA image, blended = a colour + (1 - a) background. Where a is 0 every
    colour looks alike, and the old one stays.
    """
    if image.shape[-1] == 3:
        image[:] = blended
        return
    alpha = image[..., 3:]
    colour = (blended - (1 - alpha) * background.to(image)) / alpha.clamp(min=1 / 255)
    image[..., :3] = torch.where(alpha > 0, colour.clamp(0, 1), image[..., :3])
