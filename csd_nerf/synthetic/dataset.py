"""Writes a procedural scene as a nerfstudio data set, with the true edit beside it.

Layout of the folder:
    transforms.json   cameras (OpenGL axes, z up), the split into train and held-out views
    points.ply        points on the surfaces, in their colours, from which splats begin
    images/           the source views
    edited/           the same views after the edit, under the same names
    depth/            distance along one ray of each pixel, float32 .npy, infinite in the sky; the
                      ray is a quarter of a pixel to the right of the centre and below it
    labels/           what each pixel shows: 0 to 3 for `SHAPES`, 4 for the floor, 5 for the sky
    edit.json         the edit, its instruction, and the settings of the data set
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from csd_nerf.media.files import check_replaceable, folder_written_whole, write_json
from csd_nerf.media.images import write_image
from csd_nerf.media.pixels import to_bytes
from csd_nerf.media.vertices import write_vertices
from csd_nerf.synthetic.cameras import Cameras, orbit_cameras, pixel_rays
from csd_nerf.synthetic.edits import Edit, find_edit
from csd_nerf.synthetic.options import HELD_OUT_EVERY, SceneSettings
from csd_nerf.synthetic.render import Rendering, render
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, Scenes, draw_scenes

ELEVATION = (10.0, 42.0)
"""Lowest and highest elevation of the cameras in degrees."""
POINTS = 6000
"""Number of points in points.ply."""
SKY_DISTANCE = 20.0
"""Distance from a camera of points in its sky, in world units; nothing else is put farther."""
RECORD = "edit.json"
"""File with the settings of a data set; it marks a folder as one of ours."""


def view_cameras(views: int) -> Cameras:
    """Cameras all around a scene, whose elevation rises and falls five times."""
    turn = torch.arange(views) / views
    low, high = (torch.deg2rad(torch.tensor(angle)) for angle in ELEVATION)
    elevation = low + (high - low) * (0.5 - 0.5 * torch.cos(2 * torch.pi * 5 * turn))
    return orbit_cameras(2 * torch.pi * turn, elevation)


def render_views(scenes: Scenes, cameras: Cameras, *, size: int) -> Rendering:
    """Render one scene from many cameras, four at a time, so that rays fit the CPU's cache."""
    parts = []
    for first in range(0, len(cameras.focal), 4):
        some = slice(first, first + 4)
        view = Cameras(cameras.camera_to_world[some], cameras.focal[some])
        parts.append(render(scenes.repeat(len(view.focal)), view, height=size, width=size))
    return Rendering(
        **{
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Rendering)
        }
    )


def write_dataset(
    output: Path, settings: SceneSettings, *, edit: str | None = None, overwrite: bool = False
) -> Path:
    """Write a scene and, optionally, its true edit.

    Args:
        output: Folder to make; written under a temporary name and renamed when complete.
        settings: The scene, and number and size of its views.
        edit: Name or wording of a known edit; None writes the source only.
        overwrite: Replace an existing folder, if it is a data set that this function wrote.

    Returns:
        The folder.

    Raises:
        ValueError: If the edit is unknown, or changes nothing in the scene.
        FileExistsError: If the folder exists, and `overwrite` is not set or the folder is no such
            data set.
    """
    chosen = None if edit is None else find_edit(edit)
    output = output.absolute()
    _check_output(output, overwrite=overwrite)
    scenes = draw_scenes([SPLIT_SEEDS[settings.split][settings.scene]])
    cameras = view_cameras(settings.views)
    source = render_views(scenes, cameras, size=settings.size)
    if chosen is not None and not any(chosen.applies(scenes.repeat(settings.views), source)):
        raise ValueError(
            f"An edit must change what the scene shows, but {edit!r} changes nothing in scene "
            f"{settings.scene} of {settings.split}; choose another edit or another --scene."
        )
    names = [f"{index:05d}.png" for index in range(settings.views)]
    with folder_written_whole(output, marker=RECORD) as partial:
        write_images(partial / "images", names, source.image01)
        _write_geometry(partial, names, source)
        _write_points(partial / "points.ply", cameras, source)
        if chosen is not None:
            edited = render_views(chosen.edit_scenes(scenes), cameras, size=settings.size)
            write_images(partial / "edited", names, chosen.edit_image(edited.image01))
        write_json(partial / "transforms.json", _transforms(cameras, names, settings.size))
        write_json(partial / RECORD, dataclasses.asdict(settings) | _describe(chosen, edit))
    return output


