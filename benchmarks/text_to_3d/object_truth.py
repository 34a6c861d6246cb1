"""A rendered object against the synthetic object that its prompt means.

Views: evenly spaced azimuths, the first the front, all at one elevation; see
`csd_nerf.synthetic.objects` for the frames. Masks and coverages are of square pictures, one a
view. A shift is in pixels, down and right.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd_nerf.synthetic.cameras import Cameras, look_at
from csd_nerf.synthetic.objects import ObjectViews, find_object, orbit, render_objects, true_object
from csd_nerf.synthetic.palette import COLOURS

VIEWS = 12
"""Every 30 degrees of azimuth (CSD Appendix C.2)."""
ELEVATION = math.radians(30)
"""Of all views (C.2)."""
RADIUS = 2.5
"""Distance of the cameras from the origin."""
FOCAL = 1.15
"""Focal length in units of a picture's edge."""
LIGHT = (-0.9, 0.9)
"""Azimuth, counted from each camera's, and elevation of the light in lit views, in radians."""
AMBIENT = 0.4
"""Share of light from everywhere in lit views."""
VIEW_SETTINGS: dict[str, Any] = {
    "views": VIEWS,
    "radius": RADIUS,
    "focal": FOCAL,
    "elevation": ELEVATION,
    "light": LIGHT,
    "ambient": AMBIENT,
}
"""How a method's own renderer is to show an object."""
SCALES = tuple(percent / 100 for percent in range(60, 161, 5))
"""Factors of the true object's size that are tried."""
COVERED = 0.5
"""Coverage above which a pixel is the object's."""


@dataclass(frozen=True)
class Overlap:
    """How well silhouettes agree at best.

    Attributes:
        value: Intersection over union, averaged over the views; in [0, 1], 1 is equal.
        scale: Factor of the true object's size.
        shift: Of the true silhouettes.
    """

    value: float
    scale: float
    shift: tuple[int, int]


def knows(prompt: str) -> bool:
    """Whether a prompt's true object is known."""
    try:
        find_object(prompt)
    except ValueError:
        return False
    return True


def true_views(
    prompt: str,
    *,
    size: int,
    views: int = VIEWS,
    scale: float = 1.0,
    supersample: int = 1,
    ambient: float = 1.0,
) -> ObjectViews:
    """Render the object that a prompt means as a generated one is rendered.

    Args:
        prompt: Names one shape and one colour.
        size: Edge in pixels.
        views: Number of azimuths.
        scale: Factor of the object's size.
        supersample: Rays along a pixel's edge; with 1, coverage is 0 or 1.
        ambient: Share of light from everywhere; 1 shows the object's own colour.

    Raises:
        ValueError: If the prompt isn't understood.
    """
    found = true_object(prompt, views=views)
    azimuth = 2 * torch.pi * torch.arange(views) / views
    objects = dataclasses.replace(
        found,
        size=found.size * scale,
        light=orbit(azimuth + LIGHT[0], torch.full((views,), LIGHT[1]), radius=1.0),
        ambient=torch.full((views,), ambient),
    )
    eye = orbit(azimuth, torch.full((views,), ELEVATION), radius=RADIUS)
    cameras = Cameras(look_at(eye, torch.zeros_like(eye)), torch.full((views,), FOCAL))
    return render_objects(objects, cameras, size=size, supersample=supersample)


def silhouette_overlap(coverage: Float[Tensor, "n h h"], prompt: str) -> Overlap:
    """Intersection over union with the true silhouettes, at their best shift and scale.

    One scale and one shift, of at most an eighth of the edge in each direction, hold for all
    views: neither size nor place is in the prompt, but turned or differently shaped objects
    differ. Nothing rendered gives 0.

    Args:
        coverage: Share of each pixel that the rendered object covers.
        prompt: Names the true object.

    Raises:
        ValueError: If the prompt isn't understood.
    """
    size = coverage.shape[-1]
    found = best_overlap(
        coverage > COVERED,
        _silhouettes(find_object(prompt)[0], size, len(coverage)),
        max_shift=size // 8,
    )
    return Overlap(found[0], SCALES[found[1]], found[2])


def best_overlap(
    masks: Bool[Tensor, "n h h"], candidates: Bool[Tensor, "k n h h"], *, max_shift: int
) -> tuple[float, int, tuple[int, int]]:
    """The best mean intersection over union of masks with shifted candidates.

    Shifted pixels that leave the picture still count in the union.

    Args:
        masks: One a view, of what was rendered.
        candidates: Each n masks of what is true.
        max_shift: Farthest shift in each direction.

    Returns:
        The value, the candidate's index, and the shift of its masks; of equal values the first
        candidate with the shortest shift.
    """
    area = masks.sum((1, 2), dtype=torch.float64)
    steps = torch.arange(-max_shift, max_shift + 1)
    distance = steps[:, None].square() + steps.square()
    best = (-1.0, 0, (0, 0))
    for index, candidate in enumerate(candidates):
        common = _intersections(masks, candidate, max_shift)
        whole = area + candidate.sum((1, 2), dtype=torch.float64)
        union = whole[:, None, None] - common
        overlap = (common / union.clamp(min=1)).mean(0)
        value = float(overlap.max())
        if value > best[0]:
            nearest = torch.where(overlap == value, distance, distance.max() + 1).argmin()
            down, right = divmod(int(nearest), len(steps))
            best = (value, index, (down - max_shift, right - max_shift))
    return best


def _intersections(
    masks: Bool[Tensor, "n h h"], shifted: Bool[Tensor, "n h h"], max_shift: int
) -> Float[Tensor, "n s s"]:
    """Common pixels for each shift of the second masks, by cross-correlation."""
    # With as many zeros as the farthest shift, what leaves on one side doesn't enter on the other.
    padded = [masks.shape[-1] + max_shift] * 2
    first, second = (torch.fft.rfft2(mask.double(), s=padded) for mask in (masks, shifted))
    common = torch.fft.irfft2(first * second.conj(), s=padded)
    common = common.roll((max_shift, max_shift), dims=(1, 2))
    return common[:, : 2 * max_shift + 1, : 2 * max_shift + 1].round()


@functools.lru_cache(maxsize=4)
def _silhouettes(shape: str, size: int, views: int) -> Bool[Tensor, "k n h h"]:
    """The masks of a shape at all of `SCALES`."""
    prompt = f"a red {shape}"
    rendered = (true_views(prompt, size=size, views=views, scale=scale) for scale in SCALES)
    return torch.stack([view.coverage > COVERED for view in rendered])


def colour_distance(
    colour01: Float[Tensor, "n 3 h w"], coverage: Float[Tensor, "n h w"], prompt: str
) -> float | None:
    """Euclidean RGB distance of an object's mean colour to the true one.

    The mean is over the covered pixels of all views as they look, weighted by their coverage. In
    [0, sqrt(3)], lower is better; None if no pixel is covered.

    Args:
        colour01: Colours in [0, 1].
        coverage: Share of each pixel that the object covers.
        prompt: Names the true colour.

    Raises:
        ValueError: If the prompt isn't understood.
    """
    truth = torch.tensor(COLOURS[find_object(prompt)[1]], dtype=torch.float64)
    weight = torch.where(coverage > COVERED, coverage, 0.0).double()
    if not weight.any():
        return None
    mean = (colour01 * weight[:, None]).sum((0, 2, 3)) / weight.sum()
    return float((mean - truth).norm())
