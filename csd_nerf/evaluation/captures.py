"""Reads posed views with depth from a nerfstudio transforms.json.

Two kinds of depth can be read. Files of nerfstudio's `depth_file_path` (PNG or .npy) hold depth
along the camera's axis, in multiples of `depth_unit`; 0 means unknown. The default of `depth_unit`,
1e-3, means millimetres if the poses are in metres. This is how nerfstudio's data parser
(`depth_unit_scale_factor`, 1e-3) and its depth losses (`is_euclidean_depth`, false) read them. Data
sets of `csd-nerf synthetic` hold distances along the rays instead, in the unit of the poses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor

from csd_nerf.evaluation.cross_view import ray_lengths
from csd_nerf.json_files import read_json
from csd_nerf.media.frames import natural_order
from csd_nerf.media.images import READ_FORMATS
from csd_nerf.media.transforms_schema import Lens, Name, Row
from csd_nerf.synthetic.dataset import RECORD

TRANSFORMS = "transforms.json"

_PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_LENS = ("fl_x", "fl_y", "cx", "cy", "w", "h")


_Edge = Annotated[int, Field(gt=0, le=1 << 20)]


class _Lens(Lens):
    w: _Edge | None = None
    h: _Edge | None = None


class _CaptureFrame(_Lens):
    """A frame; poses and depth are only needed to compare views."""

    file_path: Name
    transform_matrix: Annotated[list[Row], Field(min_length=3, max_length=4)] | None = None
    depth_file_path: Name | None = None
    camera_model: str | None = None


class _CaptureFile(_Lens):
    frames: Annotated[list[_CaptureFrame], Field(min_length=1)]
    camera_model: str | None = None


@dataclass(frozen=True)
class Views:
    """Camera poses, intrinsics and depth files of a capture."""

    camera_to_world: Float[Tensor, "n 3 4"]
    """Camera-to-world matrices, OpenGL axes."""
    lens: Float[Tensor, "n 6"]
    """fx, fy, cx, cy, width, height in pixels of the original photographs."""
    depth: tuple[Path, ...]
    """One depth file per view."""
    depth_unit: float | None
    """Length of one step of a depth file, in the unit of the poses. None means that the files hold
    distances along the rays, in the unit of the poses."""

    def intrinsics(self, size: tuple[int, int]) -> Float[Tensor, "n 4"]:
        """fx, fy, cx, cy in pixels for images of this height and width."""
        height, width = size
        scale = torch.tensor([width, height]) / self.lens[:, 4:]
        return self.lens[:, :4] * scale.repeat(1, 2)

    def distance(self, view: int, size: tuple[int, int]) -> Float[Tensor, "h w"]:
        """Distance of each pixel along its ray, for an image of this height and width.

        Raises:
            FileNotFoundError: If the view's depth file is missing.
            ValueError: If the file can't be read.
        """
        depth = _read_depth(self.depth[view])
        # Nearest neighbour: at the edge of an object there is no surface at a depth in between.
        depth = torch.nn.functional.interpolate(depth[None, None], size, mode="nearest-exact")[0, 0]
        if self.depth_unit is None:
            return depth
        return depth * self.depth_unit * ray_lengths(*size, self.intrinsics(size)[view, None])[0]


@dataclass(frozen=True)
class Capture:
    """The photographs of a transforms.json, in natural order of their names."""

    images: tuple[Path, ...]
    views: Views | None
    """Poses and depth; None if cross-view consistency can't be measured."""
    obstacle: str = ""
    """Reason why `views` is None."""


def read_capture(folder: Path, *, depth_unit: float = 1e-3) -> Capture:
    """Read the views of a folder with a transforms.json.

    Args:
        folder: A data set of nerfstudio or of `csd-nerf synthetic`.
        depth_unit: Length of one step of nerfstudio's depth files, in the unit of the poses.

    Raises:
        ValueError: If the file is damaged or names no frames.
    """
    path = folder / TRANSFORMS
    what = "a transforms.json with frames and their file_path"
    data = read_json(path, _CaptureFile, what=what, remedy="write it again").model_dump(
        exclude_none=True
    )
    frames = sorted(data["frames"], key=lambda frame: _order(frame["file_path"]))
    images = tuple(folder / frame["file_path"] for frame in frames)
    depth, unit = _depth_files(folder, frames, depth_unit)
    frames = [data | frame for frame in frames]
    if obstacle := _obstacle(frames, found=bool(depth)):
        return Capture(images, None, obstacle)
    poses = torch.tensor([frame["transform_matrix"][:3] for frame in frames], dtype=torch.float64)
    lens = torch.tensor([[float(frame[key]) for key in _LENS] for frame in frames])
    return Capture(images, Views(poses.float(), lens, depth, unit))


def _order(file_path: str) -> list[str | int]:
    return natural_order(Path(file_path).name)


def _depth_files(
    folder: Path, frames: list[dict[str, Any]], unit: float
) -> tuple[tuple[Path, ...], float | None]:
    if all("depth_file_path" in frame for frame in frames):
        return tuple(folder / frame["depth_file_path"] for frame in frames), unit
    if (folder / RECORD).is_file() and (folder / "depth").is_dir():
        names = (Path(frame["file_path"]).with_suffix(".npy").name for frame in frames)
        return tuple(folder / "depth" / name for name in names), None
    return (), None


def _obstacle(frames: list[dict[str, Any]], *, found: bool) -> str:
    """Reason why pixels can't be projected into space; empty if they can."""
    if not found:
        return "it needs a depth_file_path for every frame of the source's transforms.json"
    needed = (*_LENS, "transform_matrix")
    if missing := [key for key in needed if any(key not in frame for frame in frames)]:
        return f"it needs {', '.join(missing)} in the source's transforms.json"
    model = frames[0].get("camera_model", "OPENCV")
    bent = [key for key in _DISTORTION if any(frame.get(key) for frame in frames)]
    if model not in _PINHOLES or bent:
        found_model = f"{model} with {', '.join(bent)}" if bent else model
        return f"it needs pinhole cameras, got {found_model}; undistort the photographs and depth"
    return ""


def _read_depth(path: Path) -> Float[Tensor, "h w"]:
    if not path.is_file():
        raise FileNotFoundError(f"A view's depth must be a file, got {path}, which does not exist.")
    try:
        if path.suffix == ".npy":
            values = np.load(path)
        else:
            values = np.array(Image.open(path, formats=READ_FORMATS))
        values = values.squeeze().astype(np.float32)
    # On damaged files decoders raise OSError, SyntaxError, EOFError, struct.error and others.
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        raise ValueError(
            f"Depth must be a picture or .npy, got {path} ({error}); write it again."
        ) from None
    if values.ndim != 2:
        raise ValueError(f"Depth must have one channel, got {path} of shape {values.shape}.")
    return torch.from_numpy(values)
