"""Reads nerfstudio's transforms.json: checked, and put right where only one reading is possible.

nerfstudio itself checks little: a missing file, a pose of NaN or a photograph of another size ends
in a traceback, or trains a wrong scene without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from csd_nerf.media.images import PICTURE_SUFFIXES, image_size
from csd_nerf.media.transforms_schema import TransformsFile

TRANSFORMS = "transforms.json"
SPLITS = ("train", "val", "test")

_FOCAL = ("fl_x", "fl_y", "cx", "cy")
_SIZE = ("w", "h")
_ALL_AT_ONCE = "distortion_params"
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2", _ALL_AT_ONCE)
_FILES = ("file_path", "mask_path")
"""Files that training reads."""
_CENTRED = 0.05
"""Largest distance of a principal point from the middle of its picture, as a fraction of width plus
height, for which it belongs to the picture rather than to one with swapped edges."""


@dataclass(frozen=True)
class Transforms:
    """A file that nerfstudio's parser can take as it is."""

    content: dict[str, Any]
    """The file's content, put right."""
    notices: tuple[str, ...]
    """What was put right, for the user."""


def read_transforms(path: Path, *, pictures: bool = True) -> Transforms:
    """Read a transforms.json.

    Put right are: a byte-order mark; file names with backslashes or without suffix; poses of three
    rows; intrinsics that some frames have of their own; sizes that are missing or have width and
    height swapped; a list of held-out views for one of `val` and `test` alone.

    Args:
        path: The file.
        pictures: Whether the pictures that it names must exist. Otherwise those that exist help to
            put things right.

    Raises:
        FileNotFoundError: If the file is missing, or a picture that it names.
        ValueError: If it is not JSON, or a field is missing, of another type or not finite; the
            message names the frame.
    """
    content = _checked(path, _read_json(path))
    _check_frames(path, content["frames"])
    notices: list[str] = []
    notices += _find_files(path, content, needed=pictures)
    for step in (_square_poses, _own_lenses, _find_splits, _find_sizes):
        notices += step(path, content)
    return Transforms(content, tuple(notices))


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"A scene needs a {TRANSFORMS}, got {path}, which does not exist.")
    try:
        # With or without a byte-order mark.
        return json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be JSON, but can't be read ({error}); it may have been cut off: copy or "
            "write it again."
        ) from None


def _checked(path: Path, content: Any) -> dict[str, Any]:
    """The content with all fields of the right type."""
    try:
        return TransformsFile.model_validate(content).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, what = list(first["loc"]), first["msg"]
        if place[:1] == ["frames"] and len(place) > 1:
            place = [f"frame {_named(content, place[1])}", *place[2:]]
        field = ".".join(str(part) for part in place) or "the whole"
        given = "" if first["type"] == "missing" else f", got {str(first['input'])[:40]!r}"
        raise ValueError(
            f"{path} must be a {TRANSFORMS} of nerfstudio, but {field}: {what}{given}; write it "
            "again with ns-process-data, or mend the field."
        ) from None


def _named(content: Any, index: Any) -> str:
    frame = content["frames"][index]
    name = frame.get("file_path") if isinstance(frame, Mapping) else None
    return str(index) if name is None else f"{index} ({name})"


def _check_frames(path: Path, frames: list[dict[str, Any]]) -> None:
    if len(frames) < 2:
        raise ValueError(
            f"A scene needs 2 training views or more, got {len(frames)} in {path}; for a picture "
            "take csd-nerf panorama."
        )
    bare = [frame["file_path"] for frame in frames if "mask_path" not in frame]
    if bare and len(bare) < len(frames):
        raise ValueError(
            f"All frames need a mask or none, got {len(frames) - len(bare)} of {len(frames)} "
            f"frames of {path} with a mask_path, and {bare[0]} without; give it one, white where "
            "all of it counts."
        )


def _find_files(path: Path, content: dict[str, Any], *, needed: bool) -> Iterator[str]:
    """Replace names that are written in another way than those of the files."""
    for key in _FILES:
        named = [frame for frame in content["frames"] if key in frame]
        found = [_existing(path.parent, frame[key]) for frame in named]
        missing = [f[key] for f, name in zip(named, found, strict=True) if name is None]
        if missing and needed:
            raise FileNotFoundError(
                f"Files of {path} must exist, got {key} {missing[0]}, which doesn't, and "
                f"{len(missing) - 1} others of {len(named)}; put them there, or take their frames "
                "out."
            )
        pairs = ((frame[key], name) for frame, name in zip(named, found, strict=True))
        renamed = {old: new for old, new in pairs if new not in (None, old)}
        if renamed:
            old, new = next(iter(renamed.items()))
            yield f"{len(renamed)} names of {path.name} read as those of files, {old} as {new}"
            for frame in named:
                frame[key] = renamed.get(frame[key], frame[key])
            if key == "file_path":
                for split in SPLITS:
                    if (names := content.get(f"{split}_filenames")) is not None:
                        names[:] = [renamed.get(name, name) for name in names]


