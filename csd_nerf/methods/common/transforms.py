"""nerfstudio's parser of transforms.json, behind a check of the file and of its pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.dataparsers import nerfstudio_dataparser
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import (
    Nerfstudio,
    NerfstudioDataParserConfig,
)

from csd_nerf.media.images import image_size
from csd_nerf.media.transforms import read_transforms
from csd_nerf.media.vertices import read_points
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.photographs import is_upright

_ROUNDING = 1
"""Pixels by which the size of a shrunken picture may differ from its camera's."""


class CheckedTransforms(Nerfstudio):
    """nerfstudio's parser, which reads the file by `read_transforms`.

    Args:
        config: nerfstudio's options of its parser.
        pictures: Whether the pictures are needed, and therefore checked.

    Attributes:
        notices: What was put right in the file, for the user.
    """

    def __init__(self, config: NerfstudioDataParserConfig, *, pictures: bool = True) -> None:
        super().__init__(config)
        self.notices: tuple[str, ...] = ()
        self._pictures = pictures

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        with self._checked_reading():
            outputs = super()._generate_dataparser_outputs(split)
        if self._pictures:
            try:
                check_pictures(outputs)
            except (ValueError, FileNotFoundError) as error:
                raise MethodError(str(error)) from None
        return outputs

    def _load_3D_points(  # noqa: N802 - nerfstudio's name
        self, ply_file_path: Path, transform_matrix: torch.Tensor, scale_factor: float
    ) -> dict[str, torch.Tensor] | None:
        """As nerfstudio's, but by a library that is imported in no time; open3d takes seconds."""
        if ply_file_path.suffix.lower() != ".ply":
            return super()._load_3D_points(ply_file_path, transform_matrix, scale_factor)
        places, colours = read_points(ply_file_path)
        if not len(places):
            return None
        points = torch.from_numpy(places)
        moved = torch.cat((points, torch.ones_like(points[:, :1])), -1) @ transform_matrix.T
        return {"points3D_xyz": moved * scale_factor, "points3D_rgb": torch.from_numpy(colours)}

    @contextmanager
    def _checked_reading(self) -> Iterator[None]:
        """Replace the function by which nerfstudio's parser reads the file."""
        plain = nerfstudio_dataparser.load_from_json

        def read(path: Path) -> dict[str, Any]:
            found = read_transforms(path, pictures=self._pictures)
            self.notices = found.notices
            points = found.content.get("ply_file_path")
            if self.config.load_3D_points and points and not (path.parent / points).is_file():
                raise FileNotFoundError(
                    f"ply_file_path of {path} must name the file of the 3D points, got "
                    f"{path.parent / points}, which does not exist; restore it, or leave the field "
                    "out to begin at random places."
                )
            return found.content

        nerfstudio_dataparser.load_from_json = read
        try:
            yield
        except (ValueError, FileNotFoundError) as error:
            raise MethodError(str(error)) from None
        except ZeroDivisionError:
            raise MethodError(
                f"Cameras need different places, for nerfstudio to scale poses by their distance, "
                f"got {self.config.data} with all at one; leave them as they are with "
                "nerfstudio-data --auto-scale-poses False at the end of the command."
            ) from None
        finally:
            nerfstudio_dataparser.load_from_json = plain


def checked(config: DataParserConfig, *, pictures: bool) -> DataParserConfig:
    """The config of a `CheckedTransforms` in place of nerfstudio's own parser; others unchanged."""
    ours = isinstance(config._target, partial) and config._target.func is CheckedTransforms
    if config._target is not Nerfstudio and not ours:
        return config
    return dataclasses.replace(config, _target=partial(CheckedTransforms, pictures=pictures))


def check_pictures(outputs: DataparserOutputs) -> None:
    """Check that the pictures and masks of a split are there and as large as their cameras.

    A picture with an EXIF orientation may have the size of either reading; see
    `Photographs`.

    Raises:
        MethodError: If one isn't; the message names the first.
    """
    cameras = outputs.cameras
    masks = outputs.mask_filenames or [None] * len(outputs.image_filenames)
    wrong = []
    for index, (picture, mask) in enumerate(zip(outputs.image_filenames, masks, strict=True)):
        camera = (int(cameras.height[index]), int(cameras.width[index]))
        upright = is_upright(picture, camera)
        size = image_size(picture, upright=upright)
        if not _fits(size, camera):
            wrong.append((picture, size, camera))
        elif mask is not None and (masked := image_size(mask, upright=upright)) != size:
            raise MethodError(
                f"A mask must be as large as its photograph, {size[1]} x {size[0]}, got {mask} "
                f"with {masked[1]} x {masked[0]}; resize or turn it."
            )
    if wrong:
        picture, (height, width), camera = wrong[0]
        raise MethodError(
            f"Photographs must be as large as their cameras, got {picture} with {width} x "
            f"{height} for a camera of {camera[1]} x {camera[0]}, and {len(wrong) - 1} others; "
            "restore the photographs, or set w and h and scale fl_x, fl_y, cx and cy with them."
        )


def _fits(size: tuple[int, int], camera: tuple[int, int]) -> bool:
    return all(abs(ours - theirs) <= _ROUNDING for ours, theirs in zip(size, camera, strict=True))
