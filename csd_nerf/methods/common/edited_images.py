"""The training images of a scene, of which some are replaced by their edits."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor
from torch.nn import functional

from csd_nerf.methods.common.edits import EditFolder
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.photographs import Photographs, with_channels


class EditedImages:
    """What the data managers of all editing methods share; to be mixed into nerfstudio's.

    A view's number is that of its camera. Each image is kept once, with 8 bits a channel: the
    photograph, or its edit.
    """

    config: Any
    dataparser: Any
    test_split: str
    dataset_type: Any
    train_dataset: Photographs
    eval_dataset: Photographs
    train_dataparser_outputs: DataparserOutputs
    holds_out: bool
    """Whether views are held out from training."""
    _edits: dict[int, dict[str, Any] | None]
    """The edited views, with the record of each edit that a file holds."""

    def _image(self, view: int) -> UInt8[Tensor, "h w c"]:
        """The image that is trained on, to be changed in place."""
        raise NotImplementedError

    def _photograph(self, view: int) -> UInt8[Tensor, "h w c"]:
        """The original photograph."""
        raise NotImplementedError

    def _before_edit(self, view: int) -> None:
        """Called before an image is changed."""

    def create_train_dataset(self) -> Photographs:
        """Open the training images, scaled down to `max_image_size`.

        Raises:
            MethodError: If there are fewer than two.
        """
        self.train_dataparser_outputs = self._in_scene(self.train_dataparser_outputs)
        count = len(self.train_dataparser_outputs.image_filenames)
        if count < 2:
            raise MethodError(
                f"A scene needs 2 training views or more, got {count} from {self.config.data}; "
                "for a picture take csd-nerf panorama."
            )
        return self._open(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> Photographs:
        """Open the held-out images at the scale of the training images.

        If none is held out, these are the training images.
        """
        held_out = self._in_scene(self.dataparser.get_dataparser_outputs(split=self.test_split))
        # With nerfstudio's eval-mode all they are the training images too.
        trained_on = {*self.train_dataparser_outputs.image_filenames}
        self.holds_out = not {*held_out.image_filenames} <= trained_on
        return self._open(held_out if self.holds_out else self.train_dataparser_outputs)

    @property
    def notices(self) -> list[str]:
        """What was put right or taken instead of something else, for the user."""
        found: list[str] = [*getattr(self.dataparser, "notices", ())]
        if not self.holds_out:
            found.append("no view is held out: evaluation shows training views")
        return found

    def _in_scene(self, outputs: DataparserOutputs) -> DataparserOutputs:
        """The outputs with their cameras in `scene_frame`."""
        frame = self.config.scene_frame
        if frame is None:
            return outputs
        transform, scale = torch.tensor(frame[:12]).view(3, 4), frame[12]
        if torch.equal(transform, outputs.dataparser_transform.float()) and (
            scale == outputs.dataparser_scale
        ):
            return outputs
        change = (
            _square(transform).double() @ _square(outputs.dataparser_transform).double().inverse()
        )
        poses = _square(outputs.cameras.camera_to_worlds).double()
        poses[:, :3, 3] /= outputs.dataparser_scale
        poses = change @ poses
        poses[:, :3, 3] *= scale
        outputs.cameras.camera_to_worlds = poses[:, :3].float()
        return dataclasses.replace(outputs, dataparser_transform=transform, dataparser_scale=scale)

    def keep_views(self, views: Sequence[int]) -> None:
        """Keep only these training views, in this order and at the scale that all have together.

        To be called before photographs are read.
        """
        outputs = self.train_dataparser_outputs
        masks = outputs.mask_filenames
        chosen = dataclasses.replace(
            outputs,
            image_filenames=[outputs.image_filenames[view] for view in views],
            mask_filenames=None if masks is None else [masks[view] for view in views],
            cameras=outputs.cameras[torch.tensor(views)],
        )
        self.train_dataset = self._open(chosen)

    def _open(self, outputs: DataparserOutputs) -> Photographs:
        scale = photograph_scale(self.train_dataparser_outputs.cameras, self.config)
        return self.dataset_type(dataparser_outputs=outputs, scale_factor=scale)

    def held_out01(self) -> list[Float[Tensor, "_ _ _"]]:
        """The photographs of the evaluation split, RGB or RGBA in [0, 1]."""
        photographs = self.eval_dataset
        return [photographs.get_image_float32(index) for index in range(len(photographs))]

    @property
    def num_views(self) -> int:
        """Number of training views."""
        return len(self.train_dataset)

    def photograph01(self, view: int) -> Float[Tensor, "h w c"]:
        """The original photograph of a view, RGB or RGBA in [0, 1]."""
        return self._photograph(view).float() / 255

    def as_photograph(self, view: int, mask: Float[Tensor, "_ _"]) -> Float[Tensor, "h w"]:
        """A mask of the picture in a view's file, at the size of the photograph, by areas."""
        height, width = self._image(view).shape[:2]
        return functional.interpolate(mask[None, None], (height, width), mode="area")[0, 0]

    @property
    def names(self) -> list[str]:
        """Name of each photograph: its path from the folder of the data.

        nerfstudio's folders of smaller copies, such as images_4, are named as that of the
        photographs, images.
        """
        data = Path(self.config.data or ".")
        folder = data if data.is_dir() else data.parent
        paths = [os.path.relpath(p, folder) for p in self.train_dataset.image_filenames]
        return [re.sub(r"^images_\d+(?=/)", "images", Path(path).as_posix()) for path in paths]

    @property
    def edited(self) -> dict[int, UInt8[Tensor, "_ _ 3"]]:
        """The edited views, with the colours that are trained on."""
        return {view: self._image(view)[..., :3] for view in sorted(self._edits)}

    def set_edited(
        self,
        edited: Mapping[int, UInt8[Tensor, "_ _ 3"]],
        *,
        background: Float[Tensor, "3"] | None = None,
    ) -> None:
        """Train on edited images from now on; transparency is that of the photographs.

        Args:
            edited: Images by view, over the background where their photographs are transparent.
            background: The colour with which training blends transparent parts; None is black.

        Raises:
            MethodError: If the size of an image isn't its photograph's.
        """
        background = torch.zeros(3) if background is None else background
        for view, image in edited.items():
            self._check_size(view, (image.shape[0], image.shape[1]))
            self._before_edit(view)
            _set_colours(self._image(view), image, background)
            self._keep_photograph(view, image, background)
            self._edits[view] = None

    def _keep_photograph(
        self, view: int, edited: UInt8[Tensor, "h w 3"], background: Float[Tensor, "3"]
    ) -> None:
        """Where an edit looks like its photograph, train on the photograph to the last bit."""
        image = self._image(view)
        if image.shape[2] == 3:
            return
        original = with_channels(self._photograph(view), 4).to(image.device)
        alpha = original[..., 3:] / 255
        shown01 = original[..., :3] / 255 * alpha + background.to(alpha) * (1 - alpha)
        alike = ((shown01.clamp(0, 1) * 255).round().byte() == edited.to(image.device)).all(-1)
        image[alike] = original[alike]

    def reset_images(self) -> None:
        """Train on the photographs again."""
        for view in self._edits:
            image = self._image(view)
            image[:] = with_channels(self._photograph(view), image.shape[2])
        self._edits = {}

    def save_edits(self, folder: EditFolder, *, loaded: EditFolder | None) -> dict[str, Any]:
        """Write the edits that no file holds yet, and return the records of all by name.

        Args:
            folder: Where they are written.
            loaded: Where `load_edits` read from; its files become files of `folder` too.
        """
        names = self.names
        for view, record in self._edits.items():
            if record is None or not folder.take_over(record, loaded or folder):
                self._edits[view] = folder.write(names[view], self._image(view))
        return {names[view]: self._edits[view] for view in sorted(self._edits)}

    @property
    def edit_files(self) -> set[str]:
        """Names of the files that hold the edits, as far as they are written."""
        return {record["file"] for record in self._edits.values() if record is not None}

    def load_edits(self, records: Mapping[str, Any], folder: EditFolder) -> None:
        """Train on the edits that a checkpoint names, each in the place of its own photograph.

        Edits of photographs that are not there are left out.

        Raises:
            MethodError: If a file is missing or isn't the one that was written, or the size of an
                edit isn't its photograph's. Nothing has changed.
        """
        self.take_edits(self.read_edits(records, folder))

    def read_edits(
        self, records: Mapping[str, Any], folder: EditFolder
    ) -> dict[int, tuple[UInt8[Tensor, "_ _ _"], dict[str, Any]]]:
        """The edits that a state names, with their records, by view; as for `load_edits`."""
        found = {}
        for view, name in enumerate(self.names):
            if name in records:
                height, width = records[name]["size"]
                self._check_size(view, (height, width))
                found[view] = (folder.read(name, records[name]), dict(records[name]))
        return found

    def take_edits(
        self, edits: Mapping[int, tuple[UInt8[Tensor, "_ _ _"], dict[str, Any]]]
    ) -> None:
        """Train on the edits that `read_edits` found, and on the photographs of other views."""
        self.reset_images()
        for view, (edit, record) in edits.items():
            self._before_edit(view)
            image = self._image(view)
            image[:] = with_channels(edit, image.shape[2])
            self._edits[view] = record

    def _check_size(self, view: int, size: tuple[int, int]) -> None:
        height, width = self._image(view).shape[:2]
        if size != (height, width):
            raise MethodError(
                f"The edited image of view {view} has to be as large as its photograph, "
                f"{width}x{height}, got {size[1]}x{size[0]}; keep --pipeline.datamanager's image "
                "size and the dataparser's downscale-factor as they were in the run that is loaded."
            )


