"""A run is killed before every operation on a file, with half of what it was writing on the disk.

Whatever the moment, the command that goes on makes the same result and leaves nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_maker import write_film
from PIL import Image
from tint_prior import TintPrior

from csd_nerf import cli, priors

pytestmark = pytest.mark.usefixtures("coarse_kernel")

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
OPERATIONS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
EDIT = ("--preset", "tiny", "--prompt", "make it night", "--iterations", "2", "--save-every", "1")


def frames(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def loads(monkeypatch):
    monkeypatch.setattr(priors, "load", lambda *_, **__: TintPrior())


def edit(command: str, source: Path, output: Path, *options: str) -> int:
    words = [command, str(source), "--output", str(output), *EDIT, *options]
    try:
        cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


class Moments:
    """An audit hook that copies a folder as a kill before each operation on it would leave it.

    Of what is being written the copy has half.
    """

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies = folder, copies
        self.number = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not (arguments[2] or 0) & WRITING:
            return
        if event != "open" and event not in OPERATIONS:
            return
        if str(self.folder) not in str(arguments[0]):
            return
        copy = self.copies / str(self.number)
        shutil.copytree(self.folder, copy)
        for path in copy.rglob("*"):
            if "csd-nerf-part" in str(path) and path.is_file():
                os.truncate(path, path.stat().st_size // 2)
        self.number += 1


def moments(folder: Path, copies: Path, *words: Any) -> int:
    """Edit in a child process, since a hook stays; returns how many copies there are."""
    child = os.fork()
    if child == 0:
        code = 1
        with Path(os.devnull).open("w") as nowhere, contextlib.suppress(BaseException):
            sys.stdout = sys.stderr = nowhere
            sys.addaudithook(Moments(folder, copies))
            code = edit(*words)
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return len([*copies.iterdir()])


def state(folder: Path) -> tuple[tuple[str, bytes | None], ...]:
    """All that a command can find in a folder."""
    return tuple(
        (str(path.relative_to(folder)), path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    )


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the record, which has the time."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


KINDS = {
    "picture": ("panorama", "x.png", "y.png", False),
    "film": ("video", "x.mp4", "y.mp4", False),
    "folder": ("video", "x.mp4", "y", False),
    "picture over an earlier one": ("panorama", "x.png", "y.png", True),
    "folder over an earlier one": ("video", "x.mp4", "y", True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_anywhere_goes_on_to_the_same(tmp_path, kind):
    command, source, name, replaces = KINDS[kind]
    Image.fromarray(frames(0)[0]).save(tmp_path / "x.png")
    write_film(tmp_path / "x.mp4", frames(0), fps=12)
    source = tmp_path / source
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    options: tuple[str, ...] = ()
    if replaces:
        assert edit(command, source, earlier / name, "--seed", "7") == 0
        (earlier / "notes.txt").write_text("mine")
        options = ("--overwrite",)
    whole = tmp_path / "whole"
    shutil.copytree(earlier, whole)
    assert edit(command, source, whole / name, *options) == 0

    folder, copies = tmp_path / "out", tmp_path / "copies"
    shutil.copytree(earlier, folder)
    copies.mkdir()
    count = moments(folder, copies, command, source, folder / name, *options)
    assert count > 12
    assert contents(folder) == contents(whole)
    found = set()
    for number in range(count):
        shutil.rmtree(folder)
        shutil.move(copies / str(number), folder)
        # What is on the disk decides how a run goes on: the same twice tells nothing new.
        if state(folder) in found:
            continue
        found.add(state(folder))
        assert edit(command, source, folder / name, "--resume", *options) == 0, number
        assert contents(folder) == contents(whole), number
        assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
