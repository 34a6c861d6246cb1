"""The masks of a region in the views of a scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

LEAST_SEEN = 1e-4
"""Views of which a region covers less than this share don't see it."""


@dataclass(frozen=True)
class SceneMasks:
    """The masks of a region in all views of a scene, and the region in space.

    Attributes:
        inside: Whether points in the scene's coordinates lie in the region.
        shares: For each view the share of each pixel that lies in the region, from 0 to 255, at the
            photograph's size or at that of its edit.
    """

    inside: Callable[[Float[Tensor, "n 3"]], Bool[Tensor, "n"]]
    shares: Mapping[int, UInt8[Tensor, "_ _"]]

    def mask(self, view: int) -> Float[Tensor, "_ _"]:
        """The share of each pixel of a view, in [0, 1]."""
        return self.shares[view].float() / 255

    def inside_of(self, view: int, size: tuple[int, int]) -> Bool[Tensor, "H W"]:
        """The pixels of a view of this size that lie in the region."""
        return enlarged(self.mask(view), size) >= 0.5

    @property
    def seen(self) -> list[int]:
        """The views that see the region."""
        shares = self.shares.items()
        return [v for v, share in shares if float((share >= 128).float().mean()) >= LEAST_SEEN]


def enlarged(mask: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """A mask at another size, interpolated between the centres of its pixels."""
    if tuple(mask.shape) == size:
        return mask
    return functional.interpolate(mask[None, None], size, mode="bilinear")[0, 0]
