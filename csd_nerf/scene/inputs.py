"""What the edits of a round are made from: source images, starts and structure.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.structure import depth_structure
from csd_nerf.media.pixels import resize01
from csd_nerf.priors import Prior
from csd_nerf.scene.masks import SceneMasks
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.protocol import LiveScene, Scene, SceneRender
from csd_nerf.scene.rounds import prior_size

Ground = Literal["photographs", "kept", "present"]
"""What a round edits: the photographs, renders of the unedited scene that is kept (after an edit
on top of edits began, that on which it builds), or renders of the scene as it is."""


@dataclass(frozen=True)
class ViewInput:
    """What the edit of one view is made from.

    Attributes:
        original01: The source in full size; with `keep_detail` the edit is added to it.
        source01: The source at the size at which it is edited.
        start01: What the edit starts from, at that size.
        control01: The rendered structure at that size, if that is followed.
        points: What the source shows, in the scene's coordinates; None if that isn't known.
    """

    original01: Float[Tensor, "3 H W"]
    source01: Float[Tensor, "3 h w"]
    start01: Float[Tensor, "3 h w"]
    control01: Float[Tensor, "1 h w"] | None
    points: Float[Tensor, "h w 3"] | None = None


def view_input(
    scene: Scene, view: int, *, ground: Ground, options: StageOptions, prior: Prior
) -> ViewInput:
    """Take what the edit of a view is made from."""
    photograph01 = scene.photograph01(view)
    full = (photograph01.shape[1], photograph01.shape[2])
    size = edit_size(full, options, prior)
    needs_render = not _starts_from_source(options) or options.control == "depth"
    render = scene.render(view, size=size) if needs_render or ground == "present" else None
    if ground == "photographs":
        source01 = resize01(photograph01[None], size)[0]
        return _input(photograph01, source01, render, options)
    if ground == "kept":
        assert isinstance(scene, LiveScene)
        source01 = scene.render_unedited(view, size=size).image01
    else:
        assert render is not None
        source01 = render.image01
    return _input(resize01(source01[None], full)[0], source01, render, options)


def camera_input(
    scene: LiveScene, camera: Any, *, ground: Ground, options: StageOptions, prior: Prior
) -> ViewInput:
    """Take what the edit of what a camera sees is made from; its source is a render."""
    size = edit_size((int(camera.height), int(camera.width)), options, prior)
    render = scene.render_at(camera, size=size)
    source = render
    if ground != "present":
        source = scene.render_at(camera, size=size, unedited=True)
    given = _input(source.image01, source.image01, render, options)
    return dataclasses.replace(given, points=source.points)


def seen_part(given: ViewInput, masks: SceneMasks) -> Float[Tensor, "h w"]:
    """The share of each pixel that lies in a region, of what a camera sees.

    Raises:
        ValueError: If that is none of them.
    """
    size, points = (given.source01.shape[1], given.source01.shape[2]), given.points
    if points is None:
        raise ValueError("A preview of a region needs a scene with depth; take the region out.")
    inside = masks.inside(points.reshape(-1, 3)).view(size)
    if not bool(inside.any()):
        raise ValueError(
            "A preview needs to see the region, got a camera that doesn't; turn it there."
        )
    return inside.float().cpu()


def edit_size(full: tuple[int, int], options: StageOptions, prior: Prior) -> tuple[int, int]:
    """The size at which an image of this one is edited."""
    edge = options.edit_size or prior.preferred_size
    return prior_size(full, edge=edge, multiple=prior.size_multiple)


def _starts_from_source(options: StageOptions) -> bool:
    return options.update == "ip2p" or (options.update == "csd" and options.start == "original")


def _input(
    original01: Float[Tensor, "3 H W"],
    source01: Float[Tensor, "3 h w"],
    render: SceneRender | None,
    options: StageOptions,
) -> ViewInput:
    start01, control01 = source01, None
    if not _starts_from_source(options):
        assert render is not None
        start01 = render.image01
    if options.control == "depth":
        assert render is not None
        # Estimates of depth, on which ControlNets were trained, are along the camera's axis.
        control01 = depth_structure(render.depth if render.axial is None else render.axial)
    return ViewInput(original01, source01, start01, control01)
