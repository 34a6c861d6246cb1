"""Names and colours of what scenes are made of; this module imports nothing.

Colours are RGB in [0, 1].
"""

from __future__ import annotations

SHAPES = ("sphere", "cube", "cylinder", "cone")
TEXTURES = ("plain", "stripes", "checker", "bands")
COLOURS = {
    "red": (0.82, 0.10, 0.10),
    "green": (0.12, 0.60, 0.16),
    "blue": (0.10, 0.24, 0.82),
    "yellow": (0.93, 0.84, 0.12),
    "orange": (0.95, 0.50, 0.08),
    "purple": (0.50, 0.14, 0.68),
    "pink": (0.95, 0.52, 0.70),
    "turquoise": (0.12, 0.74, 0.72),
    "white": (0.93, 0.93, 0.93),
    "black": (0.08, 0.08, 0.09),
}
FLOORS: dict[str, tuple[str, tuple[float, float, float], tuple[float, float, float]]] = {
    "grass": ("noise", (0.16, 0.46, 0.12), (0.36, 0.62, 0.20)),
    "sand": ("noise", (0.80, 0.68, 0.44), (0.92, 0.82, 0.60)),
    "wood": ("planks", (0.42, 0.25, 0.13), (0.60, 0.39, 0.22)),
    "tiles": ("checker", (0.86, 0.86, 0.84), (0.50, 0.51, 0.54)),
    "water": ("noise", (0.06, 0.22, 0.46), (0.16, 0.44, 0.66)),
    "lava": ("noise", (0.30, 0.05, 0.03), (0.95, 0.38, 0.06)),
    "stone": ("noise", (0.36, 0.36, 0.37), (0.58, 0.57, 0.55)),
}
"""Name -> (pattern, first colour, second colour)."""
SKIES = {
    "blue": ((0.74, 0.86, 0.96), (0.24, 0.48, 0.86)),
    "pink": ((0.99, 0.84, 0.86), (0.93, 0.48, 0.68)),
    "orange": ((0.99, 0.82, 0.52), (0.92, 0.48, 0.16)),
    "green": ((0.82, 0.95, 0.80), (0.28, 0.70, 0.42)),
    "grey": ((0.84, 0.84, 0.85), (0.52, 0.54, 0.57)),
    "purple": ((0.86, 0.78, 0.95), (0.44, 0.26, 0.70)),
}
"""Name -> (colour at the horizon, colour at the zenith)."""
