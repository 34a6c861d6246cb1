"""Reads and writes frames one at a time, in a video file or a folder of pictures."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from csd_nerf.media.files import folder_written_whole, written_whole
from csd_nerf.media.film_writer import FILM_SUFFIXES, film_writer
from csd_nerf.media.films import FRAME_RATE, inspect_film, read_film
from csd_nerf.media.images import image_size, read_image, write_image

Frame = UInt8[Tensor, "H W 3"]

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of the files in a folder that are frames."""

_WRITTEN = "[0-9]" * 5 + ".png"
"""Glob pattern of the frames that we write into folders."""


@dataclass(frozen=True)
class FrameSource:
    """Frames of one size; every iteration reads them anew, one at a time."""

    size: tuple[int, int]
    """Height and width in pixels."""
    count: int
    """Number of frames."""
    read: Callable[[], Iterator[Frame]]
    """Returns a new iterator over the frames."""
    fps: Fraction | None = None
    """Frames per second; lower than the film's where only some of its frames are read, so that the
    duration stays. None if unknown."""
    path: Path | None = None
    """The video file or folder; None for frames in memory."""
    sound: Path | None = None
    """The film that holds the sound; None if there is none."""
    times: tuple[Fraction, ...] | None = None
    """Seconds at which each frame begins and, as one more, the last ends, if the rate varies."""
    pixel_aspect: Fraction | None = None
    """Width of a pixel divided by its height; None if it is square."""
    notices: tuple[str, ...] = ()
    """Notices for the user, such as that pictures were converted."""
    names: tuple[str, ...] = ()
    """Names of the frames: those of a folder's files, or in a film their numbers from 0, with five
    digits, as `frame_writer` names them. Empty for frames in memory."""

    def __iter__(self) -> Iterator[Frame]:
        return self.read()


def open_frames(path: Path, *, frames: str = "all") -> FrameSource:
    """Open a video file or a folder of pictures.

    Args:
        path: The video, or a folder whose pictures are taken in natural order (2 before 10).
        frames: `all`, or a number of evenly spaced frames, with the first and the last. A video
            keeps its duration, so that the sound fits: its frame rate is lowered, or, if that
            varies, each frame lasts until the next one that is taken.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If `frames` is neither `all` nor a positive number, the input is damaged or
            has no frames, or the frames differ in size.
    """
    wanted = _wanted(frames)
    if path.is_dir():
        return _open_folder(path, wanted)
    if not path.exists():
        raise FileNotFoundError(
            f"The input must be a video file or a folder of pictures, got {path}, which does not "
            "exist."
        )
    film = inspect_film(path)
    taken = _chosen(film.count, wanted)
    times = film.times and (*(film.times[index] for index in taken), film.times[-1])
    return FrameSource(
        film.size,
        len(taken),
        lambda: read_film(path, taken),
        # Containers store the rate as a fraction of 32-bit integers.
        fps=(film.fps * len(taken) / film.count).limit_denominator(100_000),
        path=path,
        sound=path if film.has_sound else None,
        times=times,
        pixel_aspect=film.pixel_aspect,
        notices=(*film.notices, *_notices(film.count, wanted)),
        names=tuple(f"{index:05}" for index in taken),
    )


def _wanted(frames: str) -> int | None:
    if frames == "all":
        return None
    if not (frames.isascii() and frames.isdigit() and int(frames) > 0):
        raise ValueError(f"--frames needs all or a number from 1 upwards, got {frames!r}.")
    return int(frames)


