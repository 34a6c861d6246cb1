"""Writes the page of a user study, on which people rank methods blindly.

The page contains opaque ids instead of the methods' names, which are in the key beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from csd_nerf.media.files import check_writable, write_json, write_text

_MIME = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
"""MIME types of files that browsers show; other files are converted to MP4."""
_PICTURES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    # JPEG with further pictures, as phones write it.
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
}
"""MIME types of pictures by their format."""
_BROWSER_CODECS = {"h264", "vp8", "vp9", "av1"}
_PROMPT = "prompt.txt"
_SOURCE = "source"


@dataclass(frozen=True)
class Example:
    """An input with its instruction and one result of each method."""

    name: str
    instruction: str
    source: Path
    results: dict[str, Path]


def read_example(folder: Path) -> Example:
    """Read a folder with prompt.txt, source.* and one result per method.

    A result is a video, a picture or a folder of frames; its name without suffix is the method's.

    Raises:
        FileNotFoundError: If the folder, the prompt or the source is missing.
        ValueError: If there are fewer than two methods, two entries with the same name, or an entry
            that is a link to elsewhere, a pipe or a device.
    """
    prompt = folder / _PROMPT
    if not prompt.is_file():
        raise FileNotFoundError(f"An example needs its instruction in a file, got no {prompt}.")
    _check_files(folder)
    entries: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path == prompt:
            continue
        name = path.name if path.is_dir() else path.stem
        if name in entries:
            raise ValueError(f"Each method needs one result, got {entries[name]} and {path}.")
        entries[name] = path
    if _SOURCE not in entries:
        raise FileNotFoundError(
            f"An example needs its unedited input, got {folder} without a file or folder named "
            f"{_SOURCE}."
        )
    source = entries.pop(_SOURCE)
    if len(entries) < 2:
        raise ValueError(
            f"A ranking needs two methods or more, got {len(entries)} in {folder}; add results."
        )
    return Example(folder.name, _read_text(prompt), source, entries)


def _check_files(folder: Path) -> None:
    """Refuse what isn't in the folder itself, since a page is given away, and what may never end.

    Files beside frames that aren't pictures are not read, but are checked too.
    """
    home = folder.resolve()
    for path in sorted(folder.rglob("*")):
        target = path.resolve()
        if not target.is_relative_to(home):
            raise ValueError(
                f"An example's files must lie in its folder, got {path}, a link to {target}; put a "
                "copy in its place."
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(
                f"An example must hold files and folders only, got {path}, a pipe or a device; "
                "take it out."
            )


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(
            f"An instruction must be text in UTF-8, got {path}; save it as such."
        ) from None


def write_study(
    folders: Sequence[Path], output: Path, *, seed: int = 0, overwrite: bool = False
) -> Path:
    """Write the page of a study, and the key with the names of its methods.

    Args:
        folders: Folders with one example each; see `read_example`.
        output: The page, an .html file.
        seed: Seed of the opaque ids, so that the same inputs give the same page.
        overwrite: Replace an existing page and its key.

    Returns:
        Path of the key, which is that of the page with the suffix .key.json.

    Raises:
        ValueError: If the output doesn't end in .html, examples have different methods, or a file
            can't be shown.
        FileExistsError: If the page or its key exists, and `overwrite` isn't set.
    """
    if output.suffix.lower() != ".html":
        raise ValueError(f"The page needs a name that ends in .html, got {output}.")
    examples = [read_example(folder) for folder in folders]
    if not examples:
        raise ValueError("A study needs an example, got none; name folders or --summarize.")
    for folder, example in zip(folders, examples, strict=True):
        if example.results.keys() != examples[0].results.keys():
            raise ValueError(
                f"All examples need the same methods, got {', '.join(examples[0].results)} in "
                f"{folders[0]} and {', '.join(example.results)} in {folder}."
            )
    key = output.with_suffix(".key.json")
    for path in (output, key):
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"The page and its key must be new ones, got {path}, which exists; name another "
                "--output, or pass --overwrite, after which answers to the old page can't be read."
            )
    check_writable(output)
    numbers = random.Random(seed)
    shown, secret = [], []
    for example in examples:
        ids = {f"{numbers.getrandbits(48):012x}": name for name in example.results}
        # Sorted by id, so that the order in the file doesn't reveal the methods.
        results = {id: _data_uri(example.results[ids[id]]) for id in sorted(ids)}
        example_id = f"{numbers.getrandbits(48):012x}"
        shown.append(
            {
                "id": example_id,
                "instruction": example.instruction,
                "source": _data_uri(example.source),
                "results": results,
            }
        )
        secret.append({"id": example_id, "name": example.name, "results": ids})
    study = hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]
    payload = json.dumps({"study": study, "examples": shown}).replace("<", "\\u003c")
    template = Path(__file__).with_name("page.html").read_text("utf-8")
    write_json(key, {"study": study, "examples": secret})
    write_text(output, template.replace("__STUDY__", payload))
    return key


def _data_uri(path: Path) -> str:
    """A file's or folder's data URI; all of it is decoded, so that only media get into the page."""
    from csd_nerf.media.frames import frame_writer, open_frames

    mime = _MIME.get(path.suffix.lower())
    if path.is_file() and mime and mime.startswith("image/"):
        return _encoded(path, _picture_mime(path))
    frames = open_frames(path)
    if path.is_file() and mime and _plays(path):
        for _ in frames:
            pass
        return _encoded(path, mime)
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        with frame_writer(film, size=frames.size, fps=frames.fps) as write:
            for frame in frames:
                write(frame)
        return _encoded(film, _MIME[".mp4"])


def _picture_mime(path: Path) -> str:
    """The MIME type of a picture by its content, since its name may be wrong."""
    from PIL import Image

    from csd_nerf.media.images import read_image

    read_image(path)
    with Image.open(path) as picture:
        kind = picture.format
    if kind not in _PICTURES:
        raise ValueError(
            f"A picture that is named {path.suffix} must be PNG, JPEG or WebP, got {path}, which "
            f"is {kind}; convert it."
        )
    return _PICTURES[kind]


def _plays(path: Path) -> bool:
    from csd_nerf.media.films import opened_film

    with opened_film(path) as (_, stream):
        return stream.codec_context.codec.canonical_name in _BROWSER_CODECS


def _encoded(path: Path, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"
