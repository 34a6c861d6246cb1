"""Reads the photographs of a scene by `csd_nerf.media`, as all other pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from nerfstudio.data.datasets.base_dataset import InputDataset
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
                colour = torch.tensor(self.mask_color) * (1 if is_float else 255)
                data["image"] = image.where(data["mask"], colour.to(image.dtype))
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


def is_upright(picture: Path, camera: tuple[int, int]) -> bool:
    """Whether a camera (height, width) belongs to a picture turned by its EXIF orientation.

    It doesn't if a tool such as COLMAP found the pose from the pixels as they are stored.
    """
    height, width = image_size(picture)
    if (height, width) == image_size(picture, upright=False):
        return False
    return (camera[0] > camera[1]) == (height > width)