def _chosen(total: int, wanted: int | None) -> list[int]:
    """Indices of the frames to read, ascending."""
    if wanted is None or wanted >= total:
        return list(range(total))
    last = max(1, wanted - 1)
    # The nearest integers to i (total - 1) / (wanted - 1), halves rounded up.
    return [(2 * i * (total - 1) + last) // (2 * last) for i in range(wanted)]


def _notices(total: int, wanted: int | None) -> tuple[str, ...]:
    if wanted is None or wanted <= total:
        return ()
    return (f"there are {total} frames, fewer than --frames {wanted}: all are taken",)


def _open_folder(folder: Path, wanted: int | None) -> FrameSource:
    pictures = (path for path in folder.iterdir() if is_picture(path))
    paths = sorted(pictures, key=lambda path: natural_order(path.name))
    if not paths:
        raise ValueError(
            f"A folder of frames needs pictures ({', '.join(FRAME_SUFFIXES)}), got {folder} "
            "with none."
        )
    first, notices = read_image(paths[0])
    size = (first.shape[0], first.shape[1])
    for path in paths:
        if (other := image_size(path)) != size:
            raise ValueError(
                f"Frames need one size, got {paths[0]} with {size[1]} x {size[0]} and {path} with "
                f"{other[1]} x {other[0]}; crop or resize them."
            )
    taken = [paths[i] for i in _chosen(len(paths), wanted)]
    return FrameSource(
        size,
        len(taken),
        lambda: (read_image(path)[0] for path in taken),
        path=folder,
        notices=(*notices, *_notices(len(paths), wanted)),
        names=tuple(path.name for path in taken),
    )


def find_pictures(inputs: Iterable[Path]) -> list[Path]:
    """Files as they are, and the pictures in folders, in natural order (2 before 10).

    Raises:
        ValueError: If a folder has none.
    """
    found: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [one for one in path.iterdir() if is_picture(one)]
        if not inside:
            raise ValueError(
                f"A folder of pictures needs some ({', '.join(FRAME_SUFFIXES)}), got {path} with "
                "none."
            )
        found += sorted(inside, key=lambda one: natural_order(one.name))
    return found


def is_picture(path: Path) -> bool:
    """Whether a file of a folder is one of its frames."""
    hidden = path.name.startswith(".")
    return not hidden and path.suffix.lower() in FRAME_SUFFIXES and path.is_file()


def natural_order(name: str) -> list[str | int]:
    """Sort key for names with numbers: 2 comes before 10."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def check_frames_output(output: Path, *, size: tuple[int, int] = (64, 64)) -> None:
    """Check that frames can be written to this path; for a video, by writing one elsewhere.

    Args:
        output: A file or folder, which needn't exist and is left alone.
        size: Height and width of the frames in pixels.

    Raises:
        ValueError: If it is neither a folder (no suffix) nor a video with one of `FILM_SUFFIXES`,
            or FFmpeg can't write a video of this name or size.
    """
    try:
        _check_kind(output)
    except OSError as error:
        raise ValueError(
            f"The output needs a name that a file can have, got {output} "
            f"({error.strerror or error}); name another --output."
        ) from None
    if not _is_film(output):
        return
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            frame_writer(Path(folder) / output.name, size=size) as write,
        ):
            write(torch.zeros(*size, 3, dtype=torch.uint8))
    # PyAV's own errors are no ValueErrors or OSErrors, unless there is one of the same meaning.
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        raise ValueError(
            f"The output must be a video that FFmpeg can write, got {output} with {size[1]} x "
            f"{size[0]} pixels ({error}); name another --output."
        ) from None


def _check_kind(output: Path) -> None:
    folder = output.is_dir() or not (output.suffix or output.exists())
    if not (folder or _is_film(output)):
        raise ValueError(
            f"The output must end in {', '.join(FILM_SUFFIXES)}, or be a folder, without a "
            f"suffix, for pictures, got {output}; name another --output."
        )


def _is_film(output: Path) -> bool:
    return output.suffix.lower() in FILM_SUFFIXES and not output.is_dir()


@contextmanager
def frame_writer(
    output: Path,
    *,
    size: tuple[int, int],
    fps: Fraction | None = None,
    times: Sequence[Fraction] | None = None,
    pixel_aspect: Fraction | None = None,
    sound_from: Path | None = None,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> Iterator[Callable[[Frame], None]]:
    """Yield a function that appends a frame to a video or to a folder of PNG pictures.

    The frames are written to a temporary path, which is renamed to `output` when the block ends;
    if the block fails, nothing is left. In a folder that exists already, frames of an earlier run
    are deleted and other files kept.

    Args:
        output: A path that `check_frames_output` accepts.
        size: Height and width of the frames in pixels.
        fps: Frames per second of a video; None means `FRAME_RATE`.
        times: As `FrameSource.times`, for as many frames as will be written; a folder has none.
        pixel_aspect: As `FrameSource.pixel_aspect`; a folder has none.
        sound_from: A film whose sound is copied to the video; a folder has no sound.
        note: Called with each notice for the user.
    """
    _check_kind(output)
    if not _is_film(output):
        if sound_from is not None:
            note("a folder of frames holds no sound: it is left out")
        if times is not None:
            note("a folder of frames holds no times: the film's varying rate is left out")
        if pixel_aspect is not None:
            note(
                f"pictures have square pixels: those of the film, {pixel_aspect} times as wide as "
                "high, are left as they are"
            )
        with _folder_writer(output) as write:
            yield write
        return
    with (
        written_whole(output) as temporary,
        film_writer(
            temporary,
            size=size,
            fps=fps or FRAME_RATE,
            times=times,
            pixel_aspect=pixel_aspect,
            sound_from=sound_from,
            note=note,
        ) as write,
    ):
        yield write


@contextmanager
def _folder_writer(output: Path) -> Iterator[Callable[[Frame], None]]:
    count = 0
    with folder_written_whole(output, replacing=_WRITTEN) as temporary:

        def write(frame: Frame) -> None:
            nonlocal count
            # Stronger compression can take longer than the edit.
            write_image(temporary / f"{count:05}.png", frame, compress_level=1)
            count += 1

        yield write
