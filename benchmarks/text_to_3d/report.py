"""Tables and a picture of what text-to-3D runs made."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.engine.pictures import kept_frames
from benchmarks.engine.tables import paired_markdown
from benchmarks.engine.trials import Store
from benchmarks.text_to_3d.object_truth import AMBIENT, knows, true_views
from benchmarks.text_to_3d.views import COLOUR, LIT
from csd_nerf.evaluation.measures import named
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import write_text
from csd_nerf.media.images import write_image
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.media.sheets import LABEL_HEIGHT, enlarge, label_columns

SHOWN = 1
"""Index of the view in the picture: 30 degrees from the front, so that three sides are seen."""
MEASURES = (
    Column("overlap", "silhouette overlap", digits=3, better="higher"),
    Column("colour_distance", "colour distance", digits=3, better="lower"),
    Column("clip_colour", "CLIP similarity, colour", digits=3, better="higher"),
    Column("clip_geometry", "CLIP similarity, geometry", digits=3, better="higher"),
    *named("fid"),
)
_FAILURES = Column("failures", "failures", digits=0)
_EDGE = 192
"""Pixels of a view in the picture, about."""
_BLANK = 64
"""Edge of a view where nothing was rendered."""


def write_report(store: Store, rows: Sequence[Row], *, with_fid: bool) -> str:
    """Write results.md, results.csv and objects.png.

    Args:
        store: Where the runs are.
        rows: One for each run, as many for every prompt and arm.
        with_fid: Whether FID has a column.

    Returns:
        The tables in markdown.
    """
    columns = [column for column in MEASURES if with_fid or column.key != "fid"]
    text = markdown(rows, columns)
    for name, content in (("results.md", text), ("results.csv", as_csv(rows, columns))):
        write_text(store.output / name, content)
    _save_objects(store, rows)
    return text


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A table for each prompt, an arm a line: mean and sample deviation of the runs.

    Failed runs count among runs and failures, and are listed with their reasons; they have no
    measures, so read the means beside their number. With several prompts a table of all is last.
    Differences to the first arm are of equal prompts and seeds. Errors are over prompts, and over
    seeds where there is one prompt: they then say nothing about other prompts.
    """
    prompts, arms = _different(rows, "prompt"), _different(rows, "arm")
    parts = []
    for prompt in prompts:
        mine = [row for row in rows if row["prompt"] == prompt]
        parts.append(f"### {prompt}\n\n{_table(mine, arms, columns, unit='seed')}")
    if len(prompts) > 1:
        parts.append(f"### All prompts\n\n{_table(rows, arms, columns, unit='prompt')}")
    unit = "prompt" if len(prompts) > 1 else "seed"
    if paired := paired_markdown(rows, arms, columns, baseline=arms[0], unit=unit):
        parts.append(f"### Paired differences\n\n{paired}")
    failed = [row for row in rows if row["failure"] is not None]
    if failed:
        lines = (
            f"- {row['prompt']}, {row['arm']}, seed {row['seed']}: {row['failure']}\n"
            for row in failed
        )
        parts.append(f"### Failures\n\n{''.join(lines)}")
    return "\n".join(parts)


def _table(
    rows: Sequence[Row], arms: Sequence[str], columns: Sequence[Column], *, unit: str
) -> str:
    # A table averages what rows hold: the number of failures stands in one row of an arm.
    first = {row["arm"]: index for index, row in reversed(list(enumerate(rows)))}
    counted = [
        {**row, "failures": _failures(rows, row["arm"])} if first[row["arm"]] == index else row
        for index, row in enumerate(rows)
    ]
    return Table(counted, arms, (_FAILURES, *columns), count="runs", unit=unit).markdown()


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


def _save_objects(store: Store, rows: Sequence[Row]) -> None:
    """Two rows for each prompt: the true object, then one view of each run, in colour and lit."""
    pictures = [None if row["failure"] else _pictures(store.folder(row["trial"])) for row in rows]
    size = next((views.shape[-1] for views in pictures if views is not None), _BLANK)
    blank = torch.full((2, 3, size, size), 0.8)
    lines = []
    for prompt in _different(rows, "prompt"):
        known = knows(prompt)
        shown = {prompt if known else f"{prompt} (no truth)": blank}
        if known:
            shown[prompt] = _true_pictures(prompt, size)
        for row, views in zip(rows, pictures, strict=True):
            if row["prompt"] == prompt:
                label = f"{row['arm']}, seed {row['seed']}"
                shown[f"{label}: failed" if views is None else label] = (
                    blank if views is None else views
                )
        columns = {label: enlarge(views, edge=_EDGE) for label, views in shown.items()}
        colour, lit = label_columns(columns)
        lines += [colour, lit[:, LABEL_HEIGHT:]]
    write_image(store.output / "objects.png", to_bytes(torch.cat(lines, dim=1)))


def _true_pictures(prompt: str, size: int) -> Float[Tensor, "2 3 h h"]:
    looks = (
        true_views(prompt, size=size, supersample=3, ambient=ambient) for ambient in (1.0, AMBIENT)
    )
    return torch.stack([look.image01[SHOWN] for look in looks])


def _pictures(folder: Path) -> Float[Tensor, "2 3 h h"]:
    """A run's."""
    return to_01(torch.stack([kept_frames(folder / look)[SHOWN] for look in (COLOUR, LIT)]))
