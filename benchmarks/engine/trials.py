"""Trials of an experiment, and the folder that keeps their results.

Example:
    store = Store(output)
    for seed in range(3):
        decides = {"rate": 0.5, "seed": seed, "input": image, "weights": weights_digest("tiny")}
        trial = Trial({"input": "fox", "arm": "csd", "seed": seed}, decides)
        row = store.run(trial, lambda folder: {"psnr": edit(folder)})

A finished trial is not run again; an interrupted trial is run from its start. To add inputs, arms,
seeds or budgets, run further trials. A trial with other options, inputs, weights or versions has
another id, so old results are never mistaken for new ones. If only the measures may change, make
two trials, one for the result and one for its measures, and put the id of the first into `decides`
of the second.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.engine.identity import digest, plain, versions
from csd_nerf.evaluation.tables import Row
from csd_nerf.json_files import read_json
from csd_nerf.media.files import check_writable, write_json

RECORD = "trial.json"
"""File that is written last into a trial's folder; a trial without it is not finished."""
_ID_LENGTH = 16


@dataclass(frozen=True)
class Trial:
    """One run of an experiment."""

    labels: Row
    """Names in tables, such as `input`, `arm` and `seed`. They have no influence on the result."""
    decides: Mapping[str, Any]
    """Everything that decides the result, in types that `identity.plain` converts; versions are
    added."""

    @functools.cached_property
    def id(self) -> str:
        """Hash of everything that decides the result."""
        return digest([self.decides, versions()])[:_ID_LENGTH]


class _Finished(BaseModel):
    row: dict[str, Any]


class Store:
    """A folder with the results of trials, each in a subfolder named by the trial's id."""

    def __init__(self, output: Path) -> None:
        """Open a folder, which is made if it does not exist.

        Raises:
            OSError: If files can't be written there.
        """
        self.output = output
        check_writable(output / RECORD)

    def folder(self, trial: Trial | str) -> Path:
        """Folder of a trial, given the trial or its id."""
        return self.output / "trials" / (trial if isinstance(trial, str) else trial.id)

    def row(self, trial: Trial) -> Row | None:
        """The labels, results and id of a finished trial; None if it is not finished.

        Raises:
            ValueError: If its record is damaged.
        """
        path = self.folder(trial) / RECORD
        if not path.exists():
            return None
        remedy = "remove it to run the trial anew"
        found = read_json(path, _Finished, what="the record of a trial", remedy=remedy)
        return {**trial.labels, **found.row, "trial": trial.id}

    def run(self, trial: Trial, make: Callable[[Path], Row]) -> Row:
        """Run a trial unless it is finished; returns its row.

        Args:
            trial: The trial.
            make: Runs the trial. It is called with an empty folder for files to keep, and returns
                the results in types that JSON has.
        """
        if (kept := self.row(trial)) is not None:
            return kept
        folder = self.folder(trial)
        # An interrupted run may have left files.
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
    """Write results.json with the settings, the versions and the rows."""
    asked = {key: value for key, value in vars(settings).items() if key != "output"}
    record = {"settings": asked, "versions": versions(), "rows": rows}
    write_json(output / "results.json", record)
