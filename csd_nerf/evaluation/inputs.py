"""Opens the inputs of measures: pictures, videos, folders of frames and captures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from csd_nerf.core.windows import window_positions
from csd_nerf.evaluation.captures import TRANSFORMS, Views, read_capture
from csd_nerf.evaluation.consistency import Borders, window_borders
from csd_nerf.json_files import read_json
from csd_nerf.media.frames import FRAME_SUFFIXES, open_frames
from csd_nerf.media.images import read_image
from csd_nerf.media.pixels import resize, to_01, to_bytes

_Length = Annotated[int, Field(gt=0, le=1 << 20)]
_Size = Annotated[list[_Length], Field(min_length=2, max_length=2)]


class _Facts(BaseModel):
    """The facts that measures read; the others are kept."""

    model_config = ConfigDict(extra="allow")

    frames: _Length | str = "all"
    work_size: _Size | None = None
    canvas_cells: _Size | None = None
    window_cells: _Size | None = None
    stride_cells: _Length | None = None
    wrap: bool = False

    @model_validator(mode="after")
    def _goes_together(self) -> _Facts:
        if self.canvas_cells is None:
            return self
        if self.window_cells is None or self.stride_cells is None or self.work_size is None:
            raise ValueError("canvas_cells needs window_cells, stride_cells and work_size too")
        fits = zip(self.window_cells, self.canvas_cells, self.work_size, strict=True)
        if not all(window <= canvas <= size for window, canvas, size in fits):
            raise ValueError("a window must lie in the canvas, and a cell must have pixels")
        if self.stride_cells > min(self.window_cells):
            raise ValueError("stride_cells must be at most a window's edge")
        return self


class _Settings(BaseModel):
    wrap: bool = False


class _Record(BaseModel):
    facts: _Facts
    settings: _Settings = _Settings()


@dataclass(frozen=True, eq=False)
class ImageSequence:
    """Pictures or frames of one size, in [0, 1]; every iteration reads them anew, one by one."""

    size: tuple[int, int]
    """Height and width in pixels."""
    count: int
    """Number of frames."""
    read: Callable[[], Iterable[Float[Tensor, "1 3 h w"]]]
    """Returns a new iterable over the frames."""
    path: Path | None = None
    """File or folder that was opened; None for images in memory."""
    views: Views | None = None
    """Poses and depths of a capture's frames; None if not known."""
    obstacle: str = "it needs a source that is a folder with a transforms.json and depth"
    """Reason why `views` is None."""

    @classmethod
    def of(cls, image01: Float[Tensor, "n 3 h w"]) -> ImageSequence:
        """Wrap images in memory."""
        return cls((image01.shape[2], image01.shape[3]), len(image01), lambda: image01.split(1))

    def __iter__(self) -> Iterator[Float[Tensor, "1 3 h w"]]:
        for index, frame in enumerate(self.read()):
            if (size := (frame.shape[2], frame.shape[3])) != self.size:
                raise ValueError(
                    f"Frames need one size, got {self.path} with {self.size[1]} x {self.size[0]} "
                    f"and, as frame {index}, {size[1]} x {size[0]}; resize them."
                )
            yield frame


def open_input(path: Path, *, frames: str = "all", depth_unit: float = 1e-3) -> ImageSequence:
    """Open a picture, a video, a folder of pictures or a folder with a transforms.json.

    Args:
        path: File or folder to open; the pictures of a folder are in natural order.
        frames: Which frames of a video or folder; see `open_frames`.
        depth_unit: See `read_capture`.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If the input can't be read.
    """
    if path.suffix.lower() in FRAME_SUFFIXES and not path.is_dir():
        return _pictures(path, (path,))
    if (path / TRANSFORMS).is_file():
        capture = read_capture(path, depth_unit=depth_unit)
        return _pictures(path, capture.images, views=capture.views, obstacle=capture.obstacle)
    opened = open_frames(path, frames=frames)
    return ImageSequence(
        opened.size, opened.count, lambda: (to_01(frame)[None] for frame in opened), path
    )


def _pictures(path: Path, images: tuple[Path, ...], **known: Any) -> ImageSequence:
    first = read_image(images[0])[0]
    size = (first.shape[0], first.shape[1])
    return ImageSequence(size, len(images), lambda: map(read_01, images), path, **known)


def read_01(path: Path) -> Float[Tensor, "1 3 h w"]:
    """Read a picture as a batch of one image in [0, 1]."""
    return to_01(read_image(path)[0])[None]


def read_facts(edited: Path) -> dict[str, Any]:
    """Read the facts in the record of `csd-nerf panorama` or `video` beside a result.

    Returns:
        The facts; empty if there is no record.

    Raises:
        ValueError: If the record is damaged.
    """
    record = edited.with_name(edited.name + ".json")
    if not record.exists():
        return {}
    found = read_json(
        record,
        _Record,
        what="the record of an edit, with its facts",
        remedy="move it away to measure without it",
    )
    facts = found.facts.model_dump(exclude_unset=True, exclude_none=True)
    # Older records have it among the settings alone.
    return {"wrap": found.settings.wrap} | facts


def find_borders(facts: dict[str, Any]) -> tuple[Borders, int] | None:
    """Borders of a picture's windows, and the pixels along a cell's edge, at the size of the edit.

    None if the facts hold no windows, or if one window is the whole picture.
    """
    if "canvas_cells" not in facts or facts["window_cells"] == facts["canvas_cells"]:
        return None
    (height, width), window = facts["canvas_cells"][::-1], tuple(facts["window_cells"][::-1])
    wrap, cell = facts.get("wrap", False), facts["work_size"][0] // width
    positions = window_positions((height, width), window, stride=facts["stride_cells"], wrap=wrap)
    return window_borders(positions, window, (height, width), cell_size=cell, wrap=wrap), cell


def at_work_size(
    image01: Float[Tensor, "1 3 H W"], facts: dict[str, Any]
) -> Float[Tensor, "1 3 h w"]:
    """Resize an image to the size at which it was edited; unchanged if that is not known."""
    if "work_size" not in facts:
        return image01
    width, height = facts["work_size"]
    pixels = to_bytes(image01[0]).cpu()
    resized = resize(pixels, (height, width), wrap=facts.get("wrap", False))
    return to_01(resized)[None].to(image01.device)
