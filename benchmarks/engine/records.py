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


LABELS = ("input", "arm", "budget", "seed")
"""Fields of a row that say which trial it is of."""


def join_records(records: Sequence[Record]) -> Record:
    """One record of several runs of an experiment, such as of further arms, inputs or seeds.

    Baseline and order of the arms are those of the first record.

    Raises:
        ValueError: If the runs are of other experiments, settings or versions, or if two have
            results of the same arm, input and seed. Only those of references may be in several.
    """
    first, *others = records
    joined = {**first, "settings": {**first["settings"]}}
    for other in others:
        _check_alike(joined, other)
        known = {_label(row) for row in joined["rows"]}
        methods = [row for row in other["rows"] if row["arm"] not in other["references"]]
        if twice := [row for row in methods if _label(row) in known]:
            raise ValueError(
                "Records to be joined must have different trials, got two of "
                f"{', '.join(f'{key} {twice[0][key]}' for key in LABELS)}; leave one out."
            )
        new = [row for row in other["rows"] if _label(row) not in known]
        joined["rows"] = [*joined["rows"], *new]
        residuals = [row for row in other["residuals"] if row not in joined["residuals"]]
        joined["residuals"] = [*joined["residuals"], *residuals]
        for key in ("arms", "references"):
            joined[key] = [*dict.fromkeys((*joined[key], *other[key]))]
        for key in ("inputs", "seeds"):
            joined["settings"][key] = max(r["settings"][key] for r in (joined, other))
        lines = (joined["tuning"] + other["tuning"]).splitlines(keepends=True)
        joined["tuning"] = "".join(dict.fromkeys(lines))
        joined["settings"]["arms"] = joined["arms"]
    return joined


def _label(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in LABELS)


def _check_alike(first: Record, other: Record) -> None:
    fixed = ("domain", "split", "media", "budgets", "updates", "learning_rate")
    fixed = (*fixed, "text_scale", "image_scale")
    pairs = {key: (first[key], other[key]) for key in ("experiment", "versions")}
    pairs |= {key: (first["settings"][key], other["settings"][key]) for key in fixed}
    if any("weights" in record for record in (first, other)):
        pairs["weights"] = (first.get("weights"), other.get("weights"))
    for key, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise ValueError(
                f"Records to be joined must have the same {key}, got {ours} and {theirs}."
            )


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