def _check_output(output: Path, *, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"The output folder must be a new one, but {output} exists; name another one "
            "or pass --overwrite."
        )
    check_replaceable(output, marker=RECORD)


def _describe(edit: Edit | None, asked: str | None) -> dict[str, str | None]:
    if edit is None or asked is None:
        return {"edit": None, "kind": None, "instruction": None}
    return {"edit": edit.name, "kind": edit.kind, "instruction": edit.wording(asked)}


def _transforms(cameras: Cameras, names: list[str], size: int) -> dict:
    """Cameras in nerfstudio's format."""
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(len(names), 1, 4)
    matrices = torch.cat([cameras.camera_to_world, bottom], dim=1).tolist()
    files = [f"images/{name}" for name in names]
    held_out = files[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    focal = float(cameras.focal[0]) * size
    return {
        "camera_model": "OPENCV",
        "w": size,
        "h": size,
        "fl_x": focal,
        "fl_y": focal,
        "cx": size / 2,
        "cy": size / 2,
        "ply_file_path": "points.ply",
        "frames": [
            {"file_path": file, "transform_matrix": matrix}
            for file, matrix in zip(files, matrices, strict=True)
        ],
        "train_filenames": [file for file in files if file not in held_out],
        "val_filenames": held_out,
        "test_filenames": held_out,
    }


def write_images(folder: Path, names: list[str], image01: Float[Tensor, "n 3 h w"]) -> None:
    """Write pictures into a new folder."""
    folder.mkdir()
    for name, pixels in zip(names, to_bytes(image01), strict=True):
        write_image(folder / name, pixels)


def _write_geometry(folder: Path, names: list[str], rendering: Rendering) -> None:
    for kind in ("depth", "labels"):
        (folder / kind).mkdir()
    for name, depth, label in zip(names, rendering.depth, rendering.label, strict=True):
        np.save(folder / "depth" / Path(name).with_suffix(".npy").name, depth.numpy())
        Image.fromarray(label.byte().numpy()).save(folder / "labels" / name)


def surface_points(
    cameras: Cameras, rendering: Rendering, *, count: int
) -> tuple[Float[Tensor, "n 3"], UInt8[Tensor, "n 3"]]:
    """Pixels of all views, drawn at random, as points in space: positions and colours.

    Args:
        cameras: The views' cameras.
        rendering: The views, whose rays are those of 2 x 2 samples a pixel.
        count: Number of points.
    """
    size = rendering.depth.shape[-1]
    origin, direction = pixel_rays(cameras, height=2 * size, width=2 * size)
    # The depth's ray is the last of the four in a pixel.
    direction = direction.view(-1, 2 * size, 2 * size, 3)[:, 1::2, 1::2].reshape(-1, size**2, 3)
    distance = rendering.depth.flatten(1).clamp(max=SKY_DISTANCE)
    points = (origin + distance[..., None] * direction).flatten(0, 1)
    colours = to_bytes(rendering.image01).flatten(0, 2)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(points), generator=generator)[:count]
    return points[chosen], colours[chosen]


def _write_points(path: Path, cameras: Cameras, rendering: Rendering) -> None:
    """Write `POINTS` pixels of all views as points in space, such as COLMAP finds."""
    points, colours = surface_points(cameras, rendering, count=POINTS)
    columns = dict(zip("xyz", points.numpy().T, strict=True))
    columns |= dict(zip(("red", "green", "blue"), colours.numpy().T, strict=True))
    write_vertices(path, columns)
