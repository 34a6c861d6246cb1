"""The four solids a second time, by implicit functions in float64, and rays marched through them.

Each function is negative inside, zero on the surface, and changes by at most 1 a unit of length,
so that a step of its absolute value never jumps over the surface.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Field = Callable[[np.ndarray], np.ndarray]


def sphere(p: np.ndarray) -> np.ndarray:
    return np.linalg.norm(p - [0, 0, 1], axis=-1) - 1


def cube(p: np.ndarray) -> np.ndarray:
    return np.abs(p - [0, 0, 0.85]).max(axis=-1) - 0.85


def cylinder(p: np.ndarray) -> np.ndarray:
    side = np.hypot(p[..., 0], p[..., 1]) - 0.75
    return np.maximum(side, np.abs(p[..., 2] - 1) - 1)


def cone(p: np.ndarray) -> np.ndarray:
    along = np.hypot(p[..., 0], p[..., 1]) * 2 + (p[..., 2] - 2) * 0.95
    return np.maximum(along / np.hypot(2, 0.95), -p[..., 2])


SOLIDS: tuple[Field, ...] = (sphere, cube, cylinder, cone)
"""In the order of `SHAPES`."""


def placed(solid: Field, position: np.ndarray, size: float, yaw: float) -> Field:
    """A solid of the world: scaled, turned about z by yaw, and moved on the floor."""
    cos, sin = np.cos(yaw), np.sin(yaw)

    def field(p: np.ndarray) -> np.ndarray:
        x, y = p[..., 0] - position[0], p[..., 1] - position[1]
        local = np.stack([cos * x + sin * y, cos * y - sin * x, p[..., 2]], axis=-1) / size
        return solid(local) * size

    return field


def march(
    field: Field, origin: np.ndarray, direction: np.ndarray, *, far: float = 60.0
) -> np.ndarray:
    """Distance along unit rays to the surface; inf where missed, NaN where it grazes too long."""
    t = np.full(len(origin), 1e-3)
    for _ in range(3000):
        gap = np.abs(field(origin + t[:, None] * direction))
        going = (gap > 1e-9) & (t < far)
        if not going.any():
            break
        # A ray that has arrived stays: rounding would carry it through the surface.
        t = t + going * gap
    return np.where(t >= far, np.inf, np.where(gap < 1e-7, t, np.nan))


def gradient(field: Field, p: np.ndarray, *, step: float = 1e-5) -> np.ndarray:
    """Central differences."""
    shifts = step * np.eye(3)
    return np.stack([(field(p + s) - field(p - s)) / (2 * step) for s in shifts], axis=-1)
