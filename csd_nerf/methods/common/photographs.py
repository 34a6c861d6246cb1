"""The photographs of a scene, read as every other picture is."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from nerfstudio.data.datasets.base_dataset import InputDataset

from csd_nerf.media.images import image_size, read_image
from csd_nerf.media.pixels import resize


class Photographs(InputDataset):
    """nerfstudio's images, but whatever a file holds becomes RGB, or RGBA, of 8 bits a channel.

    nerfstudio takes the numbers in a file as they are: the indices of a palette for grey, CMYK for
    RGBA. Plain RGB and RGBA pictures come out as it reads them, to the last bit.
    """

    def get_numpy_image(self, image_idx: int) -> UInt8[np.ndarray, "h w c"]:
        """Read an image and scale it; RGBA where it has transparency.

        Raises:
            FileNotFoundError: If there is no file.
            ValueError: If it isn't a picture that can be read whole.
        """
        path = self._dataparser_outputs.image_filenames[image_idx]
        image, _ = read_image(path, keep_alpha=True, upright=self._is_upright(image_idx))
        if self.scale_factor != 1:
            height, width = (int(edge * self.scale_factor) for edge in image.shape[:2])
            image = resize(image, (height, width), by="bilinear")
        return image.numpy()

    def _is_upright(self, image_idx: int) -> bool:
        """Whether the camera is that of the picture turned as its EXIF orientation says.

        It is not after tools such as COLMAP, which find poses for the pixels as they are stored.
        """
        path = self._dataparser_outputs.image_filenames[image_idx]
        height, width = image_size(path)
        if (height, width) == image_size(path, upright=False):
            return False
        cameras = self._dataparser_outputs.cameras
        return (int(cameras.height[image_idx]) > int(cameras.width[image_idx])) == (height > width)
