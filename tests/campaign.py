"""Kills runs at random moments, and gives malformed inputs to all commands.

`python tests/campaign.py --kills 100 --inputs 1000 --output campaign.json` prints what fell short
and writes the figures; it takes about half an hour of one core. `test_campaign.py` runs a few of
each. Both are seeded, except for the moments at which the machine comes to a kill.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent / "methods" / "csd_edit"))

import numpy as np
from edit_runs import checkpoint_of, differences, small_config, start, write_dataset
from film_maker import write_film
from PIL import Image
from tint_prior import TintPrior
from tqdm import tqdm

from csd_nerf import cli, priors
from csd_nerf.media.images import read_image
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.transforms import CheckedTransforms

EDIT = ("--preset", "tiny", "--prompt", "make it night", "--iterations", "6", "--save-every", "1")
QUICK = ("--preset", "tiny", "--prompt", "make it night", "--iterations", "1")
LIMIT = 60.0
"""Seconds after which a command is taken to hang."""
FAULT = 99
"""Exit code of a child whose command raised what is no mistake of the user's."""


@dataclass
class Report:
    """What was tried, and what fell short."""

    tried: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


# Children


def in_child(run: Callable[[], int], told: Path) -> int:
    """Fork a process that runs this, with its output in a file; returns the process's number."""
    child = os.fork()
    if child:
        return child
    code = FAULT
    with told.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            code = run()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
            if isinstance(stop.code, str):
                print(stop.code, file=file)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc(file=file)
        file.flush()
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a child, or None if it is killed after this time; negative for signals."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def command(*words: object) -> Callable[[], int]:
    """Runs `csd-nerf` with these words."""

    def run() -> int:
        cli.main([str(word) for word in words])
        return 0

    return run


# Kills


@dataclass
class Media:
    """Edits of a picture, to a picture, or of a film, to a film or a folder."""

    words: tuple[str, ...]
    name: str

    def attempt(self, folder: Path) -> Callable[[], int]:
        """What makes the result in a folder, or goes on with it."""
        return command(*self.words, "--output", folder / self.name, *EDIT, "--resume")

    def result(self, folder: Path) -> Any:
        """All files but the record, which has the time."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        names = sorted(str(path.relative_to(folder)) for path in files)
        return names, [path.read_bytes() for path in sorted(files) if path.suffix != ".json"]


@dataclass
class Scene:
    """A run of csd-edit on a small scene."""

    data: Path

    def attempt(self, folder: Path) -> Callable[[], int]:
        """What begins a run, or goes on from the newest checkpoint."""
        runs = sorted(folder.glob("*"), key=lambda path: int(path.name))
        saved = [c.parent for run in runs for c in run.glob("**/nerfstudio_models/step-*.ckpt")]

        def run() -> int:
            config = small_config(self.data, folder / str(len(runs)))
            steps = config.pipeline.source_steps + config.pipeline.edit_steps
            if saved and (saved[-1] / f"step-{steps - 1:09d}.ckpt").exists():
                # It was killed when all was done.
                return 0
            config.steps_per_save, config.load_dir = 2, saved[-1] if saved else None
            config.pipeline.prior = "tiny"
            # What a checkpoint holds decides what follows, whatever the seed.
            start(config, seed=len(runs) if saved else 0).train()
            return 0

        return run

    def result(self, folder: Path) -> Any:
        """The last checkpoint."""
        last = max(folder.glob("*"), key=lambda path: int(path.name))
        (models,) = last.glob("**/nerfstudio_models")

        class Finished:
            checkpoint_dir = models

        return checkpoint_of(Finished)


def kill(report: Report, *, kills: int, seed: int, work: Path) -> None:
    """Kill runs of every kind at random moments, go on, and compare with an undisturbed run."""
    chance = random.Random(seed)
    Image.fromarray(_pixels(96, 64)).save(work / "x.png")
    write_film(work / "x.mp4", np.stack([_pixels(64, 64, seed=i) for i in range(3)]), fps=12)
    kinds = {
        "panorama": Media(("panorama", str(work / "x.png")), "y.png"),
        "film": Media(("video", str(work / "x.mp4")), "y.mp4"),
        "frames": Media(("video", str(work / "x.mp4")), "y"),
        "scene": Scene(write_dataset(work / "scene")),
    }
    wanted, lengths = {}, {}
    for name, kind in kinds.items():
        folder = work / "whole" / name
        folder.mkdir(parents=True)
        began = time.monotonic()
        if wait(in_child(kind.attempt(folder), work / "told"), 10 * LIMIT) != 0:
            raise RuntimeError(f"An undisturbed run must end well: {(work / 'told').read_text()}")
        lengths[name], wanted[name] = time.monotonic() - began, kind.result(folder)
    bar = tqdm(total=kills, desc="kills")
    for name in itertools.cycle(kinds):
        tried = [report.tried[f"kills, {known}"] for known in kinds]
        if sum(tried) >= kills and all(tried):
            break
        kind, folder = kinds[name], work / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        while True:
            child = in_child(kind.attempt(folder), work / "told")
            # One in three attempts after a kill is left in peace.
            peace = any(folder.iterdir()) and chance.random() < 1 / 3
            code = wait(child, 10 * LIMIT if peace else chance.uniform(0, lengths[name]))
            if code is None and not peace:
                report.tried[f"kills, {name}"] += 1
                bar.update()
                continue
            break
        if code != 0:
            report.faults.append(f"{name}: exit {code}: {(work / 'told').read_text()[-800:]}")
        elif not _equal(kind.result(folder), wanted[name]):
            report.faults.append(f"{name}: another result or other files after kills")
        report.tried[f"resumed, {name}"] += 1
    bar.close()


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict):
        return differences(ours, theirs) == []
    return ours == theirs


def _pixels(width: int, height: int, *, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


# Malformed inputs


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
    image = Image.fromarray(_pixels(48, 40))
    for suffix in (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"):
        image.save(whole / f"x{suffix}")
    Image.fromarray((_pixels(48, 40)[..., 0] > 99).astype(np.uint8) * 255).save(whole / "mask.png")
    for number in range(3):
        Image.fromarray(_pixels(32, 32, seed=number)).save(whole / "frames" / f"{number}.png")
    film = np.stack([_pixels(32, 32, seed=number) for number in range(3)])
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


def run(*, kills: int, inputs: int, seed: int) -> Report:
    """Run both parts with the bundled prior loaded once."""
    report = Report()
    tiny = priors.load("tiny")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for part, prior in (("kills", tiny), ("inputs", TintPrior())):
            (work / part).mkdir()
            plain, priors.load = priors.load, lambda *_, prior=prior, **__: prior
            try:
                if part == "kills" and kills:
                    kill(report, kills=kills, seed=seed, work=work / part)
                if part == "inputs" and inputs:
                    malform(report, inputs=inputs, seed=seed, work=work / part)
            finally:
                priors.load = plain
    return report


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    report = run(kills=asked.kills, inputs=asked.inputs, seed=asked.seed)
    for fault in report.faults:
        print(f"- {fault}")
    figures = {"tried": dict(report.tried), "faults": len(report.faults)}
    print(json.dumps(figures, indent=1))
    if asked.output:
        asked.output.write_text(json.dumps({**figures, "told": report.faults}, indent=1))
    return 1 if report.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
