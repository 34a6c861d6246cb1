"""Reads the photographs of a scene by `csd_nerf.media`, as all other pictures."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from nerfstudio.data.datasets.base_dataset import InputDataset

from csd_nerf.media.images import image_size, read_image
from csd_nerf.media.pixels import resize


class Photographs(InputDataset):
    """nerfstudio's dataset of images, with every picture converted to 8-bit RGB or RGBA.

    nerfstudio itself doesn't convert: it reads the indices of a palette as grey and CMYK as RGBA.
    For plain RGB and RGBA pictures both give identical pixels.
    """

    def get_numpy_image(self, image_idx: int) -> UInt8[np.ndarray, "h w c"]:
        """Read an image and resize it by `scale_factor`; RGBA if it has transparency.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If it is not a picture or is damaged.
        """
        path = self._dataparser_outputs.image_filenames[image_idx]
        image, _ = read_image(path, keep_alpha=True, upright=self._is_upright(image_idx))
        if self.scale_factor != 1:
            height, width = (int(edge * self.scale_factor) for edge in image.shape[:2])
            image = resize(image, (height, width), by="bilinear")
        return image.numpy()

    def _is_upright(self, image_idx: int) -> bool:
        """Whether the camera belongs to the picture turned by its EXIF orientation.

        It doesn't if a tool such as COLMAP found the pose from the pixels as they are stored.
        """
        path = self._dataparser_outputs.image_filenames[image_idx]
        height, width = image_size(path)
        if (height, width) == image_size(path, upright=False):
            return False
        cameras = self._dataparser_outputs.cameras
        return (int(cameras.height[image_idx]) > int(cameras.width[image_idx])) == (height > width)
