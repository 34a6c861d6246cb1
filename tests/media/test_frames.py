from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from film_maker import RATE, TONE_HZ, decode_film, decode_sound, grey_frames, write_film
from PIL import Image

from csd_nerf.media.film_writer import FILM_SUFFIXES
from csd_nerf.media.frames import check_frames_output, frame_writer, open_frames


def grey(frame: torch.Tensor) -> float:
    return float(frame.float().mean())


def greys(frames) -> list[int]:
    """Which of `grey_frames` these are."""
    return [round(grey(frame) / 9) for frame in frames]


def pictures(folder: Path, count: int, size: tuple[int, int] = (6, 8)) -> Path:
    folder.mkdir()
    for number, pixels in enumerate(grey_frames(count, size)):
        Image.fromarray(pixels).save(folder / f"frame{number}.png")
    return folder


# Reading


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_all_frames_of_a_film_come_in_order(tmp_path, suffix):
    rate = Fraction(30000, 1001)
    film = write_film(tmp_path / f"film{suffix}", grey_frames(20), fps=rate)
    source = open_frames(film)
    assert (source.size, source.count, source.sound) == ((32, 48), 20, None)
    assert float(source.fps) == pytest.approx(float(rate), rel=1e-3)
    assert greys(source) == greys(source) == list(range(20))


@pytest.mark.parametrize(
    ("frames", "taken"),
    [("1", [0]), ("2", [0, 19]), ("5", [0, 5, 10, 14, 19]), ("20", list(range(20)))],
)
def test_fewer_frames_are_taken_evenly_and_last_as_long(tmp_path, frames, taken):
    film = write_film(tmp_path / "film.mp4", grey_frames(20), fps=24)
    source = open_frames(film, frames=frames)
    assert greys(source) == taken
    assert source.count == len(taken)
    assert source.count / source.fps == Fraction(20, 24)


def test_if_fewer_frames_exist_than_asked_for_all_are_taken_and_it_is_told(tmp_path):
    source = open_frames(pictures(tmp_path / "frames", 3), frames="24")
    assert source.count == 3
    assert source.notices == ("there are 3 frames, fewer than --frames 24: all are taken",)


@pytest.mark.parametrize("frames", ["0", "x", "-3", "1.5", "", "²"])
def test_a_number_of_frames_that_is_none_is_refused(tmp_path, frames):
    with pytest.raises(ValueError, match="--frames needs all or a number from 1 upwards, got"):
        open_frames(tmp_path, frames=frames)


def test_pictures_of_a_folder_come_in_natural_order_and_other_files_do_not_matter(tmp_path):
    folder = pictures(tmp_path / "frames", 12)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture")
    source = open_frames(folder)
    assert (source.size, source.count, source.fps) == ((6, 8), 12, None)
    assert greys(source) == list(range(12))


