"""Pictures of a run: previews during training, turntables and contact sheets at the end."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.media.files import write_json
from csd_nerf.media.sheets import enlarge, save_contact_sheet, save_video
from csd_nerf.methods.csd_dreamfusion.datamanager import orbit_cameras
from csd_nerf.methods.csd_dreamfusion.model import CSDDreamFusionModel
from csd_nerf.methods.csd_dreamfusion.rays import BEYOND
from csd_nerf.methods.csd_dreamfusion.shading import Light, shade

ELEVATION = torch.pi / 6
"""Elevation in radians of the cameras of all views shown and measured; CSD Appendix C.2."""
LIGHT = (-0.9, 0.9)
"""The light in lit views, in radians: its azimuth relative to the camera's, and its elevation."""
AMBIENT = 0.4
"""Share of ambient light in lit views, in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class ObjectRenders:
    """Views all around one object, on a white background."""

    colour01: Float[Tensor, "n 3 h w"]
    """Albedo: colours without light."""
    lit01: Float[Tensor, "n 3 h w"]
    """Colours lit by a light, by default from the upper left."""
    depth01: Float[Tensor, "n 3 h w"]
    """Depth: white is near, black is far or no surface."""
    normals01: Float[Tensor, "n 3 h w"]
    """Normals in world axes; [-1, 1] is mapped to [0, 1]."""
    textureless01: Float[Tensor, "n 3 h w"]
    """Grey surfaces, lit from the camera."""
    coverage: Float[Tensor, "n h w"]
    """Opacity of each pixel."""


def render_around(
    model: CSDDreamFusionModel,
    *,
    views: int,
    size: int,
    shown: int = 0,
    radius: float = 2.5,
    focal: float = 1.15,
    elevation: float = ELEVATION,
    light: tuple[float, float] = LIGHT,
    ambient: float = AMBIENT,
) -> ObjectRenders:
    """Render an object from evenly spaced azimuths, beginning at its front.

    Args:
        model: The objects.
        views: Number of azimuths.
        size: Edge of the square views in pixels.
        shown: Number of the object, counted from 0.
        radius: Distance of the cameras from the centre.
        focal: Focal length in units of the edge.
        elevation: Elevation of the cameras in radians.
        light: The light's azimuth relative to the camera's, and its elevation, in radians.
        ambient: Share of ambient light, in [0, 1].
    """
    azimuth = 2 * torch.pi * torch.arange(views) / views
    cameras = orbit_cameras(
        azimuth, torch.full((views,), elevation), radius=radius, focal=focal, size=size
    ).to(model.device)
    was_training = model.training
    shown_before, background_before = model.config.shown_object, model.config.background
    model.config.shown_object, model.config.background = shown, "white"
    model.eval()
    try:
        outputs = [model.get_outputs_for_camera(cameras[i : i + 1]) for i in range(views)]
    finally:
        model.config.shown_object, model.config.background = shown_before, background_before
        model.train(was_training)

    def stack(name: str) -> Float[Tensor, "n k h w"]:
        return torch.stack([out[name] for out in outputs]).movedim(-1, 1).float().cpu()

    depth = stack("depth")
    near = ((radius + 1 - depth) / 2).clamp(0, 1) * (depth < BEYOND)
    colour01, normals01 = stack("rgb").clamp(0, 1), stack("normals")
    toward = _direction(azimuth + light[0], torch.full((views,), light[1]))
    return ObjectRenders(
        colour01=colour01,
        lit01=_lit(colour01, normals01, stack("accumulation"), Light(toward, ambient)),
        depth01=near.expand(-1, 3, -1, -1),
        normals01=normals01,
        textureless01=stack("textureless").clamp(0, 1),
        coverage=stack("accumulation")[:, 0],
    )


def _direction(azimuth: Float[Tensor, "n"], elevation: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
    """Unit vectors from the origin in these directions."""
    return orbit_cameras(azimuth, elevation, radius=1.0, focal=1.0, size=1).camera_to_worlds[..., 3]


def _lit(
    colour01: Float[Tensor, "n 3 h w"],
    normals01: Float[Tensor, "n 3 h w"],
    coverage: Float[Tensor, "n 1 h w"],
    light: Light,
) -> Float[Tensor, "n 3 h w"]:
    """Shade views of an object on white by their normals, each view with its own light."""
    surface = (colour01 - (1 - coverage)).movedim(1, -1)
    normal = torch.nn.functional.normalize(2 * normals01.movedim(1, -1) - 1, dim=-1, eps=1e-4)
    pixels = surface.shape[1] * surface.shape[2]
    each = Light(light.toward.repeat_interleave(pixels, dim=0), light.ambient)
    lit = shade(surface.reshape(-1, 3), normal.reshape(-1, 3), light=each, shading="lambertian")
    return (lit.view_as(surface).movedim(-1, 1) + 1 - coverage).clamp(0, 1)


def save_preview(path: Path, model: CSDDreamFusionModel, *, size: int) -> None:
    """Save four views around each object: a row of colours and a row of normals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for shown in range(len(model.fields)):
        renders = render_around(model, views=4, size=size, shown=shown)
        rows += [renders.colour01, renders.normals01]
    columns = {f"{90 * i} deg": torch.stack([row[i] for row in rows]) for i in range(4)}
    save_contact_sheet(path, {name: enlarge(row, edge=128) for name, row in columns.items()})


