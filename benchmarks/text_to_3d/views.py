"""The views of an object that a run made, in memory and in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.engine.pictures import save_frames
from csd_nerf.media.pixels import to_bytes

COLOUR, LIT, DEPTH = "colour", "lit", "depth"
"""Folders of a run's views; `python -m benchmarks paper table5` reads colour and depth."""
_EXACT = "views.pt"
"""What is measured; 8 bits would move colours by 0.002."""


@dataclass(frozen=True)
class RunViews:
    """What a run made, from all sides on white.

    Attributes:
        colour01: Own colours.
        lit01: Lit from the upper left.
        depth01: Depth without texture; white is near, black far or nothing.
        coverage: Share of each pixel that the object covers.
    """

    colour01: Float[Tensor, "n 3 h h"]
    lit01: Float[Tensor, "n 3 h h"]
    depth01: Float[Tensor, "n 3 h h"]
    coverage: Float[Tensor, "n h h"]

    def save(self, folder: Path) -> None:
        """Write the views as they are, and as pictures."""
        torch.save(vars(self), folder / _EXACT)
        kinds = {COLOUR: self.colour01, LIT: self.lit01, DEPTH: self.depth01}
        for name, image01 in kinds.items():
            save_frames(folder / name, to_bytes(image01))


def read_views(folder: Path) -> RunViews:
    """Read what `RunViews.save` wrote."""
    return RunViews(**torch.load(folder / _EXACT, weights_only=True))
