"""The photographs of a preview, with the pixels that the scene method would edit.

Those of a capture are read by the method's own data manager: scaled, turned and undistorted as in
a run. Pictures without cameras are read and scaled in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from csd_nerf.hints import did_you_mean
from csd_nerf.media.images import image_size
from csd_nerf.media.pixels import to_bytes
from csd_nerf.media.transforms import TRANSFORMS
from csd_nerf.methods.common.edited_images import EditedImages, photograph_scale
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.photographs import Photographs

_KEPT = 8
"""Photographs that are kept in memory between the cells; others are read anew for each."""
_BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])


@runtime_checkable
class Images(Protocol):
    """Photographs by number, as `EditedImages` has them."""

    @property
    def names(self) -> list[str]:
        """Name of each photograph."""
        ...

    def keep_views(self, views: Sequence[int]) -> None:
        """Keep only these."""
        ...

    def photograph01(self, view: int) -> Float[Tensor, "h w c"]:
        """A photograph, RGB or RGBA in [0, 1]."""
        ...


class Pictures:
    """Picture files without cameras."""

    def __init__(self, paths: Sequence[Path], config: TrainerConfig) -> None:
        """Find the pictures' sizes; reads no pixels."""
        self._paths = [*paths]
        self._options: Any = config.pipeline.datamanager
        self._cameras = _cameras_of(paths)
        self._scale = photograph_scale(self._cameras, self._options)

    @property
    def names(self) -> list[str]:
        """Names of the files, with their folders if two have the same."""
        alone = [path.name for path in self._paths]
        return alone if len({*alone}) == len(alone) else [path.as_posix() for path in self._paths]

    def keep_views(self, views: Sequence[int]) -> None:
        """Keep only these, in this order."""
        self._paths = [self._paths[view] for view in views]
        self._cameras = self._cameras[torch.tensor(views)]

    def photograph01(self, view: int) -> Float[Tensor, "h w c"]:
        """A picture, scaled as the method scales photographs."""
        outputs = DataparserOutputs(self._paths, self._cameras, scene_box=SceneBox(_BOX))
        dataset = Photographs(outputs, scale_factor=self._scale)
        return dataset.get_data(view, "uint8")["image"].float() / 255


class PreviewPhotographs:
    """The photographs of a preview, over the background of the method's model."""

    def __init__(self, images: Images, config: TrainerConfig) -> None:
        self._images, self._config = images, config
        self._device = config.machine.device_type
        self._model: Any = None
        self._kept = lru_cache(maxsize=_KEPT)(self._read)

    @property
    def names(self) -> list[str]:
        """Name of each photograph."""
        return self._images.names

    def photograph01(self, view: int) -> Float[Tensor, "3 H W"]:
        """A photograph in [0, 1], on the method's device."""
        return self._kept(view).to(self._device)

    def digest(self) -> str:
        """SHA-256 of the pixels of all photographs."""
        found = hashlib.sha256()
        for view in range(len(self.names)):
            pixels = to_bytes(self.photograph01(view)).cpu()
            found.update(f"{tuple(pixels.shape)}".encode() + pixels.numpy().tobytes())
        return found.hexdigest()

    def _read(self, view: int) -> Float[Tensor, "3 H W"]:
        image = self._images.photograph01(view).to(self._device)
        if image.shape[-1] == 4:
            image = self._blending_model.blend_background(image)
        # A GPU's memory is the prior's.
        return image.permute(2, 0, 1).cpu()

    @property
    def _blending_model(self) -> Any:
        """The method's model, untrained: it knows its background."""
        if self._model is None:
            self._model = self._config.pipeline.model.setup(
                scene_box=SceneBox(_BOX),
                num_train_data=len(self.names),
                metadata={},
                device=self._device,
                grad_scaler=None,
                seed_points=None,
            )
        return self._model


def is_capture(data: Sequence[Path], train_options: Sequence[str]) -> bool:
    """Whether the data have cameras: by a transforms.json, or as a dataparser that is named."""
    if len(data) > 1:
        return False
    path = data[0]
    named = any(option.endswith("-data") for option in train_options)
    return named or path.suffix == ".json" or (path / TRANSFORMS).is_file()


def open_capture(config: TrainerConfig) -> EditedImages:
    """The training images of a run of the method; no pixels are read yet.

    Raises:
        MethodError: If the capture can't be read.
    """
    # nerfstudio's mode for evaluation, in which our data managers check, but don't read all.
    images: Any = config.pipeline.datamanager.setup(
        device=config.machine.device_type, test_mode="test", world_size=1, local_rank=0
    )
    return images


def choose_views(names: Sequence[str], *, count: int, wanted: Sequence[str]) -> list[int]:
    """Numbers of the views to preview, ascending.

    Args:
        names: The training views' names.
        count: How many, evenly spaced, the first among them.
        wanted: Names, or the ends of names after a slash, in place of `count`.

    Raises:
        MethodError: If a name is unknown or that of several views.
    """
    if not wanted:
        count = min(count, len(names))
        return [place * len(names) // count for place in range(count)]
    found = []
    for name in wanted:
        views = [v for v, known in enumerate(names) if known == name or known.endswith(f"/{name}")]
        if len(views) != 1:
            what = "no training view" if not views else f"{len(views)} training views"
            short = [known.rpartition("/")[2] for known in names]
            hint = "; give more of its path." if views else did_you_mean(name, [*names, *short])
            raise MethodError(f"--view must name one photograph, got {name}, {what}{hint}")
        found += views
    return sorted({*found})


def _cameras_of(paths: Sequence[Path]) -> Cameras:
    """Cameras that hold nothing but the sizes of pictures."""
    sizes = torch.tensor([image_size(path) for path in paths])
    height, width = sizes[:, :1], sizes[:, 1:]
    return Cameras(
        camera_to_worlds=torch.eye(4)[:3].expand(len(paths), 3, 4),
        fx=width.float(),
        fy=width.float(),
        cx=width / 2,
        cy=height / 2,
        width=width,
        height=height,
    )