def save_result(
    folder: Path,
    model: CSDDreamFusionModel,
    settings: dict[str, Any],
    *,
    size: int,
    frames: int = 48,
    failed: bool = False,
) -> list[Path]:
    """Write the turntable and contact sheet of each object, and settings.json.

    settings.json also holds the `object_difference` of every two objects.

    Args:
        folder: Where to write.
        model: The objects.
        settings: The settings of the run.
        size: Edge of the views in pixels.
        frames: Number of views of a turntable.
        failed: Whether the run failed. Then values of its objects that aren't finite are shown as
            black; otherwise they are an error.

    Returns:
        The files: each object's video and contact sheet, then settings.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, turns = [], []
    for shown in range(len(model.fields)):
        name = f"object_{shown}" if len(model.fields) > 1 else "object"
        turn = render_around(model, views=frames, size=size, shown=shown)
        if failed:
            finite = {name: maps.nan_to_num(0, 0, 0) for name, maps in vars(turn).items()}
            turn = ObjectRenders(**finite)
        video, sheet = folder / f"{name}_turntable.mp4", folder / f"{name}.png"
        wide = torch.cat([turn.colour01, turn.depth01, turn.normals01], dim=3)
        save_video(video, enlarge(wide, edge=768), fps=16)
        step = max(frames // 6, 1)
        save_contact_sheet(
            sheet,
            {
                "colour": turn.colour01[::step],
                "lit": turn.lit01[::step],
                "depth": turn.depth01[::step],
                "normals": turn.normals01[::step],
                "textureless": turn.textureless01[::step],
            },
        )
        turns.append(turn)
        written += [video, sheet]
    record = folder / "settings.json"
    pairs = combinations(range(len(turns)), 2)
    values = settings | {
        "differences": {f"{i}, {j}": object_difference(turns[i], turns[j]) for i, j in pairs}
    }
    write_json(record, values)
    return [*written, record]


def object_difference(one: ObjectRenders, other: ObjectRenders) -> dict[str, float]:
    """Measure how much two objects differ, rendered from the same cameras.

    Returns:
        `colour`: mean absolute difference of RGB over all pixels, in [0, 1]. `silhouette`: one
        minus the intersection over union of the covered pixels (opacity above 0.5), in [0, 1].
    """
    first, second = one.coverage > 0.5, other.coverage > 0.5
    union = float((first | second).sum())
    common = float((first & second).sum())
    return {
        "colour": float((one.colour01 - other.colour01).abs().mean()),
        "silhouette": 1 - common / union if union else 0.0,
    }
