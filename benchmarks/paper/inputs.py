"""The inputs of experiments, read from the user's files."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from jaxtyping import Float, UInt8
from pydantic import BaseModel, ConfigDict, Field, RootModel
from torch import Tensor

from benchmarks.paper.experiment import Experiment
from csd_nerf.json_files import read_json
from csd_nerf.media.frames import FRAME_SUFFIXES, Frame, natural_order, open_frames
from csd_nerf.media.images import read_image
from csd_nerf.media.pixels import resize

PROMPTS = "prompts.json"
EXAMPLE = (
    '{"bear": {"prompt": "turn it into a polar bear", "source_caption": "a brown bear", '
    '"edited_caption": "a polar bear"}}'
)
TEXT_EXAMPLE = '{"corgi": "a photo of a corgi"}'
FRAMES = 24
"""Number of evenly spaced frames of a video (B.2)."""
FRAME_EDGE = 512
"""Edge in pixels of the squares to which frames are resized (B.2)."""

Frames = UInt8[Tensor, "n h w 3"]


@dataclass(frozen=True)
class Task:
    """An edit: its instruction, and the captions by which CLIP judges it."""

    name: str
    prompt: str
    source_caption: str
    edited_caption: str
    path: Path = Path()
    """File or folder of the input; not used for synthetic inputs."""


@dataclass(frozen=True)
class Item:
    """A picture (one frame) or a video with its task."""

    task: Task
    read: Callable[[], Frames]
    truth01: Float[Tensor, "n 3 h w"] | None = None
    """The true edit; None if it is not known."""


_Text = Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    """An edit in prompts.json."""

    model_config = ConfigDict(extra="forbid")

    prompt: _Text
    source_caption: _Text
    edited_caption: _Text
    input: _Text | None = None


class _Entries(RootModel[dict[_Text, _Entry]]):
    root: Annotated[dict[_Text, _Entry], Field(min_length=1)]


class _Texts(RootModel[dict[_Text, _Text]]):
    root: Annotated[dict[_Text, _Text], Field(min_length=1)]


_Model = TypeVar("_Model", bound=BaseModel)


def read_tasks(data: Path) -> list[Task]:
    """Read the prompts.json of a folder.

    It holds an entry for each edit by its name, with `prompt`, `source_caption` and
    `edited_caption`. `input` names the input's file, so that an input can have several edits; by
    default it has the name of the edit.

    Raises:
        FileNotFoundError: If there is no prompts.json.
        ValueError: If it has another form.
    """
    entries = _read_prompts(data, _Entries, EXAMPLE).root
    return [
        Task(
            name,
            entry.prompt,
            entry.source_caption,
            entry.edited_caption,
            data / (entry.input or name),
        )
        for name, entry in entries.items()
    ]


def read_texts(data: Path) -> dict[str, str]:
    """Read a prompts.json that holds a text for each scene, by the scene's name.

    Raises:
        FileNotFoundError: If there is no prompts.json.
        ValueError: If it has another form.
    """
    return _read_prompts(data, _Texts, TEXT_EXAMPLE).root


def _read_prompts(data: Path, schema: type[_Model], example: str) -> _Model:
    path = data / PROMPTS
    if not path.is_file():
        raise FileNotFoundError(
            f"--data must hold {PROMPTS} with the instructions, got {data} without it; write one "
            f"such as {example}."
        )
    what = f"JSON with entries such as {example}"
    return read_json(path, schema, what=what, remedy="mend it")


def video_items(data: Path) -> list[Item]:
    """The videos that a folder's prompts.json names."""
    found = [(task, find_input(task.path)) for task in read_tasks(data)]
    return [Item(task, lambda path=path: read_frames(path)) for task, path in found]


def panorama_items(data: Path, experiment: Experiment) -> list[Item]:
    """The pictures in prompts.json; without the file, all pictures with the paper's prompts."""
    if (data / PROMPTS).is_file():
        tasks = read_tasks(data)
        return [_panorama_item(task, find_input(task.path)) for task in tasks]
    pictures = [data] if data.is_file() else sorted_pictures(data)
    if not pictures:
        raise ValueError(
            f"--data needs pictures ({', '.join(FRAME_SUFFIXES)}), got {data} with none."
        )
    return [
        _panorama_item(Task(f"{path.stem}, {texts[0]}", *texts), path)
        for path in pictures
        for texts in experiment.prompts
    ]


def _panorama_item(task: Task, path: Path) -> Item:
    return Item(task, lambda: read_image(path)[0][None])


def find_input(path: Path) -> Path:
    """Find a file or folder with this name and any suffix.

    Raises:
        FileNotFoundError: If there is none.
    """
    if path.exists():
        return path
    found = sorted(path.parent.glob(f"{glob.escape(path.name)}.*")) if path.parent.is_dir() else []
    if not found:
        raise FileNotFoundError(
            f"{path.parent} must hold {path.name}, as a file or a folder, but doesn't; see the "
            f"names in {PROMPTS}."
        )
    return found[0]


def sorted_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in natural order.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"A folder of pictures must exist, got {folder}.")
    found = (path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES)
    return sorted(found, key=lambda path: natural_order(path.name))


def read_frames(path: Path) -> Frames:
    """Read `FRAMES` frames of a video, resized to squares of `FRAME_EDGE`, as in the paper."""
    size = (FRAME_EDGE, FRAME_EDGE)
    frames = open_frames(path, frames=str(FRAMES))
    return resized(frames, size)


def read_peer(folder: Path, item: Item, *, like: Frames) -> Frames:
    """Read another method's result for an input, resized to the size of `like`.

    Raises:
        FileNotFoundError: If the folder holds no result for the input.
        ValueError: If its number of frames is not that of `like`.
    """
    path = find_input(folder / item.task.name)
    frames = open_frames(path)
    if frames.count != len(like):
        raise ValueError(
            f"A peer's result needs as many frames as its input, {len(like)}, got "
            f"{frames.count} in {path}; give those that csd-nerf video --frames {FRAMES} takes."
        )
    size = (like.shape[1], like.shape[2])
    return resized(frames, size)


def resized(
    frames: Iterable[Frame], size: tuple[int, int]
) -> UInt8[Tensor, "n {size[0]} {size[1]} 3"]:
    """Resize all frames to a height and width."""
    return torch.stack([resize(frame, size) for frame in frames])
