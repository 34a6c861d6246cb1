"""Reads the photographs of a scene by `csd_nerf.media`, as all other pictures."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from nerfstudio.data.datasets.base_dataset import InputDataset
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from csd_nerf.media.images import image_size, read_image, read_mask
from csd_nerf.media.pixels import resize
from csd_nerf.methods.common.errors import MethodError


class Photographs(InputDataset):
    """nerfstudio's dataset of images, with every picture converted to 8-bit RGB or RGBA.

    nerfstudio itself doesn't convert: it reads the indices of a palette as grey and CMYK as RGBA.
    For plain RGB and RGBA pictures both give identical pixels.
    """

    def get_numpy_image(self, image_idx: int) -> UInt8[np.ndarray, "h w c"]:
        """Read an image and resize it by `scale_factor`; RGBA if it has transparency.

        Raises:
            MethodError: If there is no file, or it is not a picture or is damaged.
        """
        path = self._dataparser_outputs.image_filenames[image_idx]
        try:
            image, _ = read_image(path, keep_alpha=True, upright=self._is_upright(image_idx))
        except (ValueError, FileNotFoundError) as error:
            raise MethodError(str(error)) from None
        if self.scale_factor != 1:
            height, width = (int(edge * self.scale_factor) for edge in image.shape[:2])
            image = resize(image, (height, width), by="bilinear")
        return image.numpy()

    def get_image_uint8(self, image_idx: int) -> UInt8[Tensor, "h w c"]:
        """Read an image; over the colour of transparent parts, if the parser names one.

        nerfstudio itself rounds the blend down.

        Raises:
            MethodError: As `get_numpy_image` does.
        """
        if self._dataparser_outputs.alpha_color is None:
            return torch.from_numpy(self.get_numpy_image(image_idx))
        return (self.get_image_float32(image_idx) * 255).round().byte()

    def get_data(
        self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32"
    ) -> dict[str, Any]:
        """Read an image, with its mask if it has one, as nerfstudio does.

        nerfstudio itself takes grey masks only.

        Raises:
            MethodError: As `get_numpy_image` does.
        """
        is_float = image_type == "float32"
        image = (self.get_image_float32 if is_float else self.get_image_uint8)(image_idx)
        data: dict[str, Any] = {"image_idx": image_idx, "image": image}
        if self._dataparser_outputs.mask_filenames is not None:
            data["mask"] = self._mask(image_idx, (image.shape[0], image.shape[1]))
            if self.mask_color:
                colour = torch.tensor(self.mask_color)
                colour = colour if is_float else (colour * 255).round().byte()
                data["image"] = image.where(data["mask"], colour)
        return {**data, **self.get_metadata(data)}

    def _mask(self, image_idx: int, size: tuple[int, int]) -> Bool[Tensor, "h w 1"]:
        assert self._dataparser_outputs.mask_filenames is not None
        path = self._dataparser_outputs.mask_filenames[image_idx]
        try:
            mask = read_mask(path, upright=self._is_upright(image_idx))[None, None].byte()
        except (ValueError, FileNotFoundError) as error:
            raise MethodError(str(error)) from None
        # Nearest neighbour: a pixel is in the mask or not.
        return functional.interpolate(mask, size, mode="nearest-exact")[0, 0, :, :, None].bool()

    def _is_upright(self, image_idx: int) -> bool:
        cameras = self._dataparser_outputs.cameras
        camera = (int(cameras.height[image_idx]), int(cameras.width[image_idx]))
        return is_upright(self._dataparser_outputs.image_filenames[image_idx], camera)


def read_all(photographs: Photographs) -> dict[str, Any]:
    """Read all photographs once, with 8 bits a channel, in the order of their cameras.

    If some of them have transparency, all get it.

    Returns:
        A batch as nerfstudio's pixel samplers take it: `image` (uint8) and `mask` (bool, if there
        are masks), each one tensor, or a list of tensors if sizes differ; and `image_idx`.

    Raises:
        MethodError: As `Photographs.get_numpy_image` does.
    """
    first = photographs.get_data(0, "uint8")
    parts = [name for name in ("image", "mask") if name in first]
    # One block, filled in place: a list that is stacked later would take the memory twice.
    blocks = {n: first[n].new_empty(len(photographs), *first[n].shape) for n in parts}
    others: dict[str, dict[int, Tensor]] = {name: {} for name in parts}

    def read(view: int) -> None:
        data = photographs.get_data(view, "uint8") if view else first
        for name in parts:
            if data[name].shape == blocks[name].shape[1:]:
                blocks[name][view] = data[name]
            else:
                others[name][view] = data[name]

    views = range(len(photographs))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = threads.map(read, views)
        for _ in track(done, "Reading photographs", total=len(views), transient=True):
            pass
    batch: dict[str, Any] = {
        name: [others[name].get(view, blocks[name][view]) for view in views]
        if others[name]
        else blocks[name]
        for name in parts
    }
    if isinstance(batch["image"], list) and any(i.shape[2] == 4 for i in batch["image"]):
        batch["image"] = [with_channels(image, 4) for image in batch["image"]]
    return {**batch, "image_idx": torch.arange(len(views))}


def with_channels(image: UInt8[Tensor, "h w _"], channels: int) -> UInt8[Tensor, "h w c"]:
    """RGB or RGBA as asked for: alpha is dropped, or added as opaque."""
    if image.shape[2] >= channels:
        return image[..., :channels]
    return torch.cat([image, torch.full_like(image[..., :1], 255)], dim=2)


def is_upright(picture: Path, camera: tuple[int, int]) -> bool:
    """Whether a camera (height, width) belongs to a picture turned by its EXIF orientation.

    It doesn't if a tool such as COLMAP found the pose from the pixels as they are stored.
    """
    height, width = image_size(picture)
    if (height, width) == image_size(picture, upright=False):
        return False
    return (camera[0] > camera[1]) == (height > width)
