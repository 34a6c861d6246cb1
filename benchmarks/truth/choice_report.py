"""Tables and pictures of the benchmark of choices, beside those of all domains."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.engine.pictures import kept_frames
from benchmarks.engine.tables import paired_markdown
from benchmarks.engine.trials import Store, Trial
from benchmarks.truth.choice_scores import CHOICE_COLUMNS, VARIETY_COLUMNS, variety
from benchmarks.truth.domains import Arm
from benchmarks.truth.report import EDITED
from benchmarks.worlds.choices import ChoiceSet
from csd_nerf.evaluation.tables import Row, Table
from csd_nerf.media.files import write_text
from csd_nerf.media.pixels import to_01
from csd_nerf.media.sheets import enlarge, save_rows

ENLARGED = 2
"""Factor by which pictures are enlarged in a sheet."""


def write_choice_report(
    store: Store,
    inputs: Sequence[ChoiceSet],
    arms: Sequence[Arm],
    trials: Sequence[Trial],
    *,
    baseline: str,
) -> str:
    """Write media.md, variety.md and, in the folder sheets, a picture of each input.

    All are of the first trial's budget.

    A sheet has a labelled row for the source, for each answer and for each arm with its first seed;
    its columns are the images. With several media there is a table of scores for each.

    Returns:
        The contents of media.md and variety.md, in one text.
    """
    budget = trials[0].labels["budget"]
    first = [trial for trial in trials if trial.labels["budget"] == budget]
    rows = [row for trial in first if (row := store.row(trial)) is not None]
    methods = [arm.name for arm in arms if arm.method is not None]
    tables = variety_markdown(rows, methods)
    write_text(store.output / "variety.md", tables)
    media = list(dict.fromkeys(given.medium for given in inputs))
    if len(media) > 1:
        by_medium = "\n".join(_medium_markdown(rows, one, arms, baseline) for one in media)
        write_text(store.output / "media.md", by_medium)
        tables = f"{by_medium}\n{tables}"
    for given in inputs:
        save_input_sheet(store, given, methods, first)
    return tables


def variety_markdown(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """A table of how the common answer varies over the seeds of an input, mean over the inputs."""
    found: list[Row] = []
    for name in methods:
        by_input: dict[str, list[str]] = {}
        for row in rows:
            if row["arm"] == name:
                by_input.setdefault(row["input"], []).append(row["answer"])
        found += [
            {"arm": name, "input": given, **variety(answers)} for given, answers in by_input.items()
        ]
    return Table(found, methods, VARIETY_COLUMNS).markdown()


def save_input_sheet(
    store: Store, given: ChoiceSet, names: Sequence[str], trials: Sequence[Trial]
) -> None:
    """Write the sheet of an input; see `write_choice_report`."""
    pictures = {"source": given.source01}
    for answer, truth01 in zip(given.answers, given.truths01, strict=True):
        pictures[answer] = truth01
    for trial in trials:
        labels = trial.labels
        mine = labels["input"] == given.name and labels["seed"] == 0
        if mine and labels["arm"] in names and store.row(trial) is not None:
            pictures[labels["arm"]] = to_01(kept_frames(store.folder(trial) / EDITED))
    path = store.output / "sheets" / f"{given.name.replace(' ', '_')}.png"
    path.parent.mkdir(exist_ok=True)
    edge = ENLARGED * max(given.source.shape[1:3])
    save_rows(path, {name: enlarge(images, edge=edge) for name, images in pictures.items()})


def _medium_markdown(rows: Sequence[Row], medium: str, arms: Sequence[Arm], baseline: str) -> str:
    mine = [row for row in rows if row["medium"] == medium]
    references = [arm.name for arm in arms if arm.method is None]
    names = [arm.name for arm in arms]
    table = Table(mine, names, CHOICE_COLUMNS, count="runs", references=references)
    methods = [name for name in names if name not in references]
    paired = paired_markdown(mine, methods, CHOICE_COLUMNS, baseline=baseline)
    return f"{medium}\n\n{table.markdown()}" + (f"\n{paired}" if paired else "")
