"""The training images, which editing rounds replace by edited ones."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Bool, Float, UInt8
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.datamanagers.base_datamanager import (
    VanillaDataManager,
    VanillaDataManagerConfig,
)
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.utils.dataloaders import (
    FixedIndicesEvalDataloader,
    RandIndicesEvalDataloader,
)
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.photographs import Photographs, read_all, with_channels
from csd_nerf.methods.common.transforms import checked
from csd_nerf.methods.csd_edit.edits import EditFolder
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


class CSDEditDataManager(VanillaDataManager[Photographs]):
    """Gives the edited images of edited views, and the photographs of all others.

    A view's number is its `image_idx`, the index of its camera. Each image is kept once, with 8
    bits a channel: the photograph, or its edit.
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
        self.train_dataparser_outputs = self._in_scene(self.train_dataparser_outputs)
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
        held_out = self._in_scene(self.dataparser.get_dataparser_outputs(split=self.test_split))
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

    def _in_scene(self, outputs: DataparserOutputs) -> DataparserOutputs:
        """The outputs with their cameras in `scene_frame`."""
        frame = self.config.scene_frame
        if frame is None:
            return outputs
        transform, scale = torch.tensor(frame[:12]).view(3, 4), frame[12]
        if torch.equal(transform, outputs.dataparser_transform.float()) and (
            scale == outputs.dataparser_scale
        ):
            return outputs
        change = (
            _square(transform).double() @ _square(outputs.dataparser_transform).double().inverse()
        )
        poses = _square(outputs.cameras.camera_to_worlds).double()
        poses[:, :3, 3] /= outputs.dataparser_scale
        poses = change @ poses
        poses[:, :3, 3] *= scale
        outputs.cameras.camera_to_worlds = poses[:, :3].float()
        return dataclasses.replace(outputs, dataparser_transform=transform, dataparser_scale=scale)

    def _open(self, outputs: DataparserOutputs) -> Photographs:
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
        """Prepare the drawing of rays; in training, read the photographs too."""
        self._edits: dict[int, dict[str, Any] | None] = {}
        self._is_editing = False
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

    @property
    def num_views(self) -> int:
        """Number of training views."""
        return len(self.train_dataset)

    def photograph01(self, view: int) -> Float[Tensor, "h w c"]:
        """Read the original photograph of a view, RGB or RGBA in [0, 1]."""
        return self.train_dataset[view]["image"]

    @property
    def names(self) -> list[str]:
        """Name of each photograph: its path from the folder of the data.

        nerfstudio's folders of smaller copies, such as images_4, are named as that of the
        photographs, images.
        """
        data = Path(self.config.data or ".")
        folder = data if data.is_dir() else data.parent
        paths = [os.path.relpath(p, folder) for p in self.train_dataset.image_filenames]
        return [re.sub(r"^images_\d+(?=/)", "images", Path(path).as_posix()) for path in paths]

    @property
    def edited(self) -> dict[int, UInt8[Tensor, "_ _ 3"]]:
        """The edited views, with the colours that are trained on."""
        return {view: self._cached["image"][view][..., :3] for view in sorted(self._edits)}

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
        background = torch.zeros(3) if background is None else background
        for view, image in edited.items():
            self._check_size(view, (image.shape[0], image.shape[1]))
            _set_colours(self._cached["image"][view], image, background)
            self._edits[view] = None

    def reset_images(self) -> None:
        """Train on the photographs again."""
        for view in self._edits:
            image = self._cached["image"][view]
            photograph = self.train_dataset.get_data(view, "uint8")["image"]
            image[:] = with_channels(photograph, image.shape[2])
        self._edits = {}

    def save_edits(self, folder: EditFolder, *, loaded: EditFolder | None) -> dict[str, Any]:
        """Write the edits that no file holds yet, and return the records of all by name.

        Args:
            folder: Where they are written.
            loaded: Where `load_edits` read from; its files become files of `folder` too.
        """
        names = self.names
        for view, record in self._edits.items():
            if record is None or not folder.take_over(record, loaded or folder):
                self._edits[view] = folder.write(names[view], self._cached["image"][view])
        return {names[view]: self._edits[view] for view in sorted(self._edits)}

    @property
    def edit_files(self) -> set[str]:
        """Names of the files that hold the edits, as far as they are written."""
        return {record["file"] for record in self._edits.values() if record is not None}

    def load_edits(self, records: Mapping[str, Any], folder: EditFolder) -> None:
        """Train on the edits that a checkpoint names, each in the place of its own photograph.

        Edits of photographs that are not there are left out.

        Raises:
            MethodError: If a file is missing or isn't the one that was written, or the size of an
                edit isn't its photograph's.
        """
        self.reset_images()
        for view, name in enumerate(self.names):
            if name in records:
                height, width = records[name]["size"]
                self._check_size(view, (height, width))
                image = self._cached["image"][view]
                image[:] = with_channels(folder.read(name, records[name]), image.shape[2])
                self._edits[view] = dict(records[name])

    def _check_size(self, view: int, size: tuple[int, int]) -> None:
        height, width = self._cached["image"][view].shape[:2]
        if size != (height, width):
            raise MethodError(
                f"The edited image of view {view} has to be as large as its photograph, "
                f"{width}x{height}, got {size[1]}x{size[0]}; keep --pipeline.datamanager's image "
                "size and the dataparser's downscale-factor as they were in the run that is loaded."
            )

    def begin_editing(self) -> None:
        """Draw rays in patches from now on."""
        self._is_editing = True

    def next_train(self, step: int) -> tuple[RayBundle, dict[str, Any]]:  # noqa: ARG002
        """Draw the rays of a training step: pixels before editing, patches while editing."""
        self.train_count += 1
        if self._is_editing:
            edited_only = self.config.only_edited_views and self._edits
            views = sorted(self._edits) if edited_only else list(range(self.num_views))
            indices = self._patches.sample(views, patches=self._patches_per_batch)
            batch = {"image": gather_pixels(self._cached["image"], indices), "indices": indices}
        else:
            assert self.train_pixel_sampler is not None
            batch = self.train_pixel_sampler.sample(self._cached)
        return self.train_ray_generator(batch["indices"]), _as_float(batch)

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


def _square(pose: Float[Tensor, "*n 3 4"]) -> Float[Tensor, "*n 4 4"]:
    """Poses with the row (0, 0, 0, 1) below."""
    row = torch.tensor([0.0, 0.0, 0.0, 1.0]).to(pose).expand(*pose.shape[:-2], 1, 4)
    return torch.cat([pose, row], dim=-2)


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


def _set_colours(
    image: UInt8[Tensor, "h w c"], blended: UInt8[Tensor, "h w 3"], background: Float[Tensor, "3"]
) -> None:
    """Give an image, in place, the colours that look like `blended` over a background.

    With the alpha a of an RGBA image, blended = a colour + (1 - a) background. Where a is 0 every
    colour looks alike, and the old one stays.
    """
    if image.shape[-1] == 3:
        image[:] = blended.to(image.device)
        return
    alpha = image[..., 3:] / 255
    blended01 = blended.to(image.device) / 255
    colour = (blended01 - (1 - alpha) * background.to(alpha)) / alpha.clamp(min=1 / 255)
    rounded = (colour.clamp(0, 1) * 255).round().byte()
    image[..., :3] = torch.where(alpha > 0, rounded, image[..., :3])
