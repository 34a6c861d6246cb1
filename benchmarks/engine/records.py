"""Records of experiments: everything from which their tables can be made again, in one file.

A record is a mapping that JSON has, with the name of its `experiment`, which is a key of
`benchmarks.tables.EXPERIMENTS`. It holds neither paths nor seconds: where files were doesn't matter
to anybody else, and times that were taken beside other work say nothing.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from csd_nerf.evaluation.tables import Row
from csd_nerf.json_files import parse_json
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


class _Row(BaseModel):
    """A trial's labels and results: numbers, and the names of what it is of."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float | None]

    arm: str
    input: str
    budget: float
    seed: int
    edit: str = ""
    trial: str = ""
    kind: str = ""
    medium: str = ""
    answer: str | None = None


class _Settings(BaseModel):
    model_config = ConfigDict(extra="allow")

    domain: str
    split: str
    budgets: Annotated[list[float], Field(min_length=1)]
    inputs: int
    seeds: int
    media: Any
    updates: int | None
    learning_rate: float | None
    text_scale: float | None
    image_scale: float | None


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow")

    experiment: str
    settings: _Settings
    versions: dict[str, str | None]
    arms: Annotated[list[str], Field(min_length=1)]
    baseline: str
    references: list[str]
    tuning: str
    rows: list[_Row]
    residuals: list[dict[str, int | float | str | None]]
    weights: str = ""

    @model_validator(mode="after")
    def _names_its_arms(self) -> _Record:
        named = {*self.references, *(row.arm for row in self.rows)}
        if others := sorted(named - {*self.arms}):
            raise ValueError(f"arms must name all, and lack {', '.join(others)}")
        return self


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no record.
    """
    if not path.is_file():
        raise FileNotFoundError(f"A record must be a file that exists, got {path}.")
    what, remedy = f"a {NAME} that an experiment has written", "make it again"
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} must be {what}, but can't be unpacked ({error}); {remedy}."
        ) from None
    record = parse_json(data, _Record, path=path, what=what, remedy=remedy)
    return record.model_dump(exclude_unset=True)
