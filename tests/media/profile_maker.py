"""ICC profiles made by hand, for tests that read pictures with other colours than sRGB."""

from __future__ import annotations

import struct

import numpy as np
from PIL import ImageCms

# xy chromaticities of red, green and blue; both have D65 as white.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
_D65, _D50 = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1, (1 - x - y) / y])


def rgb_to_xyz(primaries) -> np.ndarray:
    """Linear RGB to XYZ under D65: the columns are the primaries' XYZ, and they add up to white."""
    columns = np.stack([_xyz(*xy) for xy in primaries], 1)
    return columns * np.linalg.solve(columns, _xyz(*_D65))


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(65536 * value) for value in values))


def rgb_profile(primaries=P3, *, name: str = "Display P3", gamma: float | None = None) -> bytes:
    """A matrix profile with sRGB's curve, or a power."""
    to_d50 = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ _xyz(*_D65)))
    columns = (to_d50 @ _BRADFORD @ rgb_to_xyz(primaries)).T
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
    curve += _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    if gamma is not None:
        curve = b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(gamma)
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(*_D50)}
    for letter, column in zip("rgb", columns, strict=True):
        tags[f"{letter}XYZ".encode()] = b"XYZ " + bytes(4) + _fixed(*column)
        tags[f"{letter}TRC".encode()] = curve
    return _profile(b"RGB ", name, tags)


def grey_profile(gamma: float) -> bytes:
    curve = b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(gamma)
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(*_D50), b"kTRC": curve}
    return _profile(b"GRAY", "a grey", tags)


def _profile(space: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode("utf-16-be")
    head = struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(text), 28)
    tags = {b"desc": b"mluc" + bytes(4) + head + text, **tags}
    table, body, place = b"", b"", 132 + 12 * len(tags)
    for signature, data in tags.items():
        table += signature + struct.pack(">II", place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s", 0, bytes(4), 0x04300000, b"mntr", space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(*_D50)
    whole = header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
