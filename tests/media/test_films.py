"""What films say of themselves: geometry, light, time, transparency, and whether they are whole."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from film_maker import decode_film, decode_sound, grey_frames, write_film

from csd_nerf.media.file_lengths import least_length
from csd_nerf.media.film_writer import FILM_SUFFIXES
from csd_nerf.media.frames import check_frames_output, frame_writer, open_frames

TIMES = [0, 0.04, 0.5, 0.54, 2, 2.02, 2.06, 3]
"""Of seven frames; the last lasts long."""


def rewritten(source, path: Path) -> tuple[Path, list[str]]:
    """What a run does without an edit; returns the notices, too."""
    notes = [*source.notices]
    with frame_writer(
        path,
        size=source.size,
        fps=source.fps,
        times=source.times,
        pixel_aspect=source.pixel_aspect,
        sound_from=source.sound,
        note=notes.append,
    ) as write:
        for frame in source:
            write(frame)
    return path, notes


def noise(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 48, channels), np.uint8)


# Time


def shown(path: Path) -> list[float]:
    """When frames begin and the last ends, in seconds from the first."""
    with av.open(str(path)) as container:
        frames = [(f.time, f.duration * f.time_base) for f in container.decode(video=0)]
    begins = [time - frames[0][0] for time, _ in frames]
    return [*begins, begins[-1] + float(frames[-1][1])]


@pytest.mark.parametrize("to", FILM_SUFFIXES)
@pytest.mark.parametrize("of", [".mp4", ".mkv"])
def test_frames_of_a_varying_rate_keep_their_times(tmp_path, of, to):
    film = write_film(tmp_path / f"in{of}", grey_frames(7), times=TIMES, audio="aac")
    source = open_frames(film)
    assert [float(time) for time in source.times] == pytest.approx(TIMES, abs=0.001)
    assert float(source.fps) == pytest.approx(7 / 3, rel=1e-3)
    path, notes = rewritten(source, tmp_path / f"out{to}")
    assert notes == []
    assert shown(path) == pytest.approx(TIMES, abs=0.001)
    assert [round(frame.mean() / 9) for frame in decode_film(path)] == [*range(7)]
    assert len(decode_sound(path)[1]) == pytest.approx(3 * 48000, rel=0.02)


def test_of_a_varying_rate_the_frames_that_are_taken_last_until_the_next_one(tmp_path):
    film = write_film(tmp_path / "in.mp4", grey_frames(7), times=TIMES)
    source = open_frames(film, frames="3")
    assert [float(time) for time in source.times] == pytest.approx([0, 0.54, 2.06, 3], abs=1e-4)
    path, _ = rewritten(source, tmp_path / "out.mp4")
    assert shown(path) == pytest.approx([0, 0.54, 2.06, 3], abs=1e-4)


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv", "in.ts", "in.avi"])
@pytest.mark.parametrize("fps", [24, Fraction(30000, 1001), Fraction(25, 2)])
def test_a_constant_rate_needs_no_times(tmp_path, name, fps):
    film = write_film(tmp_path / name, grey_frames(20), fps=fps)
    assert open_frames(film).times is None


def test_frames_closer_than_a_tick_are_moved_apart(tmp_path):
    times = [Fraction(0), Fraction(1, 5000), Fraction(2, 5000), Fraction(1)]
    frames = torch.from_numpy(grey_frames(3).copy())
    for suffix in (".mkv", ".webm"):
        with frame_writer(tmp_path / f"a{suffix}", size=(32, 48), times=times) as write:
            for frame in frames:
                write(frame)
        assert shown(tmp_path / f"a{suffix}") == pytest.approx([0, 0.001, 0.002, 1], abs=1e-6)


def test_a_folder_can_hold_neither_times_nor_the_pixels_shape_and_it_is_told(tmp_path):
    film = write_film(tmp_path / "in.mp4", grey_frames(7), times=TIMES, aspect=Fraction(4, 3))
    _, notes = rewritten(open_frames(film), tmp_path / "folder")
    assert notes == [
        "a folder of frames holds no times: the film's varying rate is left out",
        "pictures have square pixels: those of the film, 4/3 times as wide as high, are left as "
        "they are",
    ]


# Geometry


@pytest.mark.parametrize("rotation", [0, 90, 180])
@pytest.mark.parametrize("to", [".mp4", ".mov", ".mkv"])
def test_the_shape_of_pixels_is_carried_over(tmp_path, to, rotation):
    aspect = Fraction(16, 11)
    film = write_film(tmp_path / "in.mp4", grey_frames(2), aspect=aspect, rotation=rotation)
    path, notes = rewritten(open_frames(film), tmp_path / f"out{to}")
    with av.open(str(path)) as container:
        kept = container.streams.video[0].sample_aspect_ratio
    assert kept == (1 / aspect if rotation == 90 else aspect)
    assert open_frames(path).pixel_aspect == kept
    assert notes == []


def test_webm_is_written_with_square_pixels_and_it_is_told(tmp_path):
    film = write_film(tmp_path / "in.mp4", grey_frames(2), aspect=Fraction(16, 11))
    path, notes = rewritten(open_frames(film), tmp_path / "out.webm")
    assert open_frames(path).pixel_aspect is None
    assert len(notes) == 1
    assert "written with square pixels, instead of 16/11 times" in notes[0]


# Transparency


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "png", "rgba"),
    ],
)
def test_transparent_parts_of_a_film_are_put_over_white_and_it_is_told(
    tmp_path, name, codec, layout
):
    pixels = np.zeros((3, 32, 48, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:, :, :16, 3], pixels[:, :, 16:32, 3] = 255, 51
    source = open_frames(write_film(tmp_path / name, pixels, codec=codec, layout=layout))
    assert source.notices == ("transparent parts put over white",)
    for frame in source:
        seen = frame[16, [8, 24, 40]].int()
        wanted = torch.tensor([[200, 0, 0], [244, 204, 204], [255, 255, 255]])
        assert (seen - wanted).abs().max() <= 4
    opaque = np.full_like(pixels, 255)
    film = write_film(tmp_path / f"opaque-{name}", opaque, codec=codec, layout=layout)
    assert open_frames(film).notices == ()


# Whether it is whole


def films(folder: Path) -> dict[str, Path]:
    """Films of noise, with sound, so that they can be cut anywhere."""
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    made = {
        "a.mp4": {"options": {"movflags": "faststart"}},
        "fragments.mp4": {"options": fragments},
        "a.mov": {"options": {"movflags": "faststart"}},
        "a.mkv": {},
        "a.avi": {"codec": "mpeg4", "audio": "mp3"},
        "a.ts": {},
        "mpeg2.ts": {"codec": "mpeg2video", "audio": "mp2"},
        "a.flv": {},
        "a.webm": {"codec": "libvpx-vp9", "audio": "libopus"},
    }
    return {
        name: write_film(folder / name, noise(16), **{"audio": "aac", **how})
        for name, how in made.items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return films(tmp_path_factory.mktemp("films"))


NAMES = [
    *("a.mp4", "fragments.mp4", "a.mov", "a.mkv", "a.avi", "a.ts", "mpeg2.ts", "a.flv", "a.webm"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_that_breaks_off_is_told(tmp_path, whole, name):
    assert open_frames(whole[name]).count == 16
    data = whole[name].read_bytes()
    for share in (0.5, 0.7, 0.9, 0.97):
        path = tmp_path / name
        length = int(share * len(data))
        # Between two packets of a transport stream nothing could be known.
        path.write_bytes(data[: length + (length % 188 == 0)])
        with pytest.raises(ValueError, match=r"must be whole, got .*breaks off") as caught:
            open_frames(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_film_that_was_recorded_live_names_no_length_and_is_taken(tmp_path, name):
    codec = {"a.webm": "libvpx-vp9"}.get(name, "libx264")
    film = write_film(tmp_path / name, noise(8), options={"live": "1"}, codec=codec)
    assert least_length(film) == 0
    assert open_frames(film).count == 8


@pytest.mark.parametrize("name", NAMES)
def test_what_is_appended_to_a_whole_film_does_not_matter(tmp_path, whole, name):
    data = whole[name].read_bytes()
    path = tmp_path / name
    packets = name.endswith(".ts")
    path.write_bytes(data + data[-188:] if packets else data + b"\xff\xf0junk" * 20)
    assert least_length(path) <= path.stat().st_size
    if not packets:
        assert least_length(path) == least_length(whole[name])


# What is no film


def playlist(path: Path) -> None:
    film = write_film(path.parent / "part.ts", grey_frames(4))
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film.name}\n#EXT-X-ENDLIST\n")


def concatenation(path: Path) -> None:
    film = write_film(path.parent / "part.ts", grey_frames(4))
    path.write_text(f"ffconcat version 1.0\nfile {film.name}\n")


def session(path: Path) -> None:
    path.write_text("v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n")


@pytest.mark.parametrize("make", [playlist, concatenation, session])
@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.sdp", "a.ffconcat"])
def test_a_list_of_other_files_is_no_film(tmp_path, make, name):
    make(tmp_path / name)
    with pytest.raises(ValueError, match="must be a video that FFmpeg can read, such as MP4"):
        open_frames(tmp_path / name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"got .*a\.mp4, which is no regular file"):
        open_frames(tmp_path / "a.mp4")


# Names


@pytest.mark.parametrize("name", ["a:b.mp4", "pipe:1.mkv", "out%03d.mp4", "-.webm", "ü ?.mov"])
def test_a_name_is_a_path_and_nothing_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    check_frames_output(path)
    assert not [*tmp_path.iterdir()]
    with frame_writer(path, size=(32, 48)) as write:
        for frame in torch.from_numpy(grey_frames(3).copy()):
            write(frame)
    assert [*tmp_path.iterdir()] == [tmp_path / name]
    assert open_frames(path).count == 3


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("a" * 300 + ".mp4", (64, 64), r"name that a file can have, got .*; name another"),
        ("a.mp4", (8, 20_000), r"FFmpeg can write, got .*a\.mp4 with 20000 x 8 pixels"),
    ],
)
def test_an_output_that_can_not_be_written_is_known_beforehand(tmp_path, name, size, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_frames_output(tmp_path / name, size=size)
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_codec_that_nobody_knows_ends_in_one_line(tmp_path, suffix):
    path = write_film(tmp_path / f"x{suffix}", grey_frames(3))
    content = path.read_bytes()
    assert content.count(b"avc1") >= 1
    path.write_bytes(content.replace(b"avc1", b"zzz9"))
    with pytest.raises(ValueError, match="The video's codec must be one that FFmpeg knows, got"):
        open_frames(path)
