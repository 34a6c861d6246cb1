"""Writes vertices, such as points or Gaussians, as .ply files, and reads points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

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


def read_points(path: Path) -> tuple[Float32[np.ndarray, "n 3"], UInt8[np.ndarray, "m 3"]]:
    """Read places and colours of points.

    Args:
        path: A .ply file, in binary or text.

    Returns:
        Places in the file's units, and colours of 0 to 255; none (m = 0) in a file without.

    Raises:
        ValueError: If the file is damaged or holds no points.
    """
    from plyfile import PlyData, PlyParseError

    try:
        points = PlyData.read(str(path))["vertex"].data
        places = np.stack([points[axis] for axis in "xyz"], axis=1).astype(np.float32)
    # A damaged count in a text file asks for memory before any row is read.
    except (PlyParseError, KeyError, ValueError, EOFError, MemoryError) as error:
        raise ValueError(
            f"A file of 3D points must be a whole .ply with vertices that have x, y and z, got "
            f"{path} ({error}); write it again."
        ) from None
    colours = ("red", "green", "blue")
    if not set(colours) <= set(points.dtype.names):
        return places, np.zeros((0, 3), np.uint8)
    return places, np.stack([points[name] for name in colours], axis=1).astype(np.uint8)
