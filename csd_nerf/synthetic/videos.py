"""Videos of procedural scenes, whose true edit is known in every frame.

The camera moves around the scene on an arc while one object moves outwards. So both the whole
picture and a part of it change from frame to frame.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.synthetic.cameras import Cameras, orbit_cameras
from csd_nerf.synthetic.edits import Edit
from csd_nerf.synthetic.render import Rendering, render
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Scenes, Split, draw_scenes

ARC = (25.0, 45.0)
"""Smallest and largest angle in degrees that the camera moves in a video, in either direction."""
ELEVATION = (10.0, 18.0)
"""Range of the camera's elevation in degrees; low enough that some sky is always in view."""
TRAVEL = (0.3, 0.8)
"""Range of the distance, in world units, that the moving object moves away from the centre."""


@dataclass(frozen=True)
class Video:
    """A scene and a camera for every frame.

    Attributes:
        scenes: The scene at the time of each frame.
        cameras: One camera per frame.
    """

    scenes: Scenes
    cameras: Cameras


def draw_video(seed: int, *, frames: int) -> Video:
    """Draw the video of a seed; more frames show the same motion in smaller steps.

    Raises:
        ValueError: If there are no frames.
    """
    if frames < 1:
        raise ValueError(f"A video needs at least 1 frame, got {frames}.")
    scene = draw_scenes([seed])
    draws = torch.rand(5, generator=torch.Generator().manual_seed(seed + 1)).tolist()
    time = torch.linspace(0, 1, frames)
    arc = math.radians(_between(ARC, draws[0])) * (1 if draws[1] < 0.5 else -1)
    elevation = math.radians(_between(ELEVATION, draws[2]))
    cameras = orbit_cameras(
        2 * math.pi * draws[3] + arc * time, torch.full((frames,), elevation), radius=4.8
    )
    slot = int(scene.present[0].nonzero()[0])
    outwards = torch.nn.functional.normalize(scene.position[0, slot], dim=0)
    scenes = scene.repeat(frames)
    position = scenes.position.clone()
    position[:, slot] += time[:, None] * _between(TRAVEL, draws[4]) * outwards
    return Video(dataclasses.replace(scenes, position=position), cameras)


def render_video(
    video: Video, edit: Edit | None = None, *, height: int, width: int
) -> Float[Tensor, "n 3 h w"]:
    """Render the frames, or with an edit their true edits."""
    if edit is None:
        return _render(video, video.scenes, height, width).image01
    return edit.edit_image(_render(video, edit.edit_scenes(video.scenes), height, width).image01)


def find_video(edit: Edit, split: Split, *, skip: int, frames: int) -> Video:
    """The first video of a split, after `skip` seeds, to which the edit applies in all frames."""
    for seed in SPLIT_SEEDS[split][skip : skip + 400]:
        video = draw_video(seed, frames=frames)
        if all(edit.applies(video.scenes, _render(video, video.scenes, 32, 32))):
            return video
    raise ValueError(f"No video of {split} from {skip} on shows what {edit.name!r} names.")


def _render(video: Video, scenes: Scenes, height: int, width: int) -> Rendering:
    return render(scenes, video.cameras, height=height, width=width)


def _between(bounds: tuple[float, float], draw: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * draw
