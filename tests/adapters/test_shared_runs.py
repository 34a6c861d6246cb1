"""`csd-nerf` in several processes, as torchrun starts them: the results are those of one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from film_maker import write_film
from PIL import Image
from ranks_together import launch

from csd_nerf import cli, priors
from csd_nerf.adapters import run, video
from csd_nerf.adapters.file_reporter import FileReporter
from csd_nerf.adapters.run_files import RunFiles
from csd_nerf.core.ranks import Ranks
from csd_nerf.media.frames import open_frames
from csd_nerf.priors.devices import own_device

QUICK = (
    "--preset",
    "tiny",
    "--prompt",
    "make it night",
    "--iterations",
    "6",
    "--save-every",
    "2",
    "--batch",
    "3",
)


class Outcome(NamedTuple):
    """What became of a rank: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it told on stderr, without progress bars."""
        return [line for line in self.err.splitlines() if line.startswith(("csd-nerf", "note"))]


@cache
def tiny():
    return priors.load("tiny")


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """The prior is loaded once, before processes are forked."""
    found = tiny()
    monkeypatch.setattr(priors, "load", lambda *_, **__: found)


def command(*arguments: object, spoil: Callable[[], None] = lambda: None) -> Outcome:
    """Run the command in this process, after something else is done to it."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        spoil()
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def in_ranks(count: int, *arguments: object, spoil=lambda: None) -> list[Outcome]:
    """Run it in several; a rank that is killed has the negative number of the signal as code."""
    found = launch(count, partial(command, *arguments, spoil=spoil))
    assert all(kind in ("returned", "died") for kind, _ in found), found
    return [r if kind == "returned" else Outcome(r, "", "") for kind, r in found]


def pixels(height: int, width: int, *, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(pixels(80, 150, seed=number)).save(path)
    return paths


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """What one process makes of the first picture."""
    folder = tmp_path_factory.mktemp("alone")
    Image.fromarray(pixels(80, 150, seed=0)).save(folder / "0.png")
    found = tiny()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priors, "load", lambda *_, **__: found)
        assert command("panorama", folder / "0.png", "--output", folder / "a.png", *QUICK).code == 0
    assert beside(folder / "a.png") == {"a.png", "a.png.json"}
    return folder / "a.png"


@pytest.fixture
def film(tmp_path) -> Path:
    frames = np.stack([pixels(64, 80, seed=seed) for seed in range(5)])
    return write_film(tmp_path / "film.mp4", frames, fps=12)


def same_picture(one: Path, other: Path) -> bool:
    """Equal up to the rounding of one level, which differences of 1e-6 may cause."""
    pair = [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (one, other)]
    return pair[0].shape == pair[1].shape and abs(pair[0] - pair[1]).max() <= 1


def same_film(one: Path, other: Path) -> bool:
    pair = [torch.stack([*open_frames(path)]).int() for path in (one, other)]
    return pair[0].shape == pair[1].shape and bool((pair[0] - pair[1]).abs().max() <= 8)


def facts(path: Path) -> dict:
    return json.loads(path.with_name(f"{path.name}.json").read_text())["facts"]


def beside(path: Path) -> set[str]:
    """What lies in an output's folder, but for the inputs."""
    inputs = {"0.png", "1.png", "2.png", "film.mp4"}
    return {p.name for p in path.parent.iterdir()} - inputs


def check_one_told(found: Sequence[Outcome], told: str) -> None:
    first, *others = found
    assert told in first.out
    assert {one.code for one in found} == {0}
    assert {(one.out, one.err) for one in others} == {("", "")}


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_edit_a_panorama_as_one_does(tmp_path, pictures, alone, count):
    shared = tmp_path / "shared.png"
    found = in_ranks(
        count, "panorama", pictures[0], "--output", shared, *QUICK, "--preview-every", "2"
    )
    check_one_told(found, f"Wrote {shared}.")
    assert same_picture(shared, alone)
    assert not same_picture(shared, pictures[0])
    assert facts(shared)["evaluations"] == facts(alone)["evaluations"] > 0
    assert (facts(alone)["ranks"], facts(shared)["ranks"]) == (1, count)
    assert beside(shared) == {"shared.png", "shared.png.json"}


