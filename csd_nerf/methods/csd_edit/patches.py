"""Draws square patches of pixels from images of any sizes.

nerfstudio's own sampler divides the rays among all images, which leaves less than a patch for each
if there are many; and it erodes every mask at every step. This sampler draws an image for each
patch, and then places until the patch lies inside the mask. Beside the masks it keeps a few numbers
for each image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from csd_nerf.methods.common.errors import MethodError

Masks = Bool[Tensor, "n h w 1"] | Sequence[Bool[Tensor, "_ _ 1"]]
_TRIES = 500
"""Draws after which a patch's place is looked up in its whole mask, which takes longer."""


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
        masks: For each image, True where a pixel may be used; None if there are no masks. They are
            kept, not copied.
        patch_size: Edge of a patch in pixels; 1 draws single pixels.
        equirectangular: Whether the images are whole spheres. Patches are then drawn evenly over
            the sphere, by the latitude of their middle; nerfstudio's sampler does so for pixels.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        *,
        masks: Masks | None,
        patch_size: int,
        equirectangular: bool = False,
    ) -> None:
        self.patch_size = patch_size
        self._heights = torch.tensor([h for h, _ in sizes]) if equirectangular else None
        self._masks = masks
        boxes = [(0, 0, h - patch_size + 1, w - patch_size + 1) for h, w in sizes]
        if masks is not None:
            boxes = [_box_of_corners(mask[..., 0], size=patch_size) for mask in masks]
        # The least and the number of places in y and x, of each image.
        self._low, self._room = torch.tensor(boxes).clamp(min=0).split(2, dim=1)
        self._usable = [self.has_room(view) for view in range(len(sizes))]
        if not any(self._usable):
            raise MethodError(
                f"No image has room for a patch of {patch_size} pixels inside its mask; choose a "
                "smaller one: --pipeline.datamanager.edit-patch-size."
            )

    def has_room(self, view: int) -> bool:
        """Whether a patch lies somewhere in an image, inside its mask."""
        return bool((self._room[view] > 0).all())

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
        return self._pixels(image, self._draw_corners(image))

    def _pixels(self, image: Int[Tensor, "n"], corner: Int[Tensor, "n 2"]) -> Int[Tensor, "_ 3"]:
        """(image, y, x) of all pixels of patches with these top left corners."""
        offset = torch.arange(self.patch_size)
        shape = (len(image), self.patch_size, self.patch_size)
        y, x = corner.unbind(1)
        rows = (y[:, None, None] + offset[:, None]).expand(shape)
        columns = (x[:, None, None] + offset).expand(shape)
        return torch.stack([image[:, None, None].expand(shape), rows, columns], dim=-1).view(-1, 3)

    def _draw_corners(self, image: Int[Tensor, "n"]) -> Int[Tensor, "n 2"]:
        """Places where a patch lies inside the mask; all are equally likely, or by latitude."""
        corner = self._draw_in_box(image)
        wrong = self._outside(image, corner)
        for _ in range(_TRIES):
            if len(wrong) == 0:
                return corner
            corner[wrong] = self._draw_in_box(image[wrong])
            wrong = wrong[self._outside(image[wrong], corner[wrong])]
        for view in image[wrong].unique().tolist():
            assert self._masks is not None
            mask = self._masks[view][..., 0]
            places = allowed_corners(mask, size=self.patch_size)
            drawn = wrong[image[wrong] == view]
            y, x = places.long() // mask.shape[1], places.long() % mask.shape[1]
            # Not torch.multinomial, which takes no more than 2^24 places.
            upto = self._weights(view, y).double().cumsum(0)
            chosen = torch.searchsorted(upto, torch.rand(len(drawn)).double() * upto[-1])
            corner[drawn] = torch.stack([y, x], dim=1)[chosen.clamp(max=len(y) - 1)]
        return corner

    def _draw_in_box(self, image: Int[Tensor, "n"]) -> Int[Tensor, "n 2"]:
        """Places within the box around all places inside the mask."""
        low, room = self._low[image], self._room[image]
        drawn = torch.rand(len(image), 2)
        if self._heights is not None:
            # Even over the sphere is even in the cosine of the angle from the pole, which a patch
            # has at its middle.
            height, middle = self._heights[image], (self.patch_size - 1) / 2
            first, last = (
                (torch.pi * (y + middle) / height).cos() for y in (low[:, 0], (low + room)[:, 0])
            )
            angle = (first + (last - first) * drawn[:, 0]).acos()
            drawn[:, 0] = (angle * height / torch.pi - middle - low[:, 0]) / room[:, 0]
        return low + (drawn.clamp(min=0) * room).long().minimum(room - 1)

    def _weights(self, view: int, y: Int[Tensor, "m"]) -> Float[Tensor, "m"]:
        """How likely places with these rows are, relative to each other."""
        if self._heights is None:
            return torch.ones(len(y))
        return (torch.pi * (y + self.patch_size / 2) / self._heights[view]).sin()

    def _outside(self, image: Int[Tensor, "n"], corner: Int[Tensor, "n 2"]) -> Int[Tensor, "m"]:
        """Numbers of the patches that aren't inside their mask."""
        if self._masks is None or len(image) == 0:
            return torch.empty(0, dtype=torch.long)
        inside = gather_pixels(self._masks, self._pixels(image, corner)).cpu()
        return torch.nonzero(~inside.view(len(image), -1).all(1))[:, 0]


def _box_of_corners(mask: Bool[Tensor, "h w"], *, size: int) -> tuple[int, int, int, int]:
    """Least y and x of `allowed_corners`, and height and width of the box around all."""
    places = allowed_corners(mask, size=size)
    if len(places) == 0:
        return (0, 0, 0, 0)
    y, x = places // mask.shape[1], places % mask.shape[1]
    top, left = int(y.min()), int(x.min())
    return (top, left, int(y.max()) - top + 1, int(x.max()) - left + 1)


def gather_pixels(
    images: Shaped[Tensor, "n h w c"] | Sequence[Shaped[Tensor, "_ _ c"]],
    indices: Int[Tensor, "rays 3"],
) -> Shaped[Tensor, "rays c"]:
    """Read the pixels at (image, y, x) from a stack of images or from a list of mixed sizes."""
    image, y, x = indices.unbind(1)
    if isinstance(images, Tensor):
        return images[image, y, x]
    pixels = images[0].new_empty(len(indices), images[0].shape[-1])
    for view in image.unique().tolist():
        drawn = image == view
        pixels[drawn] = images[view][y[drawn], x[drawn]]
    return pixels
