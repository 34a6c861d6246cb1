"""Reports of experiments: our numbers and the paper's in tables and plots, with notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.paper.experiment import Experiment, Line
from benchmarks.paper.setup import Setup
from csd_nerf.evaluation.measures import named
from csd_nerf.evaluation.plots import save_bars, save_curves
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import write_text

(PSNR,) = named("psnr_edited")


def write_report(setup: Setup, rows: Sequence[Row]) -> str:
    """Write the report as .md, .tex, .csv and .png, named after the experiment.

    Args:
        setup: The experiment and its settings.
        rows: A row for each line and input.

    Returns:
        The table with its notes, in markdown.
    """
    experiment = setup.experiment
    rows = with_ratios(experiment, rows)
    columns = experiment.columns
    if any(PSNR.key in row for row in rows):
        columns = (*columns, PSNR)
    table = beside_paper(experiment, rows, columns)
    notes = _notes(setup, rows)
    lines = [f"## {experiment.title}", "", table.markdown(), *(f"- {note}" for note in notes)]
    path = setup.settings.output / setup.settings.experiment
    write_text(path.with_suffix(".md"), "\n".join(lines))
    write_text(path.with_suffix(".tex"), table.latex() + "".join(f"% {note}\n" for note in notes))
    write_text(path.with_suffix(".csv"), Table(rows, [], columns, by="line").csv())
    if any(line.curve for line in experiment.lines):
        _save_curves(path.with_suffix(".png"), setup, rows)
    else:
        _save_bars(path.with_suffix(".png"), table)
    return "\n".join(lines)


def beside_paper(experiment: Experiment, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """A table with two lines for each line of the experiment: our numbers and the paper's."""
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
    """Add to each row its ratio to the row of the line `relative_to` on the same input."""
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


def _notes(setup: Setup, rows: Sequence[Row]) -> list[str]:
    experiment = setup.experiment
    inputs = len({row["input"] for row in rows})
    notes = [f"Means ± deviations over {inputs} inputs; lines of the paper carry (paper)."]
    if setup.settings.tiny:
        notes.append(
            "Tiny: synthetic inputs, the bundled prior and its own settings. The numbers show "
            "that the experiment runs and can't be compared with the paper's."
        )
        instead = [text for line in experiment.lines if (text := _in_place(line))]
        if instead:
            notes.append(f"Tiny: in place of what the lines name: {'; '.join(instead)}.")
    for reason, heads in setup.left_out.items():
        notes.append(f"{', '.join(sorted(heads))} left out: {reason}")
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
    notes += [f"From the paper's own: {text}" for text in experiment.follows]
    return notes + [f"Ours: {text}" for text in experiment.ours]


def _deviations(experiment: Experiment) -> Iterable[str]:
    for line in experiment.lines:
        given = [
            f"{column.heading} ± {line.paper[column.key][1]}"
            for column in experiment.columns
            if line.paper.get(column.key, (0, None))[1] is not None
        ]
        if given:
            yield f"{line.name} {', '.join(given)}"


def _save_curves(path: Path, setup: Setup, rows: Sequence[Row]) -> None:
    """Plot CLIP similarities as in the paper; without CLIP, the PSNR to the truth over w_y."""
    judged = any("clip_direction" in row for row in rows)
    key = "clip_direction" if judged else PSNR.key
    if not any(key in row for row in rows):
        return
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for line in setup.experiment.lines:
        mine = [row for row in rows if row["line"] == line.name and key in row]
        values = [row[key] for row in mine]
        place = (
            fmean(row["clip_source"] for row in mine)
            if judged
            else (line.tiny if setup.settings.tiny else line.options)["text_scale"]
        )
        curves.setdefault(line.curve or line.name, []).append((place, *_spread(values)))
    save_curves(
        path,
        curves,
        x="CLIP image similarity" if judged else "w_y",
        y="CLIP directional similarity" if judged else PSNR.heading,
    )


def _save_bars(path: Path, table: Table) -> None:
    panels = []
    for column in table.columns:
        bars = [_spread(table.values(name, column)) for name in table.names]
        if not all(math.isnan(mean) for mean, _ in bars):
            panels.append((column.heading, bars))
    if panels:
        save_bars(path, table.names, panels)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, 0.0
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def _in_place(line: Line) -> str:
    """The settings of --tiny that differ from the paper's, for the notes; empty if none do."""
    given = line.options
    changed = [f"{k} {v}" for k, v in line.tiny.items() if k in given and v != given[k]]
    if line.tiny_size is not None:
        changed.append(f"{line.tiny_size[1]}x{line.tiny_size[0]} pixels")
    return f"{line.name}: {', '.join(changed)}" if changed else ""
