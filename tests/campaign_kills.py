"""Kills runs of every kind at random moments, and goes on with them."""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from campaign_children import EDIT, LIMIT, Report, command, in_child, pixels, wait
from edit_runs import checkpoint_of, differences, small_config, start, write_dataset
from film_maker import write_film
from PIL import Image
from tqdm import tqdm


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
    Image.fromarray(pixels(96, 64)).save(work / "x.png")
    write_film(work / "x.mp4", np.stack([pixels(64, 64, seed=i) for i in range(3)]), fps=12)
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
