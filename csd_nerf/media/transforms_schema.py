"""What the fields of nerfstudio's transforms.json have to be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Row = Annotated[list[Number], Field(min_length=4, max_length=4)]
CameraModel = Literal[
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "OPENCV_FISHEYE",
    "EQUIRECTANGULAR",
    "OMNIDIRECTIONALSTEREO_L",
    "OMNIDIRECTIONALSTEREO_R",
    "VR180_L",
    "VR180_R",
    "ORTHOPHOTO",
    "FISHEYE624",
]


class Lens(BaseModel):
    """Intrinsics, of the whole file or of one frame. Fields that we don't know are kept."""

    model_config = ConfigDict(extra="allow")

    fl_x: Positive | None = None
    fl_y: Positive | None = None
    cx: Number | None = None
    cy: Number | None = None
    w: Annotated[int, Field(gt=0)] | None = None
    h: Annotated[int, Field(gt=0)] | None = None
    k1: Number | None = None
    k2: Number | None = None
    k3: Number | None = None
    k4: Number | None = None
    p1: Number | None = None
    p2: Number | None = None
    distortion_params: list[Number] | None = None


class Frame(Lens):
    """A photograph with its camera."""

    file_path: Name
    transform_matrix: Annotated[list[Row], Field(min_length=3, max_length=4)]
    mask_path: Name | None = None
    depth_file_path: Name | None = None


class TransformsFile(Lens):
    """The whole file."""

    frames: Annotated[list[Frame], Field(min_length=1)]
    camera_model: CameraModel | None = None
    applied_transform: Annotated[list[Row], Field(min_length=3, max_length=3)] | None = None
    applied_scale: Positive | None = None
    ply_file_path: Name | None = None
    train_filenames: list[Name] | None = None
    val_filenames: list[Name] | None = None
    test_filenames: list[Name] | None = None
