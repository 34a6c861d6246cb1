"""A box in the viewer's scene that is moved and resized by handles.

Boxes are in the scene's coordinates: a corner with the lowest and one with the highest x, y and z.
The viewer's own coordinates are `SCALE` times as large.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO as SCALE
from viser import SceneApi

Corners = tuple[tuple[float, float, float], tuple[float, float, float]]

_NAME = "/edit_region"
_COLOUR = (255, 211, 105)
_SMALLEST = 0.01
"""Least edge of a box, in the scene's units."""


def box_text(corners: Corners) -> str:
    """The text form of a box, as a region has it."""
    return ",".join(
        f"{value:.3f}".rstrip("0").rstrip(".") for corner in corners for value in corner
    )


def box_of_text(text: str) -> Corners | None:
    """The box of a region's text, whichever two opposite corners it names; None if it is none."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    if len(values) != 6 or not all(map(math.isfinite, values)):
        return None
    pairs = [sorted(pair) for pair in zip(values[:3], values[3:], strict=True)]
    if any(high - low < _SMALLEST for low, high in pairs):
        return None
    lows, highs = zip(*pairs, strict=True)
    return lows, highs


class RegionBox:
    """The box and its two handles: one at its centre, which moves it, one at a corner.

    Its methods can be called from any thread.
    """

    def __init__(self, scene: SceneApi, *, on_drag: Callable[[Corners], None]) -> None:
        """Prepare a box that is not shown yet.

        Args:
            scene: viser's.
            on_drag: Called with the new box while a user drags a handle.
        """
        self._scene, self._on_drag = scene, on_drag
        self._lock = threading.RLock()
        self._corners: Corners | None = None
        self._bars: Any = None
        self._handles: tuple[Any, Any] | None = None
        self._is_high = np.ones(3, dtype=bool)

    def show(self, corners: Corners, *, seen_from: Float[np.ndarray, "3"] | None = None) -> None:
        """Show a box, in place of the one before.

        Args:
            corners: The box.
            seen_from: Where the user is who wants handles: that of a corner is then put where it
                isn't in front of or behind that of the centre.
        """
        with self._lock:
            if corners == self._corners:
                return
            if seen_from is not None:
                self._is_high = clear_corner(corners, seen_from)
            self._set(corners)
            centre, corner = self._handles or self._add_handles()
            centre.position, corner.position = _centre(corners), self._corner_position(corners)

    def hide(self) -> None:
        """Show no box."""
        with self._lock:
            for node in (self._bars, *(self._handles or ())):
                if node is not None:
                    node.remove()
            self._corners = self._bars = self._handles = None

    def _set(self, corners: Corners) -> None:
        self._corners = corners
        vertices, faces = bars(corners)
        self._bars = self._scene.add_mesh_simple(
            f"{_NAME}/box", vertices, faces, color=_COLOUR, flat_shading=True
        )

    def _add_handles(self) -> tuple[Any, Any]:
        centre, corner = (
            self._scene.add_transform_controls(
                f"{_NAME}/{name}",
                scale=size,
                line_width=3.0,
                # Its size in pixels, whatever its distance.
                fixed=True,
                disable_rotations=True,
                disable_sliders=name == "centre",
                depth_test=False,
            )
            for name, size in (("centre", 90.0), ("corner", 60.0))
        )
        centre.on_update(lambda _: self._drag_centre())
        corner.on_update(lambda _: self._drag_corner())
        self._handles = centre, corner
        return self._handles

    def _drag_centre(self) -> None:
        with self._lock:
            if self._handles is None or self._corners is None:
                return
            centre, corner = self._handles
            low, high = (np.array(corner) for corner in self._corners)
            shift = np.array(centre.position) / SCALE - (low + high) / 2
            corners = _tuples(low + shift, high + shift)
            self._set(corners)
            corner.position = self._corner_position(corners)
        self._on_drag(corners)

    def _drag_corner(self) -> None:
        with self._lock:
            if self._handles is None or self._corners is None:
                return
            centre, corner = self._handles
            low, high = (np.array(corner) for corner in self._corners)
            place = np.array(corner.position) / SCALE
            corners = _tuples(
                np.where(self._is_high, low, np.minimum(place, high - _SMALLEST)),
                np.where(self._is_high, np.maximum(place, low + _SMALLEST), high),
            )
            self._set(corners)
            centre.position = _centre(corners)
        self._on_drag(corners)

    def _corner_position(self, corners: Corners) -> tuple[float, float, float]:
        x, y, z = (
            (low, high)[int(is_high)]
            for low, high, is_high in zip(*corners, self._is_high, strict=True)
        )
        return _scaled((x, y, z))


def clear_corner(corners: Corners, seen_from: Float[np.ndarray, "3"]) -> Bool[np.ndarray, "3"]:
    """Whether it is high, by axis: the corner that is seen farthest from the box's centre.

    Of corners that are seen equally far it is the highest.
    """
    half = (np.array(corners[1]) - np.array(corners[0])) / 2
    sight = np.array(corners[0]) + half - seen_from
    sight = sight / max(float(np.linalg.norm(sight)), 1e-9)
    sides = [np.array([x, y, z], dtype=bool) for z in (1, 0) for y in (1, 0) for x in (1, 0)]
    offsets = [np.where(side, half, -half) for side in sides]
    beside = [np.linalg.norm(offset - (offset @ sight) * sight) for offset in offsets]
    return sides[int(np.argmax(np.round(beside, 6)))]


def box_around(centre: Float[np.ndarray, "3"], *, edge: float) -> Corners:
    """A cube, rounded to hundredths."""
    half = max(edge / 2, _SMALLEST)
    return _tuples(np.round(centre - half, 2), np.round(centre + half, 2))


def bars(corners: Corners) -> tuple[Float[np.ndarray, "96 3"], Int[np.ndarray, "144 3"]]:
    """The 12 edges of a box as thin bars, in the viewer's coordinates: vertices and triangles."""
    low, high = (np.array(_scaled(corner)) for corner in corners)
    half = 0.004 * float((high - low).max()) + 0.005
    unit = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    sides = np.array([side for a, b, c, d in quads for side in ((a, b, c), (a, c, d))])
    vertices, faces = [], []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        for first in (low, high):
            for second in (low, high):
                begin, end = low - half, high + half
                begin, end = begin.copy(), end.copy()
                for other, place in zip(others, (first, second), strict=True):
                    begin[other], end[other] = place[other] - half, place[other] + half
                faces.append(sides + 8 * len(vertices))
                vertices.append(begin + unit * (end - begin))
    return np.concatenate(vertices), np.concatenate(faces)


def _scaled(point: tuple[float, float, float]) -> tuple[float, float, float]:
    x, y, z = point
    return (x * SCALE, y * SCALE, z * SCALE)


def _centre(corners: Corners) -> tuple[float, float, float]:
    x, y, z = (SCALE * (low + high) / 2 for low, high in zip(*corners, strict=True))
    return (x, y, z)


def _tuples(low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"]) -> Corners:
    first, second = ((float(p[0]), float(p[1]), float(p[2])) for p in (low, high))
    return first, second
