"""Checks of the region of an edit before anything trains."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from csd_nerf.media.regions import SceneBox, Word, parse_region
from csd_nerf.methods.common.edit_scene import PhotographScene, resized_camera
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.priors.segmenters import find_segmenter
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.regions import read_masks

_GRID = (24, 24)
"""Rays of a view that are tried, in rows and columns."""


def check_region(scene: PhotographScene, options: StageOptions) -> None:
    """Find what can be known to be wrong with a region.

    Raises:
        MethodError: If it is no region of a scene, masks are missing or don't fit, or no camera
            looks at the box.
        SegmenterNotFoundError: If it is a word, and the segmenter's weights can't be had.
    """
    if not options.region.strip():
        return
    try:
        region = parse_region(options.region, of="scene")
        if isinstance(region.where, Word):
            find_segmenter(options.region_model)
        read_masks(scene, region)
    except (ValueError, FileNotFoundError) as error:
        raise MethodError(f"--pipeline.region: {error}") from None
    box = region.where
    if isinstance(box, SceneBox) and not any(looks_at(one, box) for one in scene.cameras()):
        raise MethodError(
            f"--pipeline.region: A box needs to be where cameras look, got {box}, which none of "
            f"{scene.num_views} does; read it off Crop Viewport in nerfstudio's viewer: the centre "
            "plus and minus half the scale."
        )


def looks_at(camera: Cameras, box: SceneBox) -> bool:
    """Whether rays of a camera meet a box, or pass it by less than the gaps between them."""
    rays = resized_camera(camera, _GRID).generate_rays(0, keep_shape=True).flatten()
    low, high = torch.tensor(box.low).to(rays.origins), torch.tensor(box.high).to(rays.origins)
    distance = ((low + high) / 2 - rays.origins[0]).norm()
    turn = rays.directions.view(*_GRID, 3)
    gap = max(float((turn[1:] - turn[:-1]).norm(dim=-1).max()), 1e-3) * distance
    return bool(_meets(rays.origins, rays.directions, low - gap, high + gap).any())


def _meets(
    origin: Float[Tensor, "n 3"],
    direction: Float[Tensor, "n 3"],
    low: Float[Tensor, "3"],
    high: Float[Tensor, "3"],
) -> Bool[Tensor, "n"]:
    """Whether each ray, forwards from its origin, meets a box."""
    safe = torch.where(direction.abs() < 1e-9, torch.full_like(direction, 1e-9), direction)
    first, second = (low - origin) / safe, (high - origin) / safe
    enters = torch.minimum(first, second).amax(1).clamp(min=0)
    return enters <= torch.maximum(first, second).amin(1)
