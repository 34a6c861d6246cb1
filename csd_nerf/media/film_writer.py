"""Writes films, with the sound of another film, by PyAV.

Colours are encoded and tagged as BT.709. PyAV is imported late.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from csd_nerf.media.film_pixels import scaler_flags
from csd_nerf.media.films import opened_film, sound_track

if TYPE_CHECKING:
    from av import AudioStream, VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet


@dataclass(frozen=True)
class _Format:
    """How films are encoded in one container format."""

    video: str
    """Video encoder."""
    options: dict[str, str]
    """Options of the video encoder."""
    audio: str
    """Encoder for sound that is not copied."""
    copied: tuple[str, ...]
    """Codecs whose sound is copied without encoding. (Muxers accept further ones, but players may
    not play them.)"""
    tick: Fraction = Fraction(1, 90_000)
    """Seconds of which the times of frames are multiples, if the rate varies."""
    holds_aspect: bool = True
    """Whether the pixels' aspect can be written."""


# Reproducible files: an encoder's output depends on its number of threads, and with x264's fast
# arithmetic (in the macroblock tree) it differs from run to run.
_H264 = (
    "libx264",
    {"crf": "16", "threads": "1", "x264-params": "cpu-independent=1"},
    "aac",
)
_VP9 = ("libvpx-vp9", {"crf": "18", "b": "0", "threads": "1", "cpu-used": "4"}, "libopus")
_COMMON = ("aac", "mp3", "ac3", "eac3", "alac")
_FORMATS = {
    ".mp4": _Format(*_H264, copied=(*_COMMON, "opus", "flac")),
    ".mov": _Format(*_H264, copied=(*_COMMON, "pcm_s16le", "pcm_s24le")),
    ".mkv": _Format(
        *_H264,
        copied=(*_COMMON, "opus", "flac", "vorbis", "pcm_s16le", "pcm_s24le"),
        tick=Fraction(1, 1000),
    ),
    # VP9 has no pixel aspect, and PyAV writes the container's for no stream.
    ".webm": _Format(*_VP9, copied=("opus", "vorbis"), tick=Fraction(1, 1000), holds_aspect=False),
}

FILM_SUFFIXES = tuple(_FORMATS)
"""Suffixes of the films that can be written."""

_BT709 = 1
"""AVCOL_SPC_BT709."""
_LIMITED_RANGE = 1
"""AVCOL_RANGE_MPEG."""
_ALIGNED = 64
"""Rows of odd length are padded to a multiple of this number of pixels for the conversion."""
_OPUS_RATE = 48000
"""The highest sample rate of Opus in Hz; it has only a few."""


