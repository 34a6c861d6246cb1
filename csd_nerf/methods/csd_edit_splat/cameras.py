"""Cameras of splats that were trained elsewhere: from transforms.json or from a COLMAP model.

Programs that train splats turn and scale the cameras in different ways, so that a .ply fits a file
of cameras in one of several frames; see `camera_frames`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import auto_orient_and_center_poses
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from nerfstudio.process_data.colmap_utils import parse_colmap_camera_params
from torch import Tensor

from csd_nerf.media.transforms import TRANSFORMS, read_transforms
from csd_nerf.media.transforms_schema import Lens

Frame = Literal["colmap", "file", "nerfstudio"]
"""The frame of splats, by what was done to the cameras before they were trained.

colmap: nothing was done to COLMAP's cameras, as with Inria's code. file: nothing was done to those
of transforms.json. nerfstudio: they were turned, centred and scaled as nerfstudio does by default.
"""

_APPLIED = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""From COLMAP's axes to those of the transforms.json that ns-process-data writes."""
_LENS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "p1", "p2")


@dataclass(frozen=True)
class CameraFile:
    """What a file of cameras holds, each camera with a lens of its own."""

    names: list[str]
    """Names of the photographs, as the file has them."""
    lenses: list[dict[str, Any]]
    """Intrinsics in pixels and distortion, by the names of transforms.json."""
    model: str | None
    """The camera model of transforms.json."""
    camera_to_worlds: Float[Tensor, "n 4 4"]
    """Poses in the frame of transforms.json; the camera looks along -z, and y is up."""
    applied: Float[Tensor, "4 4"] | None
    """From COLMAP's frame to the file's, if it is known."""
    notices: tuple[str, ...] = ()
    """What was put right in the file."""


def read_cameras(path: Path) -> CameraFile:
    """Read a transforms.json, or a COLMAP model (binary or text), from a file or a folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it can't be read.
    """
    if path.is_file():
        return _from_transforms(path)
    if (path / TRANSFORMS).is_file():
        return _from_transforms(path / TRANSFORMS)
    for folder in (path, path / "0", path / "sparse/0", path / "colmap/sparse/0"):
        for suffix in (".bin", ".txt"):
            if colmap.detect_model_format(str(folder), suffix):
                return _from_colmap(folder, suffix)
    raise FileNotFoundError(
        f"--cameras needs a {TRANSFORMS}, or a COLMAP model with cameras, images and points3D, got "
        f"{path} with neither; name the folder that holds them, such as sparse/0."
    )


def camera_frames(cameras: CameraFile) -> dict[Frame, Float[Tensor, "n 4 4"]]:
    """The poses in each frame that splats may have, the likeliest first."""
    poses = cameras.camera_to_worlds
    found: dict[Frame, Tensor] = {}
    if cameras.applied is not None:
        found["colmap"] = torch.linalg.inv(cameras.applied) @ poses
    found["file"] = poses
    usual = NerfstudioDataParserConfig()
    turned, _ = auto_orient_and_center_poses(
        poses.clone(), method=usual.orientation_method, center_method=usual.center_method
    )
    scaled = poses.clone()
    scaled[:, :3] = turned[:, :3]
    scaled[:, :3, 3] *= usual.scale_factor / turned[:, :3, 3].abs().max().clamp(min=1e-12)
    found["nerfstudio"] = scaled
    return found


def _from_transforms(path: Path) -> CameraFile:
    found = read_transforms(path, pictures=False)
    content = found.content
    lenses = [
        {key: lens[key] for key in (*_LENS, "distortion_params") if key in lens}
        for lens in ({**content, **frame} for frame in content["frames"])
    ]
    bare = next((lens for lens in lenses if "w" not in lens or "h" not in lens), None)
    if bare is not None:
        raise ValueError(f"Cameras need w and h, got none in {path}; add the photographs' size.")
    applied = content.get("applied_transform")
    return CameraFile(
        names=[frame["file_path"] for frame in content["frames"]],
        lenses=lenses,
        model=content.get("camera_model"),
        camera_to_worlds=torch.tensor([frame["transform_matrix"] for frame in content["frames"]]),
        applied=None if applied is None else torch.tensor([*applied, [0.0, 0.0, 0.0, 1.0]]),
        notices=found.notices,
    )


def _from_colmap(folder: Path, suffix: str) -> CameraFile:
    try:
        return _colmap_cameras(folder, suffix)
    # What nerfstudio's reader runs into at damaged files.
    except (
        *(KeyError, IndexError, TypeError, NotImplementedError, struct.error, MemoryError),
        *(ValueError, OverflowError, OSError),
    ) as error:
        what = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{folder} must be a whole COLMAP model with 2 images or more, got {what} "
            f"({type(error).__name__}) while it was read; copy or export it again."
        ) from None


def _check_counts(path: Path, *, head: int, is_named: bool, item: int) -> None:
    """Refuse counts that lead beyond a file's end: nerfstudio's reader would take all memory.

    Args:
        path: A binary file of COLMAP: the number of records, and then each record's head, perhaps
            a name that ends in 0, the number of items, and the items.
        head: Bytes of a head.
        is_named: Whether names follow the heads.
        item: Bytes of an item.
    """
    data, at = path.read_bytes(), 8
    (records,) = struct.unpack_from("<Q", data)
    for _ in range(records):
        at += head
        if is_named:
            at = data.index(b"\0", at) + 1
        (items,) = struct.unpack_from("<Q", data, at)
        at += 8 + item * items
        if at > len(data):
            raise ValueError(f"{path.name} of {len(data)} bytes with a count that needs {at}")


def _colmap_cameras(folder: Path, suffix: str) -> CameraFile:
    if suffix == ".bin":
        _check_counts(folder / "images.bin", head=64, is_named=True, item=24)
        _check_counts(folder / "points3D.bin", head=43, is_named=False, item=8)
    model: Any = colmap.read_model(str(folder), suffix)
    models, images, _ = model
    lenses = {key: parse_colmap_camera_params(camera) for key, camera in models.items()}
    ordered = sorted(images.values(), key=lambda image: image.name)
    own = [{**lenses[image.camera_id]} for image in ordered]
    for lens in lenses.values():
        Lens.model_validate(lens)
    kinds = {lens.pop("camera_model") for lens in own}
    if len(kinds) != 1 or len(ordered) < 2:
        raise ValueError(f"{len(ordered)} images of {len(kinds)} kinds of cameras")
    worlds_to_camera = np.tile(np.eye(4), (len(ordered), 1, 1))
    worlds_to_camera[:, :3, :3] = [colmap.qvec2rotmat(image.qvec) for image in ordered]
    worlds_to_camera[:, :3, 3] = [image.tvec for image in ordered]
    # COLMAP's cameras look along z, with y down.
    poses = np.linalg.inv(worlds_to_camera) @ np.diag([1.0, -1, -1, 1])
    if not np.isfinite(poses).all():
        raise ValueError("poses that are not finite")
    return CameraFile(
        names=[image.name for image in ordered],
        lenses=own,
        model=kinds.pop(),
        camera_to_worlds=torch.from_numpy(_APPLIED @ poses).float(),
        applied=torch.from_numpy(_APPLIED).float(),
    )
