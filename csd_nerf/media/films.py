"""Reads video files by PyAV: frames are decoded lazily and turned upright.

Frames are counted by decoding the film once, since the counts in containers are often wrong. This
also finds a damaged file before work is spent on it.

A film without a colour matrix in its metadata is read as BT.709 if it has 720 lines or more, else
as BT.601, as players do.

PyAV is imported late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

if TYPE_CHECKING:
    from av import AudioStream, VideoFrame, VideoStream
    from av.container import InputContainer

FRAME_RATE = Fraction(24)
"""Frames per second of films whose rate is unknown."""

_DECODER_THREADS = 4
_HD_LINES = 720
_UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED."""


@dataclass(frozen=True)
class Film:
    """Properties of a video file."""

    count: int
    """Number of frames."""
    size: tuple[int, int]
    """Height and width in pixels, after rotation."""
    fps: Fraction
    """Mean number of frames per second."""
    has_sound: bool
    """Whether there is a sound track."""


def inspect_film(path: Path) -> Film:
    """Decode a film once to learn its size and its number of frames.

    Raises:
        ValueError: If the file is not a film or damaged, has no frame, or its frames differ in
            size.
    """
    size = None
    count = 0
    for count, frame in enumerate(_decoded(path), start=1):
        lying = frame.rotation % 180 == 90
        upright = (frame.width, frame.height) if lying else (frame.height, frame.width)
        size = size or upright
        if upright != size:
            raise ValueError(
                f"Frames need one size, got {path} with {size[1]} x {size[0]} and, from frame "
                f"{count} on, {upright[1]} x {upright[0]}; cut it there."
            )
    if size is None:
        raise ValueError(f"A video needs at least one frame, got {path} with none.")
    with opened_film(path) as (container, stream):
        fps = stream.average_rate or stream.guessed_rate or FRAME_RATE
        return Film(count, size, fps, sound_track(container) is not None)


def read_film(path: Path, indices: Iterable[int]) -> Iterator[UInt8[Tensor, "H W 3"]]:
    """Read the frames with these indices, which must ascend, one at a time.

    Raises:
        ValueError: If the film is damaged before the last of them.
    """
    wanted = iter(indices)
    index = next(wanted, None)
    for number, frame in enumerate(_decoded(path)):
        if number == index:
            yield torch.from_numpy(_upright(frame))
            index = next(wanted, None)
        if index is None:
            return


@contextmanager
def opened_film(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a film; yields the container and its video stream.

    Raises:
        ValueError: If the file can't be read or has no video stream.
    """
    import av

    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        if isinstance(error, (MemoryError, PermissionError)):
            raise
        raise ValueError(
            f"The input must be a video that FFmpeg can read, got {path}, which is none or is "
            "damaged at its start; fetch it again or convert it."
        ) from None
    with container:
        stream = _moving_pictures(container)
        if stream is None:
            raise ValueError(
                f"The input must be a video or a folder of pictures, got {path}, which has no "
                "moving pictures; `csd-nerf panorama` edits a single picture."
            )
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _DECODER_THREADS
        yield container, stream


def sound_track(container: InputContainer) -> AudioStream | None:
    """The first sound track with a codec that FFmpeg knows; None if there is none."""
    return next((track for track in container.streams.audio if track.codec_context), None)


def _moving_pictures(container: InputContainer) -> VideoStream | None:
    from av.stream import Disposition

    # FFmpeg also opens single pictures, and text files as animations.
    if container.format.name.endswith("_pipe") or container.format.name in ("image2", "tty"):
        return None
    films = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next(films, None)


def _decoded(path: Path) -> Iterator[VideoFrame]:
    import av

    packets = frames = 0
    with opened_film(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                for frame in packet.decode():
                    frames += 1
                    yield frame
            # MP4 and its relatives have an index of packets; decoders may skip a truncated packet.
            cut = container.format.name.startswith("mov,") and packets < stream.frames
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            cut = True
    if cut:
        raise ValueError(
            f"The video must be whole, got {path}, which breaks off or is damaged after frame "
            f"{frames}; fetch it again, or convert what is left of it."
        )


def _upright(frame: VideoFrame) -> np.ndarray:
    """RGB pixels of a frame, turned by its rotation."""
    from av.video.reformatter import Colorspace

    matrix = None
    if frame.colorspace == _UNSPECIFIED:
        matrix = Colorspace.ITU709 if frame.height >= _HD_LINES else Colorspace.ITU601
    rgb = frame.reformat(format="rgb24", src_colorspace=matrix, interpolation=scaler_flags())
    # Like NumPy's rot90, PyAV counts the rotation counter-clockwise.
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)))


def scaler_flags() -> int:
    """FFmpeg's flags for converting colours; a round trip loses 2 dB less than by default."""
    from av.video.reformatter import Interpolation

    return (
        Interpolation.BICUBIC
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.ACCURATE_RND
        | Interpolation.BITEXACT
    )
