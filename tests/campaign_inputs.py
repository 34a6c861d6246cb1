"""Gives malformed inputs to all commands."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from campaign_children import EDIT, LIMIT, Report, command, in_child, pixels, wait
from edit_runs import small_config, write_dataset
from film_maker import write_film
from PIL import Image
from tint_prior import TintPrior
from tqdm import tqdm

from csd_nerf import cli, priors
from csd_nerf.media.images import read_image
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.transforms import CheckedTransforms

QUICK = ("--preset", "tiny", "--prompt", "make it night", "--iterations", "1")


def spoil_bytes(data: bytes, chance: random.Random) -> bytes:
    """Damage of a kind that disks, networks and people do."""
    kind = chance.randrange(7)
    place = chance.randrange(max(1, len(data)))
    if kind == 0:
        return data[:place]
    if kind == 1:
        spoiled = bytearray(data)
        for _ in range(chance.randint(1, 20)):
            spoiled[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(spoiled)
    if kind == 2:
        return data[:place] + bytes(min(512, len(data) - place)) + data[place + 512 :]
    if kind == 3:
        return b""
    if kind == 4:
        return chance.randbytes(len(data) % 5000)
    if kind == 5:
        return b"\xef\xbb\xbf" + data
    return data[:place] + data[place // 2 :]


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 1e308, 10**40, math_nan := float("nan"), -math_nan, float("inf")),
    *("", "x", "\0", "../../etc", "a" * 5000, [], {}, [[]], [None], {"x": 1}, [1, 2, 3]),
)


def spoil_json(value: Any, chance: random.Random) -> Any:
    """The value with one node replaced, removed or nested deeply."""
    if isinstance(value, (dict, list)) and value and chance.random() < 0.75:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys)
        changed = dict(value) if isinstance(value, dict) else list(value)
        if chance.random() < 0.2:
            del changed[key]  # pyright: ignore[reportArgumentType]
        else:
            changed[key] = spoil_json(value[key], chance)
        return changed
    if chance.random() < 0.05:
        return functools.reduce(lambda inner, _: [inner], range(3000), value)
    return chance.choice(ODD)


def spoiled_text(text: str, chance: random.Random) -> bytes:
    """A JSON text with damage in its structure or in its bytes."""
    if chance.random() < 0.7:
        sys.setrecursionlimit(100_000)
        spoiled = json.dumps(spoil_json(json.loads(text), chance)).encode()
        sys.setrecursionlimit(1000)
        return spoiled
    return spoil_bytes(text.encode(), chance)


@dataclass(frozen=True)
class Case:
    """A command with one malformed input."""

    name: str
    spoils: str
    """The input that is damaged, in the folder."""
    words: Sequence[str]
    """Words of the command; {} is the folder."""
    output: str | None = None
    """What appears if, and only if, the command succeeds."""


CASES = (
    *(
        Case(f"picture {suffix}", f"x{suffix}", ("panorama", f"{{}}/x{suffix}", *QUICK), "out.png")
        for suffix in (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp")
    ),
    Case(
        "mask", "mask.png", ("panorama", "{}/x.png", "--region", "fog@{}/mask.png", *QUICK), "o.png"
    ),
    *(
        Case(f"film {suffix}", f"x{suffix}", ("video", f"{{}}/x{suffix}", *QUICK), "out.mp4")
        for suffix in (".mp4", ".mkv", ".avi", ".mov")
    ),
    Case("frame", "frames/1.png", ("video", "{}/frames", *QUICK), "out"),
    Case("state", "s.png.state.pt", ("panorama", "{}/x.png", *EDIT, "--resume"), "s.png"),
    Case("record", "r.png.json", ("panorama", "{}/x.png", *EDIT, "--resume"), "r.png"),
    Case(
        "evaluate", "x.png", ("evaluate", "--source", "{}/x.png", "--edited", "{}/y.png"), "o.json"
    ),
    Case(
        "edit's record",
        "y.png.json",
        ("evaluate", "--source", "{}/x.png", "--edited", "{}/y.png"),
        "o.json",
    ),
    Case(
        "capture",
        "scene/transforms.json",
        ("evaluate", "--source", "{}/scene", "--edited", "{}/scene/images"),
        "o.json",
    ),
    Case("config", "config.yml", ("compare", "--load-config", "{}/config.yml"), "o"),
    Case("scene's parser", "scene/transforms.json", ()),
    Case("scene's photograph", "scene/images/frame_00003.png", ()),
)


def write_inputs(work: Path) -> Path:
    """A folder with a sound input of every kind."""
    whole = work / "whole"
    (whole / "frames").mkdir(parents=True)
    image = Image.fromarray(pixels(48, 40))
    for suffix in (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"):
        image.save(whole / f"x{suffix}")
    Image.fromarray((pixels(48, 40)[..., 0] > 99).astype(np.uint8) * 255).save(whole / "mask.png")
    for number in range(3):
        Image.fromarray(pixels(32, 32, seed=number)).save(whole / "frames" / f"{number}.png")
    film = np.stack([pixels(32, 32, seed=number) for number in range(3)])
    for suffix in (".mp4", ".mkv", ".avi", ".mov"):
        write_film(whole / f"x{suffix}", film, fps=12)
    write_dataset(whole / "scene", masks=True)
    config = small_config(whole / "scene", whole / "runs")
    config.save_config()
    (written,) = (whole / "runs").rglob("config.yml")
    shutil.copy(written, whole / "config.yml")
    panorama = ("panorama", whole / "x.png", *EDIT)
    for name in ("r.png", "y.png"):
        if wait(in_child(command(*panorama, "--output", whole / name), work / "told"), LIMIT) != 0:
            raise RuntimeError((work / "told").read_text())

    def interrupted() -> int:
        class Stops(TintPrior):
            calls = 0

            def predict(self, *arguments: Any, **options: Any) -> Any:
                Stops.calls += 1
                if Stops.calls == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super().predict(*arguments, **options)

        priors.load = lambda *_, **__: Stops()
        return command(*panorama, "--output", whole / "s.png")()

    wait(in_child(interrupted, work / "told"), LIMIT)
    if not (whole / "s.png.state.pt").is_file():
        raise RuntimeError((work / "told").read_text())
    return whole


def parse_scene(folder: Path) -> int:
    """Read a data set as csd-edit does; a mistake is a line, as `one_line_errors` prints it."""
    config = small_config(folder / "scene", folder / "runs")
    parser = config.pipeline.datamanager.dataparser
    parser.data = folder / "scene"
    try:
        outputs = CheckedTransforms(parser).get_dataparser_outputs("train")
        from csd_nerf.methods.common.photographs import Photographs

        for index in range(len(outputs.image_filenames)):
            Photographs(outputs).get_data(index)
    except MethodError as error:
        print(f"csd-nerf: {error}", file=sys.stderr)
        return 1
    return 0


def malform(report: Report, *, inputs: int, seed: int, work: Path) -> None:
    """Damage one input at a time, and look at what the command makes of it."""
    chance = random.Random(seed)
    whole = write_inputs(work)
    for case in {case.words[0]: case for case in reversed(CASES) if case.words}.values():
        # In this process, so that what a command needs is imported only once.
        words = [word.replace("{}", str(whole)) for word in case.words]
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
            cli.main([*words, "--output", str(work / "sound" / str(case.output))])
    for number in tqdm(range(inputs), desc="malformed inputs"):
        case = CASES[number % len(CASES)]
        folder = work / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        path = folder / case.spoils
        is_json = path.suffix == ".json"
        sound = path.read_bytes()
        path.write_bytes(
            spoiled_text(sound.decode(), chance) if is_json else spoil_bytes(sound, chance)
        )
        report.tried["malformed inputs"] += 1
        if fault := judge(case, folder, work / "told"):
            report.faults.append(f"{case.name}, number {number}: {fault}")


def judge(case: Case, folder: Path, told: Path) -> str | None:
    """Run a case; returns what is wrong with its end, if anything is."""
    before = _files(folder)
    words = [word.replace("{}", str(folder)) for word in case.words]
    if case.output:
        words += ["--output", str(folder / case.output)]
    run = command(*words) if words else functools.partial(parse_scene, folder)
    code = wait(in_child(run, told), LIMIT)
    text = told.read_text(errors="replace")
    if code is None:
        return f"it hung: {text[-300:]}"
    if code not in (0, 1):
        return f"exit code {code}: {text[-1500:]}"
    lines = [line for line in text.splitlines() if line.startswith("csd-nerf: ")]
    if code == 1 and (len(lines) != 1 or "Traceback" in text):
        return f"it needs one line, got {len(lines)}: {text[-800:]}"
    new = _files(folder) - before
    if code == 1 and new:
        return f"files are left after a failure: {sorted(new)}"
    if code == 0 and case.output and not (folder / case.output).exists():
        return f"there is no output after exit code 0: {text[-300:]}"
    if code == 0 and case.output and case.output.endswith(".png"):
        with contextlib.redirect_stderr(io.StringIO()):
            read_image(folder / case.output)
    return None


def _files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "runs" not in p.parts}
