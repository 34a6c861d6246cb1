"""Masks of some views, lifted to points in space, and read off for other views and other points.

A point with a label is one that a masked view shows, with the share of its pixel that the mask
covers. Any other point takes the vote of the labelled points nearest to it. Since a view shows the
points of its own surface only, what is hidden behind it has no vote there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MOST_POINTS = 200_000
"""Labelled points that are kept; from more, these are drawn at random."""
NEIGHBOURS = 8
"""Labelled points that vote."""


@dataclass(frozen=True)
class LabelledPoints:
    """Points in space with the share in which each lies in a region."""

    points: Float[Tensor, "n 3"]
    share: Float[Tensor, "n"]

    @classmethod
    def gather(
        cls,
        views: Iterable[tuple[Float[Tensor, "_ _ 3"], Float[Tensor, "_ _"]]],
        *,
        generator: torch.Generator,
        most: int = MOST_POINTS,
    ) -> LabelledPoints:
        """Put the surfaces of masked views together.

        Args:
            views: For each, the points that its pixels show, and its mask at that size. Points that
                aren't finite are left out.
            generator: Draws the points that are kept, if there are more than `most`.
            most: Largest number of points.

        Raises:
            ValueError: If no point is left.
        """
        places, shares = [], []
        for points, mask in views:
            flat = points.reshape(-1, 3).float().cpu()
            known = flat.isfinite().all(1)
            places.append(flat[known])
            shares.append(mask.reshape(-1).float().cpu()[known])
        place, share = torch.cat(places), torch.cat(shares)
        if len(place) == 0:
            raise ValueError(
                "Masks need views whose surface is known, got none with a finite depth; train the "
                "scene for longer."
            )
        if len(place) > most:
            kept = torch.randperm(len(place), generator=generator)[:most]
            place, share = place[kept], share[kept]
        return cls(place, share)

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import KDTree

        return KDTree(self.points.double().numpy())

    def vote(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
        """The share in which each point lies in the region, in [0, 1].

        It is the mean of the `NEIGHBOURS` nearest labelled points' shares, weighted by one over
        their squared distances. A point that isn't finite lies outside.
        """
        flat = points.reshape(-1, 3).double().cpu().numpy()
        known = np.isfinite(flat).all(1)
        count = min(NEIGHBOURS, len(self.points))
        distance, index = self._tree.query(flat[known], k=[*range(1, count + 1)], workers=-1)
        # A point that is itself labelled has all the weight; the least distance keeps it finite.
        weight = 1 / np.maximum(distance, 1e-9) ** 2
        shares = self.share.double().numpy()[index]
        voted = np.zeros(len(flat))
        voted[known] = (weight * shares).sum(1) / weight.sum(1)
        return torch.from_numpy(voted).float().view(points.shape[:-1])
