"""Reads video files by PyAV: frames are decoded lazily and turned upright.

Frames are counted by decoding the film once, since the counts in containers are often wrong. This
also finds a damaged file before work is spent on it, and when each frame is shown.

PyAV is imported late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import UInt8
from torch import Tensor

from csd_nerf.media.file_lengths import least_length
from csd_nerf.media.film_pixels import is_transparent, upright_rgb
from csd_nerf.media.tone_mapping import NAMES

if TYPE_CHECKING:
    from av import AudioStream, CodecContext, VideoCodecContext, VideoFrame, VideoStream
    from av.container import InputContainer

FRAME_RATE = Fraction(24)
"""Frames per second of films whose rate is unknown."""

_DECODER_THREADS = 4
_FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "gif", "apng", "ivf"),
    *("rm", "dv", "nut", "yuv4mpegpipe", "h264", "hevc", "av1", "obu", "m4v", "mpegvideo", "vc1"),
)
"""FFmpeg's names of the formats that are read. Others are lists of further files, devices, single
pictures or text."""
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these codecs leave the transparency out."""


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
    times: tuple[Fraction, ...] | None = None
    """If the rate varies: the seconds from the first frame on at which each frame begins, and, as
    one more, at which the last ends. None if the rate is constant, or no times are known."""
    pixel_aspect: Fraction | None = None
    """Width of a pixel divided by its height, after rotation; None if it is square."""
    notices: tuple[str, ...] = ()
    """Notices for the user of what is converted."""


def inspect_film(path: Path) -> Film:
    """Decode a film once to learn its size and its number of frames.

    Raises:
        ValueError: If the file is not a film or damaged, has no frame, or its frames differ in
            size.
    """
    size = None
    count = 0
    lying = transparent = False
    clock = _Clock()
    transfers = set()
    for count, frame in enumerate(_decoded(path), start=1):
        clock.add(frame)
        transfers.add(frame.color_trc)
        transparent = transparent or is_transparent(frame)
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
        times = clock.times(fps)
        aspect = stream.sample_aspect_ratio or 1
        notices = [
            f"high dynamic range ({NAMES[kind]}) tone-mapped to the standard range"
            for kind in sorted(transfers & NAMES.keys())
        ]
        notices += ["transparent parts put over white"] if transparent else []
        return Film(
            count,
            size,
            fps if times is None else count / times[-1],
            sound_track(container) is not None,
            times,
            None if aspect == 1 else 1 / aspect if lying else aspect,
            tuple(notices),
        )


class _Clock:
    """When frames are shown."""

    def __init__(self) -> None:
        self._begins: list[int | None] = []
        """In ticks."""
        self._last = 0
        """How many ticks the last frame lasts; 0 if unknown."""
        self._tick: Fraction | None = None

    def add(self, frame: VideoFrame) -> None:
        self._begins.append(frame.pts)
        self._last, self._tick = frame.duration or 0, frame.time_base

    def times(self, fps: Fraction) -> tuple[Fraction, ...] | None:
        """`Film.times`; the rate is constant if no frame is half a frame off its place at it."""
        begins = [begin for begin in self._begins if begin is not None]
        ascending = all(one < other for one, other in pairwise(begins))
        if self._tick is None or len(begins) < len(self._begins) or not ascending:
            return None
        seconds = [(begin - begins[0]) * self._tick for begin in begins]
        seconds.append(seconds[-1] + (self._last * self._tick or 1 / fps))
        off = [abs(at * fps - place) for place, at in enumerate(seconds)]
        return tuple(seconds) if max(off[:-1]) > Fraction(1, 2) or off[-1] > 1 else None


def read_film(path: Path, indices: Iterable[int]) -> Iterator[UInt8[Tensor, "H W 3"]]:
    """Read the frames with these indices, which must ascend, one at a time.

    Raises:
        ValueError: If the film is damaged before the last of them.
    """
    wanted = iter(indices)
    index = next(wanted, None)
    for number, frame in enumerate(_decoded(path)):
        if number == index:
            yield torch.from_numpy(upright_rgb(frame))
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

    if not path.is_file():
        raise ValueError(f"The input must be a video file, got {path}, which is no regular file.")
    try:
        # With its protocol, a name may have colons.
        container = av.open(
            f"file:{path}",
            options={"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS)},
        )
    except av.FFmpegError as error:
        if isinstance(error, (MemoryError, PermissionError)):
            raise
        raise ValueError(
            f"The input must be a video that FFmpeg can read, such as MP4, MOV, MKV, WebM or AVI, "
            f"or a folder of pictures, got {path}, which is none or is damaged at its start; fetch "
            "it again or convert it (`csd-nerf panorama` edits a single picture)."
        ) from None
    with container:
        stream = _moving_pictures(container)
        if stream is None:
            raise ValueError(
                f"The input must be a video or a folder of pictures, got {path}, which has no "
                "moving pictures."
            )
        if cast("CodecContext | None", stream.codec_context) is None:
            raise ValueError(
                f"The video's codec must be one that FFmpeg knows, got {path} with another or "
                "damaged; fetch it again or convert it."
            )
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _DECODER_THREADS
        yield container, stream


def sound_track(container: InputContainer) -> AudioStream | None:
    """The first sound track with a codec that FFmpeg knows; None if there is none."""
    return next((track for track in container.streams.audio if track.codec_context), None)


def _moving_pictures(container: InputContainer) -> VideoStream | None:
    from av.stream import Disposition

    films = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next(films, None)


def _decoded(path: Path) -> Iterator[VideoFrame]:
    import av

    packets = frames = 0
    partial = False
    with opened_film(path) as (container, stream):
        decoder = _decoder(stream)
        try:
            for packet in container.demux():
                if packet.size:
                    partial = packet.is_corrupt
                if packet.stream is not stream:
                    continue
                packets += packet.size > 0
                for frame in decoder.decode(packet):
                    frames += 1
                    yield frame
            # MP4 and its relatives have an index of packets; decoders may skip a truncated packet.
            missing = container.format.name.startswith("mov,") and packets < stream.frames
            cut = missing or partial or path.stat().st_size < least_length(path)
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            cut = True
    if cut:
        raise ValueError(
            f"The video must be whole, got {path}, which breaks off or is damaged after frame "
            f"{frames}; fetch it again, or convert what is left of it."
        )


def _decoder(stream: VideoStream) -> VideoCodecContext:
    from av import VideoCodecContext

    name = _ALPHA_DECODERS.get(stream.codec_context.codec.canonical_name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return stream.codec_context
    decoder = cast("VideoCodecContext", VideoCodecContext.create(name, "r"))
    decoder.extradata = stream.codec_context.extradata
    return decoder
