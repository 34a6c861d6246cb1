"""Writes procedural inputs for every command, for people who have none at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch

from csd_nerf.media.files import check_replaceable, folder_written_whole, write_json
from csd_nerf.media.frames import frame_writer
from csd_nerf.media.images import write_image
from csd_nerf.media.pixels import to_bytes
from csd_nerf.synthetic.cameras import Cameras
from csd_nerf.synthetic.capture import write_capture
from csd_nerf.synthetic.dataset import write_dataset
from csd_nerf.synthetic.options import SampleKind, SceneSettings
from csd_nerf.synthetic.panoramas import draw_panorama, render_panorama
from csd_nerf.synthetic.scenes import SPLIT_SEEDS
from csd_nerf.synthetic.videos import Video, draw_video, render_video

RECORD = "sample.json"
"""File by which a folder is known to be a sample."""
FRAMES = 48
FPS = 24
_BAND = 64
"""Rows of a panorama that are rendered at once, to bound the memory."""


def write_sample(
    kind: SampleKind, folder: Path, *, seed: int, size: int, overwrite: bool = False
) -> None:
    """Write an input.

    Args:
        kind: What to write; see `SampleSettings`.
        folder: Folder to make.
        seed: Number of the scene in the split `benchmark`.
        size: Edge of a scene's photographs, longer edge of a panorama or video, in pixels.
        overwrite: Replace an existing folder, if it is such a sample.

    Raises:
        FileExistsError: If the folder exists, and `overwrite` is not set or it is no sample.
    """
    folder = folder.absolute()
    if kind == "scene":
        write_dataset(folder, SceneSettings(scene=seed, size=size), overwrite=overwrite)
        return
    if folder.exists() and not overwrite:
        raise FileExistsError(
            f"The folder must be a new one, got {folder}; name another one or pass --overwrite."
        )
    check_replaceable(folder, marker=RECORD)
    with folder_written_whole(folder, marker=RECORD) as partial:
        _WRITERS[kind](partial, SPLIT_SEEDS["benchmark"][seed], size=size)
        write_json(partial / RECORD, {"kind": kind, "seed": seed, "size": size})


def _write_panorama(folder: Path, seed: int, *, size: int) -> None:
    height = size // 2
    panorama = draw_panorama(seed, height=height, width=2 * height, wrap=True)
    rays = panorama.direction.unflatten(1, (height, -1))
    bands = [
        dataclasses.replace(panorama, direction=band.flatten(1, 2), height=band.shape[1])
        for band in rays.split(_BAND, dim=1)
    ]
    image01 = torch.cat([render_panorama(band) for band in bands], dim=2)
    write_image(folder / "panorama.png", to_bytes(image01)[0])


def _write_video(folder: Path, seed: int, *, size: int) -> None:
    video = draw_video(seed, frames=FRAMES)
    # Encoders need even edges.
    height, width = 3 * size // 8 * 2, size // 2 * 2
    with frame_writer(folder / "video.mp4", size=(height, width), fps=Fraction(FPS)) as write:
        for index in range(FRAMES):
            one = slice(index, index + 1)
            cameras = Cameras(video.cameras.camera_to_world[one], video.cameras.focal[one])
            moment = Video(video.scenes[one], cameras)
            write(to_bytes(render_video(moment, height=height, width=width))[0])


_WRITERS: dict[str, Callable[..., None]] = {
    "panorama": _write_panorama,
    "video": _write_video,
    "capture": write_capture,
}
