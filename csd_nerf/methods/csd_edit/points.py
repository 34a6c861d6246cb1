"""Writes points with colours as .ply files, which other programs show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.media.files import written_whole


def write_points(path: Path, points: Float[Tensor, "n 3"], colours: UInt8[Tensor, "n 3"]) -> None:
    """Write a file, whole or not at all."""
    # Late, as it is used seldom.
    from plyfile import PlyData, PlyElement

    kinds = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    table = np.empty(len(points), dtype=kinds)
    columns = [*points.unbind(1), *colours.unbind(1)]
    for (name, _), values in zip(kinds, columns, strict=True):
        table[name] = values.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(str(temporary))