def photograph_scale(cameras: Cameras, options: Any) -> float:
    """Factor by which photographs are scaled, so that all keep to `max_image_size`.

    Args:
        cameras: Those of the training views.
        options: A data manager's options, `camera_res_scale_factor` and `max_image_size`.
    """
    scale = options.camera_res_scale_factor
    longest = scale * max(int(cameras.width.max()), int(cameras.height.max()))
    limit = options.max_image_size
    if limit is None or longest <= limit:
        return scale
    # nerfstudio rounds the sizes of images and cameras down, in different precisions. Half a pixel
    # more keeps both from being rounded to different sizes.
    return scale * (limit + 0.5) / longest


def _square(pose: Float[Tensor, "*n 3 4"]) -> Float[Tensor, "*n 4 4"]:
    """Poses with the row (0, 0, 0, 1) below."""
    row = torch.tensor([0.0, 0.0, 0.0, 1.0]).to(pose).expand(*pose.shape[:-2], 1, 4)
    return torch.cat([pose, row], dim=-2)


def _set_colours(
    image: UInt8[Tensor, "h w c"], blended: UInt8[Tensor, "h w 3"], background: Float[Tensor, "3"]
) -> None:
    """Give an image, in place, the colours that look like `blended` over a background.

    With the alpha a of an RGBA image, blended = a colour + (1 - a) background. Where a is 0 every
    colour looks alike, and the old one stays.
    """
    if image.shape[-1] == 3:
        image[:] = blended.to(image.device)
        return
    alpha = image[..., 3:] / 255
    blended01 = blended.to(image.device) / 255
    colour = (blended01 - (1 - alpha) * background.to(alpha)) / alpha.clamp(min=1 / 255)
    rounded = (colour.clamp(0, 1) * 255).round().byte()
    image[..., :3] = torch.where(alpha > 0, rounded, image[..., :3])
