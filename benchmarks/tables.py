"""The command `python -m benchmarks tables`; imports nothing heavy."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

EXPERIMENTS = {"truth": "benchmarks.truth.tables:truth_tables"}
"""Functions from an experiment's record to its tables in markdown, as `module:function`."""


@dataclass(frozen=True, kw_only=True)
class TablesSettings:
    """Print the tables of an experiment from its record, without running anything."""

    file: Annotated[Path, tyro.conf.Positional]
    """A record.json.gz of an experiment's output folder, or one in benchmarks/results/."""

    def run(self) -> None:
        """Print the tables."""
        print(tables_of(self.file))


def tables_of(file: Path) -> str:
    """The tables of a record in markdown, as the experiment itself printed them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no record, or that of another experiment.
    """
    from benchmarks.engine.records import read_record

    record = read_record(file)
    name = record["experiment"]
    if name not in EXPERIMENTS:
        raise ValueError(
            f"A record needs to be of {' or '.join(EXPERIMENTS)}, got one of {name!r} in {file}."
        )
    return pkgutil.resolve_name(EXPERIMENTS[name])(record)
