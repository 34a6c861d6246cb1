"""The training images, which editing rounds replace by edited ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Bool, UInt8
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import (
    VanillaDataManager,
    VanillaDataManagerConfig,
)
from nerfstudio.data.utils.dataloaders import (
    FixedIndicesEvalDataloader,
    RandIndicesEvalDataloader,
)
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor
from torch.nn import functional

from csd_nerf.methods.common.edited_images import EditedImages
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.photographs import Photographs, read_all
from csd_nerf.methods.common.transforms import checked
from csd_nerf.methods.csd_edit.patches import PatchSampler, gather_pixels
from csd_nerf.scene.masks import SceneMasks

RIM = 0.02
"""Width of the rim around a region that isn't held, as a share of an image's shorter edge."""
HELD = "held"
"""Name of what says, in batches and in rays' metadata, which rays show the unedited scene."""
UNUSED = "unused"
"""Name of what says, in batches, which pixels of views without an edit are not trained on."""


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
    scene_frame: tyro.conf.Suppress[tuple[float, ...] | None] = None
    """Axes and scale of a scene that is loaded: the transform of its dataparser, 3 x 4 by rows, and
    its scale. The dataparser computes them from all poses, so that a frame more or less would move
    the cameras in the scene."""

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


class CSDEditDataManager(EditedImages, VanillaDataManager[Photographs]):
    """Gives the edited images of edited views, and the photographs of all others.

    A view's number is its `image_idx`, the index of its camera.
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
        self._edits = {}
        self._is_editing = False
        # Whether each pixel lies in the region, and there or near it.
        self._inside: Bool[Tensor, "n h w 2"] | list[Bool[Tensor, "_ _ 2"]] | None = None
        # nerfstudio renders camera paths without looking at the photographs.
        config.dataparser = checked(config.dataparser, pictures=test_mode != "inference")
        super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)

    @property
    def notices(self) -> list[str]:
        """What was put right or taken instead of something else, for the user."""
        found = super().notices
        if self.test_mode != "val":
            return found
        if crowded := [view for view in range(self.num_views) if not self._patches.has_room(view)]:
            name = self.train_dataset.image_filenames[crowded[0]].name
            found.append(
                f"{len(crowded)} views, {name} first, have no room for a patch of "
                f"{self.config.edit_patch_size} pixels inside their masks: the editing stage "
                "doesn't train on them"
            )
        return found

    def setup_train(self) -> None:
        """Prepare the drawing of rays; in training, read the photographs too."""
        rays = self.config.train_num_rays_per_batch
        self.train_pixel_sampler = self._get_pixel_sampler(self.train_dataset, rays)
        self.train_ray_generator = RayGenerator(self.train_dataset.cameras.to(self.device))
        if self.test_mode == "val":
            # Before the source stage, so that masks which leave no room are found at once.
            self._patches = self._patch_sampler()

    def setup_eval(self) -> None:
        """Prepare evaluation; in training, read the photographs that are held out too."""
        rays = self.config.eval_num_rays_per_batch
        self.eval_pixel_sampler = self._get_pixel_sampler(self.eval_dataset, rays)
        self.eval_ray_generator = RayGenerator(self.eval_dataset.cameras.to(self.device))
        views: dict[str, Any] = {"input_dataset": self.eval_dataset, "device": self.device}
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(**views)
        self.eval_dataloader = RandIndicesEvalDataloader(**views)
        if self.test_mode == "val":
            # Before the source stage, so that a damaged photograph is found at once.
            _ = self._held_out

    @cached_property
    def _cached(self) -> dict[str, Any]:
        """The images that are trained on, with 8 bits, edits in place of their photographs."""
        return self._read_all(self.train_dataset)

    @cached_property
    def _held_out(self) -> dict[str, Any]:
        """The images that evaluation draws rays from; without any, those that are trained on."""
        return self._read_all(self.eval_dataset) if self.holds_out else self._cached

    def _image(self, view: int) -> UInt8[Tensor, "h w c"]:
        return self._cached["image"][view]

    def _photograph(self, view: int) -> UInt8[Tensor, "h w c"]:
        return self.train_dataset.get_data(view, "uint8")["image"]

    def _read_all(self, photographs: Photographs) -> dict[str, Any]:
        batch = read_all(photographs)
        for name in set(batch) - {*self.exclude_batch_keys_from_device}:
            batch[name] = _moved(batch[name], self.device)
        return batch

    def _patch_sampler(self) -> PatchSampler:
        """Draws where the source stage draws pixels: in masks, or else in the circle of a lens.

        Like it, draws evenly over the sphere if all views are equirectangular.
        """
        assert self.train_pixel_sampler is not None
        source, batch = self.train_pixel_sampler.config, self._cached
        sizes: list[tuple[int, int]] = [tuple(image.shape[:2]) for image in batch["image"]]
        masks = None if source.ignore_mask else batch.get("mask")
        if masks is None and source.fisheye_crop_radius is not None:
            circles = {size: _circle(size, source.fisheye_crop_radius) for size in {*sizes}}
            masks = [circles[size] for size in sizes]
        return PatchSampler(
            sizes,
            masks=masks,
            patch_size=self.config.edit_patch_size,
            equirectangular=bool(source.is_equirectangular),
        )

    def hold_outside(self, masks: SceneMasks | None) -> None:
        """Mark the rays outside of a region as held from now on; with None, mark none.

        A rim around the region isn't held. There the unedited scene is blurred, and shows what the
        region was; photographs don't. Half of the patches are drawn from all views then, also if
        `only_edited_views`.
        """
        if masks is None:
            self._inside = None
            return
        images = self._cached["image"]
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        parts = []
        for view, size in enumerate(sizes):
            inside = masks.inside_of(view, size)
            rim = max(1, round(RIM * min(size)))
            near = functional.max_pool2d(inside[None].float(), 2 * rim + 1, 1, rim)[0] > 0
            parts.append(torch.stack([inside, near], dim=-1))
        whole = torch.stack(parts) if isinstance(images, Tensor) else parts
        self._inside = _moved(whole, images[0].device)

    def begin_editing(self) -> None:
        """Draw rays in patches from now on."""
        self._is_editing = True

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:  # noqa: ARG002
        """Draw the rays of a training step: pixels before editing, patches while editing."""
        self.train_count += 1
        if self._is_editing:
            batch = self._edited_batch()
        else:
            assert self.train_pixel_sampler is not None
            batch = self.train_pixel_sampler.sample(self._cached)
        rays = self.train_ray_generator(batch["indices"])
        if HELD in batch:
            rays.metadata[HELD] = batch[HELD].to(rays.origins.device)
        return rays, _as_float(batch)

    def _edited_batch(self) -> dict[str, Any]:
        """Pixels of the editing stage; if a region is edited alone, with `HELD` and `UNUSED`."""
        count, everywhere = self._patches_per_batch, list(range(self.num_views))
        edited_only = self.config.only_edited_views and self._edits
        views = sorted(self._edits) if edited_only else everywhere
        if self._inside is None:
            indices = self._patches.sample(views, patches=count)
            return {"image": gather_pixels(self._cached["image"], indices), "indices": indices}
        others = self._patches.sample(everywhere, patches=count // 2)
        indices = torch.cat([self._patches.sample(views, patches=count - count // 2), others])
        inside, near = gather_pixels(self._inside, indices).split(1, dim=1)
        batch = {"image": gather_pixels(self._cached["image"], indices), "indices": indices}
        edited = torch.isin(indices[:, :1], torch.tensor(views)).to(inside.device)
        return {**batch, HELD: ~near, UNUSED: inside & ~edited}

    def next_eval(self, step: int) -> tuple[RayBundle, dict[str, Any]]:  # noqa: ARG002
        """Draw rays of the views that are held out."""
        self.eval_count += 1
        assert self.eval_pixel_sampler is not None
        batch = self.eval_pixel_sampler.sample(self._held_out)
        return self.eval_ray_generator(batch["indices"]), _as_float(batch)

    def get_train_rays_per_batch(self) -> int:
        """Number of rays per training step in the current stage."""
        if not self._is_editing:
            return super().get_train_rays_per_batch()
        return self._patches_per_batch * self.config.edit_patch_size**2

    @property
    def _patches_per_batch(self) -> int:
        return self.config.edit_num_rays_per_batch // self.config.edit_patch_size**2


def _as_float(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of pixels with colours in [0, 1]; the bytes are divided as nerfstudio does."""
    return {**batch, "image": batch["image"].float() / 255}


def _moved(values: Any, device: str | torch.device) -> Any:
    if isinstance(values, list):
        return [value.to(device) for value in values]
    return values.to(device)


def _circle(size: tuple[int, int], radius: float) -> Bool[Tensor, "h w 1"]:
    """The pixels of an image (height, width) within this many pixels of its middle."""
    y, x = (torch.arange(edge) + 0.5 - edge // 2 for edge in size)
    return (torch.hypot(y[:, None], x) <= radius)[..., None]
