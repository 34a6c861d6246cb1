"""Video files: the frames of a film, upright and lazily, by PyAV.

The frames are counted by decoding the film once, since the numbers in containers are often wrong.
So a damaged file is found before work is spent on it.

A film that doesn't name its colour matrix is read as BT.709 if it has 720 lines or more, and as
BT.601 if it has fewer, as players do.

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
"""Frames a second of what has no rate."""

_DECODER_THREADS = 4
_HD_LINES = 720
_UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED."""


@dataclass(frozen=True)
class Film:
    """What a video file holds."""

    count: int
    """Number of frames."""
    size: tuple[int, int]
    """Upright height and width."""
    fps: Fraction
    """Frames a second, on average."""
    has_sound: bool
    """Whether there is a sound track."""


def inspect_film(path: Path) -> Film:
    """Decode a film once to learn its size and its number of frames.

    Raises:
        ValueError: If it is no film, isn't whole, has no frame, or its frames differ in size.
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
    """The frames of these rising indices, one at a time.

    Raises:
        ValueError: If the film isn't whole up to the last of them.
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
    """A container and the stream of its moving pictures.

    Raises:
        ValueError: If there are no moving pictures.
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
    """The first sound track of a kind that FFmpeg knows."""
    return next((track for track in container.streams.audio if track.codec_context), None)


def _moving_pictures(container: InputContainer) -> VideoStream | None:
    from av.stream import Disposition

    # FFmpeg reads single pictures too, and text files as animations.
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
            # This family of formats has an index of its packets; decoders may pass over a cut one.
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
    """RGB pixels, turned by the frame's rotation."""
    from av.video.reformatter import Colorspace

    matrix = None
    if frame.colorspace == _UNSPECIFIED:
        matrix = Colorspace.ITU709 if frame.height >= _HD_LINES else Colorspace.ITU601
    rgb = frame.reformat(format="rgb24", src_colorspace=matrix, interpolation=scaler_flags())
    # The rotation is counter-clockwise, as NumPy's.
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)))


def scaler_flags() -> int:
    """How FFmpeg converts colours: there and back 2 dB nearer to the original than by default."""
    from av.video.reformatter import Interpolation

    return (
        Interpolation.BICUBIC
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.ACCURATE_RND
        | Interpolation.BITEXACT
    )