def _existing(root: Path, name: str) -> str | None:
    """The name under which a file exists; None if there is none."""
    for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
        path = Path(spelled)
        # nerfstudio's own smaller copies can be all that there is.
        if (root / path).is_file() or any(root.glob(f"*_[0-9]*/{_literal(path.name)}")):
            return spelled
        with_suffix = [f"{spelled}{s}" for s in PICTURE_SUFFIXES if (root / f"{path}{s}").is_file()]
        if len(with_suffix) == 1:
            return with_suffix[0]
    return None


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _square_poses(path: Path, content: dict[str, Any]) -> Iterator[str]:
    """Complete poses, of which the last row can be left out."""
    short = [frame for frame in content["frames"] if len(frame["transform_matrix"]) == 3]
    for frame in short:
        frame["transform_matrix"].append([0.0, 0.0, 0.0, 1.0])
    if short:
        yield f"{len(short)} poses of {path.name} completed by their last row, 0 0 0 1"


def _own_lenses(path: Path, content: dict[str, Any]) -> Iterator[str]:
    """Give every frame its own intrinsics if one of them differs.

    nerfstudio ignores those of frames if the file has one for all.
    """
    for keys in (*((key,) for key in (*_FOCAL, *_SIZE)), _DISTORTION):
        common = {key: content[key] for key in keys if key in content}
        own = [
            any(key in f and f[key] != common.get(key) for key in keys) for f in content["frames"]
        ]
        if common and any(own):
            for frame in content["frames"]:
                mixes = _ALL_AT_ONCE in common or _ALL_AT_ONCE in frame
                if not (mixes and any(key in frame for key in keys)):
                    frame |= {**common, **{key: frame[key] for key in keys if key in frame}}
            for key in common:
                del content[key]
            yield (
                f"{sum(own)} frames of {path.name} have another {' and '.join(common)} than the "
                "file; theirs are used"
            )
    for key in _FOCAL:
        for index, frame in enumerate(content["frames"]):
            if key not in content and key not in frame:
                raise ValueError(
                    f"A camera needs {', '.join(_FOCAL)}, got none as {key} in {path} for frame "
                    f"{index} ({frame['file_path']}); add it, or name another dataparser at the "
                    "end of the command, such as blender-data."
                )


def _find_sizes(path: Path, content: dict[str, Any]) -> Iterator[str]:
    """Sizes of pictures from their files, where they are missing or swapped."""
    frames = content["frames"]
    places = [path.parent / frame["file_path"] for frame in frames]
    if any(key not in content and any(key not in f for f in frames) for key in _SIZE):
        if not all(place.is_file() for place in places):
            return  # nerfstudio says that they are missing.
        for frame, place in zip(frames, places, strict=True):
            frame["h"], frame["w"] = _size_of(place, {**content, **frame})
        for key in _SIZE:
            content.pop(key, None)
        yield f"w and h, which {path.name} lacks, taken from the pictures"
    elif all(_is_swapped({**content, **f}, p) for f, p in zip(frames, places, strict=True)):
        for holder in (content, *frames):
            swapped = {
                other: holder[key]
                for key, other in zip(_SIZE, _SIZE[::-1], strict=True)
                if key in holder
            }
            for key in _SIZE:
                holder.pop(key, None)
            holder |= swapped
        yield f"w and h, which are swapped in {path.name}, put right"


def _size_of(picture: Path, lens: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a picture as the camera has it: upright, or as it is stored."""
    upright, stored = (image_size(picture, upright=upright) for upright in (True, False))
    if upright == stored:
        return stored
    for size in (stored, upright):
        if _is_centred(lens, size):
            return size
    raise ValueError(
        f"Cameras of pictures with an EXIF orientation need w and h, got none for {picture}, which "
        f"may be {upright[1]} x {upright[0]} or {stored[1]} x {stored[0]}; add them."
    )


def _is_centred(lens: Mapping[str, Any], size: tuple[int, int]) -> bool:
    off = abs(lens["cx"] - size[1] / 2) + abs(lens["cy"] - size[0] / 2)
    return off < _CENTRED * sum(size)


def _is_swapped(lens: Mapping[str, Any], picture: Path) -> bool:
    """Whether width and height, but not the principal point, belong to a picture's other edges."""
    if not picture.is_file():
        return False
    height, width = image_size(picture, upright=False)
    if (lens["w"], lens["h"]) != (height, width) or height == width:
        return False
    if image_size(picture) != (height, width):
        return False  # The camera may belong to the picture turned upright.
    return _is_centred(lens, (height, width))


def _find_splits(path: Path, content: dict[str, Any]) -> Iterator[str]:
    """Complete the lists of the splits; nerfstudio wants all three."""
    lists = {split: content.get(f"{split}_filenames") for split in SPLITS}
    if not any(names is not None for names in lists.values()):
        return
    known = {Path(frame["file_path"]) for frame in content["frames"]}
    for split, names in lists.items():
        unknown = [name for name in names or () if Path(name) not in known]
        if unknown:
            raise ValueError(
                f"{split}_filenames must name frames, got {unknown[0]} in {path}; take it out."
            )
    if lists["train"] is None:
        held_out = {Path(name) for name in (*(lists["val"] or ()), *(lists["test"] or ()))}
        content["train_filenames"] = [
            frame["file_path"]
            for frame in content["frames"]
            if Path(frame["file_path"]) not in held_out
        ]
        yield f"train_filenames, which {path.name} lacks: all that are in no other list"
    for split, other in (("val", "test"), ("test", "val")):
        if lists[split] is None:
            content[f"{split}_filenames"] = lists[other] or []
            instead = "none" if lists[other] is None else f"those of {other}"
            yield f"{split}_filenames, which {path.name} lacks: {instead}"