def test_pictures_are_read_when_their_turn_comes(tmp_path):
    folder = pictures(tmp_path / "frames", 3)
    frames = iter(open_frames(folder))
    next(frames)
    (folder / "frame1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"frame1\.png"):
        next(frames)


def test_a_picture_that_is_stored_on_its_side_has_its_upright_size(tmp_path):
    folder = pictures(tmp_path / "frames", 1, size=(6, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 8)).save(folder / "frame1.jpg", exif=exif)
    assert [tuple(frame.shape) for frame in open_frames(folder)] == [(6, 8, 3)] * 2


def test_frames_of_different_sizes_are_refused(tmp_path):
    folder = pictures(tmp_path / "frames", 2)
    Image.new("RGB", (5, 4)).save(folder / "other.png")
    with pytest.raises(ValueError, match=r"frame0\.png with 8 x 6 and .*other\.png with 5 x 4"):
        open_frames(folder)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_rotated_film_comes_upright(tmp_path, rotation):
    pixels = np.zeros((2, 32, 48, 3), np.uint8)
    pixels[:, :16, :16] = 250
    film = write_film(tmp_path / "film.mp4", pixels, rotation=rotation)
    source = open_frames(film)
    assert source.size == ((32, 48) if rotation == 180 else (48, 32))
    frame = next(iter(source)).float().mean(-1)
    bright = {
        90: frame[-16:, :16],
        180: frame[-16:, -16:],
        -90: frame[:16, -16:],
    }[rotation]
    assert bright.mean() > 230
    assert frame.sum() - bright.sum() < 0.1 * bright.sum()


@pytest.mark.parametrize(("size", "matrix"), [((64, 96), None), ((64, 96), 1), ((720, 96), 1)])
def test_colours_are_read_by_the_matrix_that_the_film_was_made_with(tmp_path, size, matrix):
    pixels = np.zeros((1, *size, 3), np.uint8)
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    for band, colour in enumerate(colours):
        pixels[:, :, 32 * band : 32 * band + 32] = colour
    film = write_film(tmp_path / "film.mp4", pixels, matrix=matrix)
    frame = next(iter(open_frames(film)))[size[0] // 2, 16::32].int()
    assert (frame - torch.tensor(colours)).abs().max() <= 3


def faststart(path: Path) -> Path:
    """A film with its index at the beginning."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (20, 32, 48, 3), np.uint8)
    return write_film(path, noise, options={"movflags": "faststart"})


def cut(path: Path) -> Path:
    whole = faststart(path).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    return path


def garbled(path: Path) -> Path:
    whole = bytearray(faststart(path).read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 2000] = bytes(2000)
    path.write_bytes(whole)
    return path


def without_index(path: Path) -> Path:
    whole = write_film(path, grey_frames(4)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=RATE, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = RATE
        container.mux(track.encode(silence))
        container.mux(track.encode())
    return path


def picture(path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(path, format="JPEG")
    return path


def written(content: bytes):
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (cut, "film.mp4", "must be whole, got .*damaged after frame"),
        (garbled, "film.mp4", "must be whole, got .*damaged after frame"),
        (without_index, "film.mp4", "a video that FFmpeg can read"),
        (written(b""), "film.mp4", "a video that FFmpeg can read"),
        (written(b"no film at all\n" * 99), "film.mp4", "a video that FFmpeg can read"),
        (written(b"no film at all\n" * 99), "film.txt", "video"),
        (sound_only, "film.mp4", "which has no moving pictures"),
        (picture, "film.jpg", "`csd-nerf panorama` edits a single picture"),
    ],
)
def test_what_is_no_whole_film_ends_in_one_line(tmp_path, capfd, make, name, message):
    path = make(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        open_frames(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_input_that_is_missing_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got .*nothing, which does not exist"):
        open_frames(tmp_path / "nothing")


def test_a_folder_without_frames_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"needs pictures .*with none"):
        open_frames(tmp_path)


# Writing


def moving(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Smooth colours that wander."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
    waves = [(torch.sin(6 * (x + t / count)) + 1) / 2 for t in range(count)]
    frames = [torch.stack([x, y, wave], -1) for wave in waves]
    return (255 * torch.stack(frames)).byte()


def write_all(path: Path, frames, *, size: tuple[int, int], **options) -> Path:
    with frame_writer(path, size=size, **{"fps": Fraction(10), **options}) as write:
        for frame in frames:
            write(frame)
    return path


def written_film(path: Path, frames: torch.Tensor, **options) -> Path:
    return write_all(path, frames, size=(frames.shape[1], frames.shape[2]), **options)


@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.mkv", "film.webm"])
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_a_written_film_has_the_frames_their_size_and_their_rate(tmp_path, name, size):
    frames = moving(6, size)
    notes: list[str] = []
    path = written_film(tmp_path / name, frames, fps=Fraction(25, 2), note=notes.append)
    source = open_frames(path)
    assert (source.size, source.count, source.fps) == (size, 6, Fraction(25, 2))
    error = torch.stack([*source]).float() - frames.float()
    assert error.square().mean().sqrt() < 6
    assert bool(notes) == (size[0] % 2 == 1)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("suffix", FILM_SUFFIXES)
def test_equal_frames_make_equal_files(tmp_path, suffix):
    """Often, and with memory that holds something else each time: encoders have read beyond it."""
    generator = torch.Generator().manual_seed(0)
    files = set()
    for _ in range(3 if suffix == ".webm" else 20):
        used = [torch.rand(int(n), generator=generator) for n in torch.randint(100, 70_000, (20,))]
        del used[::2]
        film = written_film(tmp_path / f"film{suffix}", moving(8, (32, 48)))
        files.add(hashlib.sha256(film.read_bytes()).hexdigest())
    assert len(files) == 1


@pytest.mark.parametrize("name", ["film.mp4", "folder"])
def test_a_run_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, name):
    output = tmp_path / name
    if name == "folder":
        pictures(output, 1)
    else:
        output.write_text("older")
    before = sorted(tmp_path.rglob("*"))

    def frames():
        yield torch.zeros(6, 8, 3, dtype=torch.uint8)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_all(output, frames(), size=(6, 8))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("codec", "made", "output", "kept"),
    [
        ("aac", "film.mp4", "out.mp4", True),
        ("aac", "film.ts", "out.mp4", True),
        ("pcm_s16le", "film.mkv", "out.mov", True),
        ("pcm_s16le", "film.mkv", "out.mp4", False),
        ("aac", "film.mp4", "out.webm", False),
    ],
)
def test_the_sound_is_carried_over(tmp_path, codec, made, output, kept):
    film = write_film(tmp_path / made, grey_frames(24), fps=24, audio=codec)
    source = open_frames(film, frames="6")
    assert source.sound == film
    frames = torch.stack([*source])
    path = written_film(tmp_path / output, frames, fps=source.fps, sound_from=source.sound)
    name, wave = decode_sound(path)
    assert (name == codec) == kept
    if kept:
        before, after = packets(film), packets(path)
        # A transport stream puts a head before each packet; samples are packed as one likes.
        same = all(one.endswith(other) for one, other in zip(before, after, strict=False))
        assert same or b"".join(before) == b"".join(after)
    assert len(wave) == pytest.approx(RATE, rel=0.06)
    spectrum = np.abs(np.fft.rfft(wave[: RATE // 2]))
    assert 2 * spectrum.argmax() == TONE_HZ
    assert len(decode_film(path)) == 6


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_sound_keeps_its_place_where_a_film_does_not_begin_at_zero(tmp_path):
    film = write_film(tmp_path / "film.ts", grey_frames(24), fps=24, audio="aac")
    path = written_film(
        tmp_path / "out.mp4", moving(24, (32, 48)), fps=Fraction(24), sound_from=film
    )

    def delay(path: Path) -> float:
        """Seconds from the first frame of pictures to that of sound."""
        with av.open(str(path)) as container:
            return next(container.decode(audio=0)).time - _first_picture(path)

    with av.open(str(film)) as container:
        assert container.streams.video[0].start_time > 0, "else this shows nothing"
    assert delay(path) == pytest.approx(delay(film), abs=0.03)


def _first_picture(path: Path) -> float:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).time


def test_a_folder_gets_the_frames_as_they_are(tmp_path):
    frames = moving(11, (5, 7))
    notes: list[str] = []
    film = write_film(tmp_path / "film.mp4", grey_frames(2), audio="aac")
    folder = written_film(tmp_path / "folder", frames, sound_from=film, note=notes.append)
    assert [path.name for path in sorted(folder.iterdir())][:2] == ["00000.png", "00001.png"]
    assert torch.equal(torch.stack([*open_frames(folder)]), frames)
    assert notes == ["a folder of frames holds no sound: it is left out"]


def test_a_folder_that_exists_keeps_all_but_the_frames_of_an_earlier_run(tmp_path):
    folder = written_film(tmp_path / "folder", moving(5, (5, 7)))
    (folder / "notes.txt").write_text("mine")
    written_film(folder, moving(2, (5, 7)))
    assert sorted(p.name for p in folder.iterdir()) == ["00000.png", "00001.png", "notes.txt"]


@pytest.mark.parametrize("name", ["film.avi", "film.gif", "frame.png", "file"])
def test_an_output_that_is_neither_film_nor_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("a file without a suffix")
    with pytest.raises(ValueError, match=r"must end in \.mp4, .*or be a folder"):
        check_frames_output(tmp_path / name)


def test_equal_frames_of_odd_width_give_equal_files(tmp_path):
    """FFmpeg's scaler reads what lies behind a row; here that is different every time."""
    frames = torch.randint(0, 256, (3, 30, 47, 3), dtype=torch.uint8)
    films = set()
    for k in range(8):
        litter = [np.full(4000 + 97 * k, 31 * k, dtype=np.uint8) for _ in range(50)]
        del litter
        with frame_writer(tmp_path / f"{k}.mp4", size=(30, 47), fps=Fraction(10)) as write:
            for frame in frames:
                write(frame)
        films.add((tmp_path / f"{k}.mp4").read_bytes())
    assert len(films) == 1