@pytest.mark.parametrize("method", ["csd", "ip2p"])
def test_ranks_edit_a_video_as_one_does(tmp_path, film, method):
    alone, shared = tmp_path / "alone.mp4", tmp_path / "shared.mp4"
    how = [*QUICK, "--method", method, "--steps", "3"]
    assert command("video", film, "--output", alone, *how).code == 0
    check_one_told(in_ranks(3, "video", film, "--output", shared, *how), f"Wrote {shared}.")
    assert same_film(shared, alone)
    assert not same_film(shared, film)
    assert facts(shared)["evaluations"] == facts(alone)["evaluations"] > 0
    assert "shared.mp4.state.pt" not in beside(shared)


def test_ranks_edit_a_set_as_one_does(tmp_path, pictures):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert command("image", *pictures, "--output", alone, *QUICK).code == 0
    check_one_told(in_ranks(2, "image", *pictures, "--output", shared, *QUICK), f"Wrote {shared}.")
    for picture in pictures:
        assert same_picture(shared / picture.name, alone / picture.name)


def stopping_at(step: int, *, rank: int, with_signal: signal.Signals) -> None:
    """Send a rank a signal when it has done a step of the edit."""
    tick = FileReporter.tick

    def ticked(self, done, *, state=None, preview=None):
        if state is not None and done == step and os.environ.get("RANK") == str(rank):
            os.kill(os.getpid(), with_signal)
        tick(self, done, state=state, preview=preview)

    FileReporter.tick = ticked


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_all_and_others_go_on(tmp_path, pictures, alone, rank):
    output = tmp_path / "output.png"
    arguments = ["panorama", pictures[0], "--output", output, *QUICK]
    spoil = partial(stopping_at, 3, rank=rank, with_signal=signal.SIGINT)
    found = in_ranks(2, *arguments, spoil=spoil)
    assert [one.code for one in found] == [130, 130]
    assert len(found[0].lines) == 1
    assert found[0].lines[0].startswith("csd-nerf: interrupted; go on with: csd-nerf panorama")
    assert (found[1].out, found[1].err) == ("", "")
    saved = torch.load(f"{output}.state.pt")
    assert saved["done"] == 3
    found = in_ranks(3, *arguments, "--resume")
    check_one_told(found, f"Wrote {output}.")
    assert "50%" in found[0].err
    assert same_picture(output, alone)
    assert facts(output)["evaluations"] == facts(alone)["evaluations"]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_dies_ends_all_with_one_line(tmp_path, pictures, alone, killed):
    output = tmp_path / "output.png"
    arguments = ["panorama", pictures[0], "--output", output, *QUICK]
    spoil = partial(stopping_at, 5, rank=killed, with_signal=signal.SIGKILL)
    found = in_ranks(2, *arguments, spoil=spoil)
    assert found[killed].code == -signal.SIGKILL
    left = found[1 - killed]
    assert left.code == 1
    (line,) = left.lines
    assert line.startswith("csd-nerf: One of 2 ranks was lost")
    assert "--resume" in line
    # What it left is of use to a single process.
    assert command(*arguments, "--resume").code == 0
    assert same_picture(output, alone)


def failing(where: str, rank: int) -> None:
    def fail(*_, **__):
        if os.environ.get("RANK") == str(rank):
            raise MemoryError("too little memory for this")
        return original(*_, **__)

    owner = {"predict": tiny(), "write_image": run, "save_state": RunFiles}[where]
    original = getattr(owner, where)
    setattr(owner, where, fail)


@pytest.mark.parametrize(
    ("where", "rank", "told"),
    [
        ("predict", 1, "Rank 1 of 2: "),
        ("predict", 0, ""),
        ("write_image", 0, "too little memory for this"),
        ("save_state", 0, "too little memory for this"),
    ],
)
def test_an_error_in_one_rank_ends_all_with_one_line(tmp_path, pictures, where, rank, told):
    output = tmp_path / "output.png"
    arguments = ["panorama", pictures[0], "--output", output, *QUICK]
    first, second = in_ranks(2, *arguments, spoil=partial(failing, where, rank))
    assert (first.code, second.code) == (1, 1)
    (line,) = first.lines
    assert line.startswith(f"csd-nerf: {told}")
    assert (second.out, second.err) == ("", "")
    assert not output.exists()


def full_disk() -> None:
    @contextlib.contextmanager
    def writer(*_, **__):
        def write(_):
            raise OSError("no space is left")

        yield write

    video.frame_writer = writer


