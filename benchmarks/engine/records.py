"""Records of experiments: everything from which their tables can be made again, in one file.

A record is a mapping that JSON has, with the name of its `experiment`, which is a key of
`benchmarks.tables.EXPERIMENTS`. It holds neither paths nor seconds: where files were doesn't matter
to anybody else, and times that were taken beside other work say nothing.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csd_nerf.evaluation.tables import Row
from csd_nerf.media.files import written_whole

Record = dict[str, Any]
NAME = "record.json.gz"
"""File of the record in an experiment's output folder."""


def without_seconds(rows: Sequence[Row]) -> list[Row]:
    """The rows without their times."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as compressed JSON; equal records give equal bytes.

    Raises:
        TypeError: If it holds what JSON lacks, such as a path.
    """
    text = json.dumps(record, sort_keys=True)
    with written_whole(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no record.
    """
    if not path.is_file():
        raise FileNotFoundError(f"A record must exist, got {path}.")
    try:
        record: Record = json.loads(gzip.decompress(path.read_bytes()))
        known = {"experiment", "rows"} <= record.keys()
    except (OSError, EOFError, ValueError, AttributeError):
        known, record = False, {}
    if not known:
        raise ValueError(f"A record must be a {NAME} that an experiment has written, got {path}.")
    return record
