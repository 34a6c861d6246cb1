"""The tuned options of all arms: `tuned/DOMAIN.json`, which `--tune` writes and all runs read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, RootModel

from benchmarks.truth.domains import Arm
from benchmarks.truth.grids import grid_of
from benchmarks.truth.settings import TruthSettings
from csd_nerf.json_files import read_json
from csd_nerf.media.files import check_writable, write_json

FOLDER = Path(__file__).with_name("tuned")
SHARED = {
    "scene": "video",
    "splat-scene": "video",
    "cost-video": "video",
    "choice-scene": "choice",
}
"""Domains that take the tuned options of another one, for the arms that they don't tune themselves:
views of a scene are edited together as frames are, with as many updates, in seconds instead of
minutes."""
Entry = dict[str, Any]
"""What is known of an arm: its `options`, and how they were chosen; see `tune.run_tune`."""


class _Entry(BaseModel):
    """An arm's options, and how they were chosen."""

    model_config = ConfigDict(extra="allow")

    options: dict[str, Any]
    prior: str
    inputs: int
    seeds: int
    split: str
    edits: list[str]


class _Entries(RootModel[dict[str, _Entry]]):
    """The entries of a domain by arm."""


def tuned_file(domain: str) -> Path:
    """The file of a domain."""
    return FOLDER / f"{domain}.json"


def read_tuned(domain: str) -> dict[str, Entry]:
    """The entries of a domain's arms by name; empty if nothing was tuned.

    Raises:
        ValueError: If the file can't be read.
    """
    path = tuned_file(domain)
    if not path.is_file():
        return {}
    what, remedy = "the tuned options of a domain", "restore it or tune again"
    found = read_json(path, _Entries, what=what, remedy=remedy).root
    entries = {name: entry.model_dump(exclude_unset=True) for name, entry in found.items()}
    for entry in entries.values():
        entry["options"] = _with_tuples(entry["options"])
    return entries


def write_tuned(domain: str, name: str, entry: Entry) -> None:
    """Replace an arm's entry, and keep those of the others."""
    check_writable(tuned_file(domain))
    write_json(tuned_file(domain), {**read_tuned(domain), name: entry})


def tuned_arm(domain: str, arm: Arm) -> Arm:
    """An arm with its tuned options, below those that define it.

    An arm without an entry takes the options of its method's arm, and without these the start of
    its grid.
    """
    if arm.method is None:
        return arm
    entries, grid = _known(domain), grid_of(domain, arm)
    entry = entries.get(arm.tuned_as or arm.name) or entries.get(arm.method)
    options = grid.start if entry is None else entry["options"]
    return dataclasses.replace(arm, options={**grid.start, **options, **arm.options})


def tuning_note(settings: TruthSettings, arms: Sequence[Arm], *, prior: str) -> str:
    """Markdown that says which arms were tuned, how, and on which edits.

    Args:
        settings: The user's settings.
        arms: The arms of a table, without their tuned options.
        prior: Digest of the weights with which the table was made.
    """
    domain = settings.domain
    given = {key: value for key, value in settings.options.items() if key != "media"}
    own, entries = read_tuned(domain), _known(domain)
    groups: dict[str, list[str]] = {}
    for arm in arms:
        if arm.method is not None:
            entry = entries.get(arm.tuned_as or arm.name)
            known = entry is not None or bool(grid_of(domain, arm).start)
            how = _how(entry, prior) if known else "set by the arm itself."
            if entry is not None and (arm.tuned_as or arm.name) not in own:
                how = f"as for the domain {SHARED[domain]}, {how}"
            groups.setdefault(how, []).append(arm.name)
    lines = [f"{', '.join(group)}: {how}" for how, group in groups.items()]
    if given:
        lines.append(
            f"all: {', '.join(f'{key} {value}' for key, value in given.items())} as given."
        )
    return "".join(f"- {line}\n" for line in lines)


def _known(domain: str) -> dict[str, Entry]:
    """The domain's entries, and for other arms those of the domain whose options it takes."""
    return {**read_tuned(SHARED.get(domain, domain)), **read_tuned(domain)}


def _how(entry: Mapping[str, Any] | None, prior: str) -> str:
    if entry is None:
        return "not tuned."
    weights = "" if entry["prior"] == prior else ", with other weights of the prior"
    return (
        f"tuned on {entry['inputs']} inputs x {entry['seeds']} seeds of the split "
        f"{entry['split']}{weights}. Edits: {', '.join(entry['edits'])}."
    )


def _with_tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists only; options of a method are tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
