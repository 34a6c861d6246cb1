"""Tables and a picture of what text-to-3D runs made."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.inputs import sorted_pictures
from benchmarks.text_to_3d.object_truth import AMBIENT, knows, true_views
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import write_text
from csd_nerf.media.images import read_image, write_image
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.media.sheets import LABEL_HEIGHT, enlarge, label_columns

COLOUR, LIT = "colour", "lit"
"""Folders of a run's views in own colours, and lit."""
SHOWN = 1
"""Index of the view in the picture: 30 degrees from the front, so that three sides are seen."""
MEASURES = (
    Column("overlap", "silhouette overlap", digits=3, better="higher"),
    Column("colour_distance", "colour distance", digits=3, better="lower"),
    Column("clip_colour", "CLIP similarity, colour", digits=3, better="higher"),
    Column("clip_geometry", "CLIP similarity, geometry", digits=3, better="higher"),
    Column("fid", "FID", better="lower"),
)
_FAILURES = Column("failures", "failures", digits=0)
_EDGE = 192
"""Pixels of a view in the picture, about."""
_BLANK = 64
"""Edge of a view where nothing was rendered."""

Folders = Mapping[tuple[str, str, int], Path]
"""Of the runs, by prompt, arm and seed."""


def write_report(output: Path, rows: Sequence[Row], folders: Folders, *, with_fid: bool) -> str:
    """Write results.md, results.csv and objects.png.

    Args:
        output: The folder.
        rows: One for each run, as many for every prompt and arm.
        folders: Of the runs.
        with_fid: Whether FID has a column.

    Returns:
        The tables in markdown.
    """
    columns = [column for column in MEASURES if with_fid or column.key != "fid"]
    text = markdown(rows, columns)
    for name, content in (("results.md", text), ("results.csv", as_csv(rows, columns))):
        write_text(output / name, content)
    _save_objects(output / "objects.png", rows, folders)
    return text


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A table for each prompt, an arm a line: mean and sample deviation of the runs.

    Failed runs count among runs and failures, and are listed with their reasons; they have no
    measures, so read the means beside their number. With several prompts a table of all is last.
    """
    prompts, arms = _different(rows, "prompt"), _different(rows, "arm")
    parts = []
    for prompt in prompts:
        mine = [row for row in rows if row["prompt"] == prompt]
        parts.append(f"### {prompt}\n\n{_table(mine, arms, columns)}")
    if len(prompts) > 1:
        parts.append(f"### All prompts\n\n{_table(rows, arms, columns)}")
    failed = [row for row in rows if row["failure"] is not None]
    if failed:
        lines = (
            f"- {row['prompt']}, {row['arm']}, seed {row['seed']}: {row['failure']}\n"
            for row in failed
        )
        parts.append(f"### Failures\n\n{''.join(lines)}")
    return "\n".join(parts)


def _table(rows: Sequence[Row], arms: Sequence[str], columns: Sequence[Column]) -> str:
    # A table averages what rows hold: the number of failures stands in one row of an arm.
    first = {row["arm"]: index for index, row in reversed(list(enumerate(rows)))}
    counted = [
        {**row, "failures": _failures(rows, row["arm"])} if first[row["arm"]] == index else row
        for index, row in enumerate(rows)
    ]
    return Table(counted, arms, (_FAILURES, *columns), count="runs").markdown()


def as_csv(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A line for each prompt and arm, unrounded: runs, failures, means and sample deviations."""
    keys = ["prompt", "arm", "runs", "failures"]
    keys += [key for column in columns for key in (column.key, f"{column.key}_deviation")]
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    arms = _different(rows, "arm")
    for prompt in _different(rows, "prompt"):
        mine = [row for row in rows if row["prompt"] == prompt]
        table = Table(mine, arms, columns)
        for arm in arms:
            runs = sum(row["arm"] == arm for row in mine)
            line: Row = {"prompt": prompt, "arm": arm, "runs": runs}
            line["failures"] = _failures(mine, arm)
            for column in columns:
                values = table.values(arm, column)
                line[column.key] = fmean(values) if values else None
                line[f"{column.key}_deviation"] = stdev(values) if len(values) > 1 else None
            writer.writerow(line)
    return text.getvalue()


def _failures(rows: Sequence[Row], arm: str) -> int:
    return sum(row["failure"] is not None for row in rows if row["arm"] == arm)


def _different(rows: Sequence[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _save_objects(path: Path, rows: Sequence[Row], folders: Folders) -> None:
    """Two rows for each prompt: the true object, then one view of each run, in colour and lit."""
    lines = []
    for prompt in _different(rows, "prompt"):
        mine = [row for row in rows if row["prompt"] == prompt]
        colour, lit = label_columns(_shown(prompt, mine, folders))
        lines += [colour, lit[:, LABEL_HEIGHT:]]
    write_image(path, to_bytes(torch.cat(lines, dim=1)))


def _shown(
    prompt: str, rows: Sequence[Row], folders: Folders
) -> dict[str, Float[Tensor, "2 3 h h"]]:
    """The pictures of a prompt, in colour and lit, by their labels, all of one size."""
    size = _size(folders)
    blank = torch.full((2, 3, size, size), 0.8)
    views = (
        {prompt: _true_pictures(prompt, size)} if knows(prompt) else {f"{prompt} (no truth)": blank}
    )
    for row in rows:
        label, failed = f"{row['arm']}, seed {row['seed']}", row["failure"] is not None
        folder = folders[row["prompt"], row["arm"], row["seed"]]
        views[f"{label}: failed" if failed else label] = blank if failed else _pictures(folder)
    return {label: enlarge(view, edge=_EDGE) for label, view in views.items()}


def _true_pictures(prompt: str, size: int) -> Float[Tensor, "2 3 h h"]:
    looks = (
        true_views(prompt, size=size, supersample=3, ambient=ambient) for ambient in (1.0, AMBIENT)
    )
    return torch.stack([look.image01[SHOWN] for look in looks])


def _pictures(folder: Path) -> Float[Tensor, "2 3 h h"]:
    """A run's."""
    kept = (sorted_pictures(folder / look)[SHOWN] for look in (COLOUR, LIT))
    return torch.cat([to_01(read_image(path)[0][None]) for path in kept])


def _size(folders: Folders) -> int:
    """Edge of the views; all runs of a folder have one."""
    kept = (folder / COLOUR for folder in folders.values() if (folder / COLOUR).is_dir())
    first = next(kept, None)
    return _BLANK if first is None else read_image(sorted_pictures(first)[0])[0].shape[0]
