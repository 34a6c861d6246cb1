"""The command `python -m benchmarks tables`; imports nothing heavy."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

EXPERIMENTS = {"truth": "benchmarks.truth.tables:truth_tables"}
"""Functions from an experiment's record to its tables in markdown, as `module:function`."""


@dataclass(frozen=True, kw_only=True)
class TablesSettings:
    """Print the tables of an experiment from its record, without running anything."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """A record.json.gz of an experiment's output folder, or one in benchmarks/results/.
    Several are joined: further arms, inputs or seeds of one experiment."""
    output: Path | None = None
    """File for the record of the tables, such as benchmarks/results/NAME.json.gz."""

    def run(self) -> None:
        """Print the tables."""
        from benchmarks.engine.records import write_record

        record = joined_record(self.files)
        print(tables_of(record))
        if self.output is not None:
            write_record(self.output, record)


def joined_record(files: Sequence[Path]) -> dict[str, Any]:
    """The record of one file, or of several together.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one is no record, or of another experiment, or they can't be joined.
    """
    from benchmarks.engine.records import join_records, read_record

    if not files:
        raise ValueError("Tables need one record or more, got none.")
    records = [read_record(file) for file in files]
    for file, record in zip(files, records, strict=True):
        if record["experiment"] not in EXPERIMENTS:
            raise ValueError(
                f"A record needs to be of {' or '.join(EXPERIMENTS)}, got one of "
                f"{record['experiment']!r} in {file}."
            )
    return join_records(records)


def tables_of(record: Mapping[str, Any]) -> str:
    """The tables of a record in markdown, as the experiment itself printed them."""
    return pkgutil.resolve_name(EXPERIMENTS[record["experiment"]])(record)