def test_a_frame_that_rank_0_can_not_write_ends_all(tmp_path, film):
    output = tmp_path / "output.mp4"
    first, second = in_ranks(2, "video", film, "--output", output, *QUICK, spoil=full_disk)
    assert (first.code, second.code) == (1, 1)
    (line,) = first.lines
    assert line.startswith("csd-nerf: no space is left")
    assert (second.out, second.err) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["panorama", "missing.png", "--output", "x.png", *QUICK], "which does not exist"),
        (["panorama", "0.png", "--output", "0.png", *QUICK], "The output must not be the input"),
        (["panorama", "0.png", "--output", "x.png", "--preset", "tiny"], "instruction"),
        (["panorama", "0.png", "--output", "x.png", *QUICK, "--steps", "0"], "--steps"),
        (
            ["panorama", "0.png", "--output", "x.png", *QUICK, "--prior-split", "cpu"],
            "--prior-split needs one process, got cpu with 2",
        ),
        (["edits"], "edits runs in one process, got 2; leave torchrun out."),
    ],
)
def test_only_rank_0_tells_a_mistake(tmp_path, pictures, monkeypatch, arguments, told):
    assert pictures
    monkeypatch.chdir(tmp_path)
    first, second = in_ranks(2, *arguments)
    assert (first.code, second.code) == (1, 1)
    (line,) = first.err.splitlines()
    assert line.startswith("csd-nerf: ")
    assert told in line
    assert (second.out, second.err) == ("", "")


def tracing(folder: Path) -> None:
    """Note which rank evaluates how much for which output."""
    edit = run._edit_picture

    def traced(source, target, options, segmenter, prior, reporter):
        from csd_nerf.priors.base import ranks_of

        kind = "shared" if ranks_of(prior).count > 1 else "whole"
        (folder / f"{target.stem}.{os.environ['RANK']}.{kind}").touch()
        return edit(source, target, options, segmenter, prior, reporter)

    run._edit_picture = traced


def test_ranks_take_whole_inputs_and_share_what_is_left(tmp_path, pictures):
    alone, output, traces = (tmp_path / name for name in ("alone", "output", "traces"))
    traces.mkdir()
    assert command("panorama", *pictures, "--output", alone, *QUICK).code == 0
    found = in_ranks(
        2, "panorama", *pictures, "--output", output, *QUICK, spoil=partial(tracing, traces)
    )
    check_one_told(found, f"Wrote {output / '1.png'}.")
    assert {path.name for path in traces.iterdir()} == {
        *("0.0.whole", "1.1.whole", "2.0.shared", "2.1.shared"),
    }
    for picture in pictures:
        assert same_picture(output / picture.name, alone / picture.name)
        assert found[0].out.count(f"Wrote {output / picture.name}.") == 1
    again = in_ranks(2, "panorama", *pictures, "--output", output, *QUICK, "--resume")
    check_one_told(again, "2.png is finished: nothing is left to do.")


def test_rank_0_tells_the_failure_of_an_input_of_another(tmp_path, pictures):
    output = tmp_path / "output"
    spoil = partial(failing, "predict", 1)
    first, second = in_ranks(2, "panorama", *pictures[:2], "--output", output, *QUICK, spoil=spoil)
    assert (first.code, second.code) == (1, 1)
    assert len(first.lines) == 1
    assert (output / "0.png").exists()
    assert not (output / "1.png").exists()
    assert (second.out, second.err) == ("", "")


def test_an_input_that_can_not_be_read_leaves_the_others_to_all(tmp_path, pictures):
    pictures[1].write_bytes(b"no picture")
    output = tmp_path / "output"
    first, second = in_ranks(2, "panorama", *pictures, "--output", output, *QUICK)
    assert (first.code, second.code) == (1, 1)
    assert len(first.lines) == 1
    assert {path.name for path in output.glob("*.png")} == {"0.png", "2.png"}


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    gpu = torch.device("cuda")
    assert own_device(gpu, Ranks()) == gpu
    assert own_device(torch.device("cpu"), Ranks(5, 8, 1)) == torch.device("cpu")
    assert own_device(gpu, Ranks(5, 8, 1)) == torch.device("cuda:1") == chosen[0]
    with pytest.raises(ValueError, match="8 ranks need a GPU each, got cuda:1 for all"):
        own_device(torch.device("cuda:1"), Ranks(5, 8, 1))
    with pytest.raises(ValueError, match="got cuda:2 with 2 GPUs"):
        own_device(gpu, Ranks(2, 8, 2))
