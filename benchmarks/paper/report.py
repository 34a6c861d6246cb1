"""Ours beside the paper's numbers: tables, plots and the notes that belong to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.paper.paper import Experiment, Line
from benchmarks.paper.settings import ReproduceSettings
from csd_nerf.evaluation.plots import save_bars, save_curves
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import write_text

PSNR = Column("psnr", "PSNR to the truth, dB", better="higher")

_NETWORKS = {
    "CLIP": ("clip_direction", "clip_consistency", "clip_source", "clip_colour", "clip_geometry"),
    "LPIPS": ("frame_lpips",),
    "Inception": ("fid",),
}
"""Columns that need a network's weights."""


def write_report(
    output: Path,
    experiment: Experiment,
    settings: ReproduceSettings,
    rows: Sequence[Row],
    missing: Mapping[str, str],
) -> str:
    """Write table.md, table.tex, rows.csv and plot.png.

    Args:
        output: The experiment's folder.
        experiment: What was run.
        settings: As whom it was asked for.
        rows: A row for each line and input.
        missing: Networks that could not be had, and why.

    Returns:
        The table with its notes, in markdown.
    """
    rows = with_ratios(experiment, rows)
    columns = experiment.columns
    if any("psnr" in row for row in rows):
        columns = (*columns, PSNR)
    table = beside_paper(experiment, rows, columns)
    notes = _notes(experiment, settings, rows, missing)
    lines = [f"## {experiment.title}", "", table.markdown(), *(f"- {note}" for note in notes)]
    write_text(output / "table.md", "\n".join(lines))
    write_text(output / "table.tex", table.latex() + "".join(f"% {note}\n" for note in notes))
    write_text(output / "rows.csv", Table(rows, [], columns, by="line").csv())
    if any(line.curve for line in experiment.lines):
        _save_curves(output / "plot.png", experiment, settings, rows)
    else:
        _save_bars(output / "plot.png", table)
    return "\n".join(lines)


def beside_paper(experiment: Experiment, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """A table with two lines for each of the experiment's: ours, and what the paper measured."""
    paper = [
        {"line": _of_paper(line), **{key: mean for key, (mean, _) in line.paper.items()}}
        for line in experiment.lines
        if line.paper
    ]
    printed = {row["line"] for row in (*rows, *paper)}
    names = [name for line in experiment.lines for name in (line.name, _of_paper(line))]
    return Table(
        [*rows, *with_ratios(experiment, paper, name_of=_of_paper)],
        [name for name in names if name in printed],
        columns,
        by="line",
        count=None,
        references=[row["line"] for row in paper],
    )


def _of_paper(line: Line) -> str:
    return f"{line.name} (paper)"


def with_ratios(
    experiment: Experiment, rows: Sequence[Row], *, name_of=lambda line: line.name
) -> list[Row]:
    """Add to each row its ratio to the line that it is compared with, on the same input."""
    key = experiment.ratio_of
    if key is None:
        return list(rows)
    base = {
        name_of(line): name_of(other)
        for line in experiment.lines
        for other in experiment.lines
        if line.relative_to == other.name
    }
    values = {(row["line"], row.get("input")): row.get(key) for row in rows}

    def ratio(row: Row) -> Row:
        other = values.get((base.get(row["line"], ""), row.get("input")))
        if other is None or row.get(key) is None:
            return row
        return {**row, "ratio": row[key] / other}

    return [ratio(row) for row in rows]


def _notes(
    experiment: Experiment,
    settings: ReproduceSettings,
    rows: Sequence[Row],
    missing: Mapping[str, str],
) -> list[str]:
    keys = {column.key for column in experiment.columns}
    inputs = len({row["input"] for row in rows})
    notes = [f"Means ± deviations over {inputs} inputs; lines of the paper carry (paper)."]
    if settings.tiny:
        notes.append(
            "Tiny: synthetic inputs, the bundled prior and its own settings. The numbers show "
            "that the experiment runs and can't be compared with the paper's."
        )
        instead = [text for line in experiment.lines if (text := _in_place(line))]
        if instead:
            notes.append(f"Tiny: in place of what the lines name: {'; '.join(instead)}.")
    for network, needed in _NETWORKS.items():
        if network in missing and (left_out := keys.intersection(needed)):
            heads = [column.head for column in experiment.columns if column.key in left_out]
            notes.append(f"{', '.join(heads)} left out: {missing[network]}")
    ran = {row["line"] for row in rows}
    absent = [line.peer for line in experiment.lines if line.peer and line.name not in ran]
    if absent:
        notes.append(
            f"No results of {', '.join(absent)} were given; add --peer NAME=DIR with a file or "
            "folder of frames for each input."
        )
    spread = list(_deviations(experiment))
    if spread:
        notes.append(f"The paper's deviations: {'; '.join(spread)}.")
    return notes + [f"Ours: {text}" for text in experiment.ours]


def _deviations(experiment: Experiment) -> Iterable[str]:
    for line in experiment.lines:
        given = [
            f"{column.head} ± {line.paper[column.key][1]}"
            for column in experiment.columns
            if line.paper.get(column.key, (0, None))[1] is not None
        ]
        if given:
            yield f"{line.name} {', '.join(given)}"


def _save_curves(
    path: Path, experiment: Experiment, settings: ReproduceSettings, rows: Sequence[Row]
) -> None:
    """CLIP similarities as in the paper; without CLIP, the distance to the truth by w_y."""
    judged = any("clip_direction" in row for row in rows)
    if not judged and not any("psnr" in row for row in rows):
        return
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for line in experiment.lines:
        mine = [row for row in rows if row["line"] == line.name]
        values = [row["clip_direction" if judged else "psnr"] for row in mine]
        place = (
            fmean(row["clip_source"] for row in mine)
            if judged
            else (line.tiny if settings.tiny else line.options)["text_scale"]
        )
        curves.setdefault(line.curve or line.name, []).append((place, *_spread(values)))
    save_curves(
        path,
        curves,
        x="CLIP image similarity" if judged else "w_y",
        y="CLIP directional similarity" if judged else PSNR.head,
    )


def _save_bars(path: Path, table: Table) -> None:
    panels = []
    for column in table.columns:
        bars = [_spread(table.values(name, column)) for name in table.names]
        if not all(math.isnan(mean) for mean, _ in bars):
            panels.append((column.head, bars))
    if panels:
        save_bars(path, table.names, panels)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, 0.0
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def _in_place(line: Line) -> str:
    """What --tiny sets where a line's name tells the paper's settings; empty if it tells none."""
    given = line.options
    changed = [f"{k} {v}" for k, v in line.tiny.items() if k in given and v != given[k]]
    if line.tiny_size is not None:
        changed.append(f"{line.tiny_size[1]}x{line.tiny_size[0]} pixels")
    return f"{line.name}: {', '.join(changed)}" if changed else ""
