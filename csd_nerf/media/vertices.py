"""Writes vertices, such as points or Gaussians, as .ply files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from csd_nerf.media.files import written_whole


def write_vertices(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write a file, whole or not at all; makes its folder.

    Args:
        path: The file, in binary and with the lowest byte first.
        columns: The vertices' properties: for each name the values of all vertices, of the type
            that they are written with.
    """
    # Late, as it is used seldom.
    from plyfile import PlyData, PlyElement

    count = len(next(iter(columns.values())))
    table = np.empty(count, [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(str(temporary))
