"""Trials of an experiment, and the folder that keeps their results.

Example:
    store = Store(output)
    for seed in range(3):
        decides = {"rate": 0.5, "seed": seed, "input": image, "weights": weights_digest("tiny")}
        trial = Trial({"input": "fox", "arm": "csd", "seed": seed}, decides)
        row = store.run(trial, lambda folder: {"psnr": edit(folder)})

A finished trial is not run again; an interrupted one is run anew. More inputs, arms, seeds or
budgets are more trials. Other options, inputs, weights or versions make other trials, so that a
result of them is never taken for this one. To keep a result and measure it again when only the
measures change, make two trials of it: put the id of the first into what decides the second.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine.identity import digest, plain, versions
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.files import check_writable, write_json

RECORD = "trial.json"
"""Written last into a trial's folder: a trial without it is not finished."""
_ID_LENGTH = 16


@dataclass(frozen=True)
class Trial:
    """One run of an experiment."""

    labels: Row
    """How tables name it: `input`, `arm`, `seed` and so on. They don't decide the result."""
    decides: Mapping[str, Any]
    """All that decides the result, as `identity.plain` takes it; versions are added."""

    @functools.cached_property
    def id(self) -> str:
        """Equal for trials with equal results."""
        return digest([self.decides, versions()])[:_ID_LENGTH]


class Store:
    """A folder with results of trials, each in a folder of its own named by the trial's id."""

    def __init__(self, output: Path) -> None:
        """Open a folder, which need not exist.

        Raises:
            OSError: If it can't be written to.
        """
        self.output = output
        check_writable(output / RECORD)

    def folder(self, trial: Trial | str) -> Path:
        """Where the files of a trial lie, known by itself or by its id."""
        return self.output / "trials" / (trial if isinstance(trial, str) else trial.id)

    def row(self, trial: Trial) -> Row | None:
        """The labels, results and id of a finished trial; None for others.

        Raises:
            ValueError: If its record is damaged.
        """
        path = self.folder(trial) / RECORD
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text("utf8"))["row"]
            return {**trial.labels, **found, "trial": trial.id}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path} must be the record of a trial, but can't be read as one; remove it to "
                "run the trial anew."
            ) from None

    def run(self, trial: Trial, make: Callable[[Path], Row]) -> Row:
        """The row of a trial, which is run unless it is finished.

        Args:
            trial: What is wanted.
            make: Called with an empty folder for files that are kept; returns what was measured,
                in values that JSON has.
        """
        if (kept := self.row(trial)) is not None:
            return kept
        folder = self.folder(trial)
        # What an interrupted run left.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        row = make(folder)
        record = {
            "labels": trial.labels,
            "decides": plain(trial.decides),
            "versions": versions(),
            "row": row,
        }
        write_json(folder / RECORD, record)
        return {**trial.labels, **row, "trial": trial.id}


def write_results(output: Path, settings: Any, rows: Sequence[Row]) -> None:
    """Write results.json: what was asked for, with which versions, and the rows."""
    asked = {key: value for key, value in vars(settings).items() if key != "output"}
    record = {"settings": asked, "versions": versions(), "rows": rows}
    write_json(output / "results.json", record)
