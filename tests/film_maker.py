"""Small films made by PyAV alone, for tests that read and edit films."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

TICK = Fraction(1, 90_000)
"""Seconds of which `times` are multiples."""
RATE = 48000
TONE_HZ = 440


def grey_frames(count: int, size: tuple[int, int] = (32, 48), step: int = 9) -> np.ndarray:
    """Flat frames, each `step` brighter than the one before it."""
    greys = np.arange(count) * step
    return np.broadcast_to(greys[:, None, None, None], (count, *size, 3)).astype(np.uint8)


def write_film(
    path: Path,
    frames: np.ndarray,
    *,
    fps: Fraction | int = 24,
    audio: str | None = None,
    rotation: int = 0,
    matrix: int | None = None,
    options: dict[str, str] | None = None,
    codec: str = "libx264",
    layout: str = "yuv420p",
    aspect: Fraction | None = None,
    times: Sequence[float] | None = None,
) -> Path:
    """Encode frames of RGB or RGBA, by H.264 if no other codec is named, and a tone as long.

    `matrix` is 1 for BT.709; None encodes by BT.601 and says nothing. `times` are the seconds at
    which frames begin and, as one more, the last ends.
    """
    given = "rgba" if frames.shape[-1] == 4 else "rgb24"
    with av.open(f"file:{path}", "w", options=options or {}) as container:
        quality = {"crf": "4"} if codec == "libx264" else {}
        picture: Any = container.add_stream(codec, rate=fps, options=quality)
        picture.height, picture.width = frames.shape[1:3]
        picture.pix_fmt = layout
        picture.set_display_rotation(rotation)
        if aspect is not None:
            picture.codec_context.sample_aspect_ratio = aspect
        if times is not None:
            picture.codec_context.time_base = TICK
            picture.codec_context.flags |= Flags.frame_duration
        if matrix is not None:
            picture.codec_context.colorspace = matrix
        sound: Any = container.add_stream(audio, rate=RATE, layout="mono") if audio else None
        for place, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=given)
            if "yuv" in layout:
                frame = frame.reformat(format=layout, dst_colorspace=matrix or 5)
            else:
                frame = frame.reformat(format=layout)
            if times is not None:
                begin, end = (round(time / TICK) for time in times[place : place + 2])
                frame.pts, frame.time_base, frame.duration = begin, TICK, end - begin
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        if sound is not None:
            seconds = len(frames) / Fraction(fps) if times is None else times[-1]
            for frame in _tone(float(seconds)):
                container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def _tone(seconds: float):
    time = np.arange(round(seconds * RATE)) / RATE
    wave = (0.3 * np.sin(2 * np.pi * TONE_HZ * time)).astype(np.float32)
    for start in range(0, len(wave), 960):
        part = wave[None, start : start + 960]
        frame = av.AudioFrame.from_ndarray(part, format="flt", layout="mono")
        frame.sample_rate, frame.pts = RATE, start
        frame.time_base = Fraction(1, RATE)
        yield frame


def decode_film(path: Path) -> np.ndarray:
    """All frames as PyAV gives them."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decode_sound(path: Path) -> tuple[str, np.ndarray]:
    """The codec and the first channel of the sound, between -1 and 1."""
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
        parts = [
            part.to_ndarray()[0]
            for frame in container.decode(track)
            for part in resampler.resample(frame)
        ]
        return track.codec_context.codec.canonical_name, np.concatenate(parts)