@contextmanager
def film_writer(
    path: Path,
    *,
    size: tuple[int, int],
    fps: Fraction,
    times: Sequence[Fraction] | None = None,
    pixel_aspect: Fraction | None = None,
    sound_from: Path | None = None,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> Iterator[Callable[[UInt8[Tensor, "H W 3"]], None]]:
    """Yield a function that appends a frame to a new film.

    The codec is H.264, or VP9 in WebM, which doesn't allow H.264. Chroma is subsampled (4:2:0),
    which all players show, unless the height or width is odd: then it is 4:4:4.

    Args:
        path: File to write; ends in one of `FILM_SUFFIXES`.
        size: Height and width of the frames in pixels.
        fps: Frames per second, in the mean if there are times.
        times: Seconds, ascending from 0, at which each frame begins and, as one more, the last
            ends; None if the rate is constant.
        pixel_aspect: Width of a pixel divided by its height; None if it is square.
        sound_from: A film whose first sound track is copied, or encoded anew if the format can't
            hold it. Sound and pictures stay synchronous.
        note: Called with each notice for the user.
    """
    import av
    from av.codec.context import Flags

    kind = _FORMATS[path.suffix.lower()]
    odd = size[0] % 2 == 1 or size[1] % 2 == 1
    if odd:
        note("sides of odd length need colours at full resolution, which some players can't show")
    if pixel_aspect is not None and not kind.holds_aspect:
        note(
            f"{path.suffix} is written with square pixels, instead of {pixel_aspect} times as wide "
            "as high; .mp4, .mov and .mkv keep the shape"
        )
    tick, begins = 1 / fps, itertools.count()
    if times is not None:
        tick, begins = kind.tick, _in_ticks(times, kind.tick)
    shown = itertools.pairwise(begins)
    # Bit-exact: the file holds no random numbers and no library versions. With its protocol, a name
    # may have colons.
    with av.open(f"file:{path}", "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(kind.video, rate=fps, options=kind.options)
        stream.height, stream.width = size
        layout = stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        stream.codec_context.time_base = tick
        # So that the last frame lasts as long as it is to.
        stream.codec_context.flags |= Flags.frame_duration
        if pixel_aspect is not None and kind.holds_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        stream.codec_context.colorspace = _BT709
        stream.codec_context.color_range = _LIMITED_RANGE
        with _sound(container, kind, sound_from, note) as sound:

            def write(frame: UInt8[Tensor, "H W 3"]) -> None:
                begin, end = next(shown)
                sound.mux_until(begin * tick)
                picture = _picture(frame, layout)
                picture.pts, picture.time_base, picture.duration = begin, tick, end - begin
                container.mux(stream.encode(picture))

            yield write
            container.mux(stream.encode())
            sound.mux_until(None)


def _in_ticks(times: Sequence[Fraction], tick: Fraction) -> Iterator[int]:
    """Times in ticks, rounded; every frame lasts one at least."""
    last = -1
    for time in times:
        last = max(round(time / tick), last + 1)
        yield last


def _picture(frame: UInt8[Tensor, "H W 3"], layout: str) -> VideoFrame:
    from av import VideoFrame
    from av.video.reformatter import ColorRange, Colorspace

    def converted(pixels: UInt8[np.ndarray, "h w 3"]) -> VideoFrame:
        return VideoFrame.from_ndarray(pixels, "rgb24").reformat(
            format=layout,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=scaler_flags(),
        )

    pixels = frame.cpu().contiguous().numpy()
    width = pixels.shape[1]
    if width % 2 == 0:
        return converted(pixels)
    # FFmpeg's scaler reads beyond the end of odd rows, so that equal frames could differ.
    padded = np.pad(pixels, ((0, 0), (0, -width % _ALIGNED), (0, 0)), mode="edge")
    planes: Any = converted(padded).to_ndarray()[:, :, :width]
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(planes), layout)
    picture.colorspace, picture.color_range = Colorspace.ITU709, ColorRange.MPEG
    return picture


class _Sound:
    """Muxes the packets of a sound track between the frames of a film."""

    def __init__(
        self, target: OutputContainer, packets: Iterator[Packet], note: Callable[[str], None]
    ) -> None:
        self._target = target
        self._packets = packets
        self._note = note
        self._next = self._read()

    def mux_until(self, seconds: Fraction | None) -> None:
        """Mux the packets that begin up to this time in seconds; None means all that are left."""
        while (packet := self._next) is not None:
            if seconds is not None and (packet.dts or 0) * packet.time_base > seconds:
                return
            self._target.mux(packet)
            self._next = self._read()

    def _read(self) -> Packet | None:
        import av

        try:
            return next(self._packets, None)
        except av.FFmpegError as error:
            self._note(f"the sound is damaged and ends early ({error.strerror})")
            return None


@contextmanager
def _sound(
    target: OutputContainer, kind: _Format, source: Path | None, note: Callable[[str], None]
) -> Iterator[_Sound]:
    if source is None:
        yield _Sound(target, iter(()), note)
        return
    with opened_film(source) as (container, pictures):
        track = sound_track(container)
        begin = (pictures.start_time or 0) * (pictures.time_base or Fraction(0))
        packets = iter(()) if track is None else _packets(target, kind, container, track, begin)
        yield _Sound(target, packets, note)


def _packets(
    target: OutputContainer,
    kind: _Format,
    container: InputContainer,
    track: AudioStream,
    begin: Fraction,
) -> Iterator[Packet]:
    """Packets of the track for the new film, shifted to be `begin` seconds earlier."""
    if track.codec_context.codec.canonical_name in kind.copied:
        return _copied(container, track, target.add_stream_from_template(track), begin)
    rate = _OPUS_RATE if kind.audio == "libopus" else track.rate
    layout = "stereo" if track.channels > 1 else "mono"
    encoded: Any = target.add_stream(kind.audio, rate=rate, layout=layout)
    return _encoded_anew(container, track, encoded, begin)


def _copied(
    container: InputContainer, track: AudioStream, copy: AudioStream, begin: Fraction
) -> Iterator[Packet]:
    for packet in container.demux(track):
        # The demuxer ends with an empty packet.
        if packet.dts is None or packet.pts is None:
            continue
        shift = round(begin / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = copy
        yield packet


def _encoded_anew(
    container: InputContainer, track: AudioStream, encoded: AudioStream, begin: Fraction
) -> Iterator[Packet]:
    for frame in container.decode(track):
        if frame.pts is not None and frame.time_base:
            frame.pts -= round(begin / frame.time_base)
        yield from encoded.encode(frame)
    yield from encoded.encode(None)
