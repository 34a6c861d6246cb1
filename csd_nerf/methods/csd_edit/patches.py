"""Draws square patches of pixels from images of any sizes.

nerfstudio's own sampler divides the rays among all images, which leaves less than a patch for each
if there are many; and it erodes every mask at every step. This sampler draws an image for each
patch, and computes the places that a mask allows only once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csd_nerf.methods.common.errors import MethodError


def allowed_corners(mask: Bool[Tensor, "h w"], *, size: int) -> Int[Tensor, "m"]:
    """Find all places where a patch of `size` pixels lies completely inside a mask.

    Returns:
        Top left corners of these patches as y * w + x, in int32.
    """
    height, width = mask.shape
    if min(height, width) < size:
        return torch.empty(0, dtype=torch.int32)
    # Sums over rectangles by a summed-area table; counts fit 32 bits.
    table = torch.zeros(height + 1, width + 1, dtype=torch.int32)
    table[1:, 1:] = mask.cpu().int().cumsum(0).cumsum(1)
    inside = table[size:, size:] - table[:-size, size:] - table[size:, :-size]
    y, x = torch.nonzero(inside + table[:-size, :-size] == size * size, as_tuple=True)
    return (y * width + x).int()


class PatchSampler:
    """Draws patches from a fixed set of images.

    Args:
        sizes: Height and width of each image.
        masks: For each image, True where a pixel may be used; None if there are no masks.
        patch_size: Edge of a patch in pixels; 1 draws single pixels.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        *,
        masks: Sequence[Bool[Tensor, "_ _"]] | None,
        patch_size: int,
    ) -> None:
        self.patch_size = patch_size
        self._sizes = list(sizes)
        self._corners = None
        if masks is not None:
            self._corners = [allowed_corners(mask, size=patch_size) for mask in masks]
        self._usable = [self.has_room(view) for view in range(len(self._sizes))]
        if not any(self._usable):
            raise MethodError(
                f"No image has room for a patch of {patch_size} pixels inside its mask; choose a "
                "smaller one: --pipeline.datamanager.edit-patch-size."
            )

    def has_room(self, view: int) -> bool:
        """Whether a patch lies somewhere in an image, inside its mask."""
        if self._corners is not None:
            return len(self._corners[view]) > 0
        return min(self._sizes[view]) >= self.patch_size

    def sample(self, views: Sequence[int], *, patches: int) -> Int[Tensor, "rays 3"]:
        """Draw patches from some of the images; all of these images are equally likely.

        Uses torch's global random state, like nerfstudio's samplers.

        Args:
            views: Indices of the images to draw from. Images without room for a patch are left out;
                if none has room, patches are drawn from all images that have room.
            patches: Number of patches.

        Returns:
            (image, y, x) of every pixel, patch by patch and row by row.
        """
        usable = [view for view in views if self._usable[view]] or [
            view for view, has_room in enumerate(self._usable) if has_room
        ]
        image = torch.tensor(usable)[torch.randint(len(usable), (patches,))]
        y, x = self._draw_corners(image)
        offset = torch.arange(self.patch_size)
        shape = (patches, self.patch_size, self.patch_size)
        rows = (y[:, None, None] + offset[:, None]).expand(shape)
        columns = (x[:, None, None] + offset).expand(shape)
        return torch.stack([image[:, None, None].expand(shape), rows, columns], dim=-1).view(-1, 3)

    def _draw_corners(self, image: Int[Tensor, "n"]) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
        sizes = torch.tensor(self._sizes)[image]
        if self._corners is None:
            room = sizes - self.patch_size + 1
            y, x = (torch.rand(len(image), 2) * room).long().unbind(1)
            return y, x
        flat = torch.empty(len(image), dtype=torch.int64)
        for view in image.unique().tolist():
            drawn = image == view
            corners = self._corners[view]
            flat[drawn] = corners[torch.randint(len(corners), (int(drawn.sum()),))].long()
        return flat // sizes[:, 1], flat % sizes[:, 1]


def gather_pixels(
    images: Float[Tensor, "n h w c"] | Sequence[Float[Tensor, "_ _ c"]],
    indices: Int[Tensor, "rays 3"],
) -> Float[Tensor, "rays c"]:
    """Read the pixels at (image, y, x) from a stack of images or from a list of mixed sizes."""
    image, y, x = indices.unbind(1)
    if isinstance(images, Tensor):
        return images[image, y, x]
    pixels = images[0].new_empty(len(indices), images[0].shape[-1])
    for view in image.unique().tolist():
        drawn = image == view
        pixels[drawn] = images[view][y[drawn], x[drawn]]
    return pixels
