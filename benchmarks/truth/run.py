"""All methods on inputs whose true edit is known: what `python -m benchmarks truth` runs.

Each arm edits the same held-out inputs, asked for in words that the bundled prior was trained on,
with one budget of U-Net evaluations. What is tuned is tuned on the validation split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from benchmarks.truth.arms import ABLATIONS, ARMS, MediaDomain
from benchmarks.truth.domains import Arm, Domain, Given, Job, chosen_arms
from benchmarks.truth.residuals import RESIDUAL_COLUMNS
from csd_nerf import priors
from csd_nerf.evaluation.plots import save_curves
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import write_json, write_text, written_whole
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.media.sheets import enlarge, save_contact_sheet
from csd_nerf.synthetic.scenes import Split

_COSTS = (Column("evaluations", "evaluations", digits=0), Column("seconds", "seconds"))


@dataclass(frozen=True)
class BenchmarkSettings:
    """What decides a table."""

    domain: Literal["scene", "panorama", "video"]
    split: Split = "benchmark"
    inputs: int = 12
    seeds: int = 1
    """Seeds with which each input is edited."""
    budgets: tuple[float, ...] = (1.0,)
    """U-Net evaluations of each arm, in those that csd makes by its preset; the table is of the
    first, curves of all."""
    arms: tuple[str, ...] = ()
    """Names of the arms; all without names."""
    ablations: bool = False
    """Whether csd and its ablations take the place of the usual arms."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of all arms in place of the preset's, such as the learning rate."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("inputs", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}.")
        if not self.budgets or not all(budget > 0 for budget in self.budgets):
            raise ValueError(f"--budgets must be positive numbers, got {self.budgets}.")


def run_benchmark(output: Path, settings: BenchmarkSettings) -> str:
    """Run what is missing in `output`, and write tables, plots and pictures.

    Args:
        output: Folder for benchmark.json, which grows by a row for each job, table.md, table.tex,
            rows.csv, curves where there are several budgets, residuals.md with the ablations of
            panoramas and videos, sheet.png and the pictures. An
            interrupted run goes on; more inputs, arms, seeds or budgets are added.
        settings: What to run.

    Returns:
        The table in markdown.

    Raises:
        ValueError: If the folder holds a benchmark of other settings, or an arm is unknown.
    """
    arms = chosen_arms(*_known_arms(settings), settings.arms, ablate=settings.ablations)
    domain = _domain(output, settings)
    jobs = [job for arm in arms for job in _jobs(arm, settings)]
    record = _opened(output, settings, domain, jobs)
    done = {_key(row) for row in record["rows"]}
    inputs: list[Given] = []
    for position in range(settings.inputs):
        given = domain.draw(position, settings.split)
        inputs.append(given)
        for job in jobs:
            named = {"input": given.name, "arm": job.arm.name, "budget": job.budget}
            named["seed"] = job.seed
            if _key(named) in done:
                continue
            outcome = domain.measure(job, given)
            row = {**named, "edit": given.edit.name, **outcome.row}
            if job.budget == settings.budgets[0] and job.seed == 0:
                _save_picture(_picture(output, given, job.arm.name), outcome.edited01)
                _save_picture(_picture(output, given, "truth"), outcome.truth01)
            record["rows"].append(row)
            write_json(output / "benchmark.json", record)
            print(_told(row, (*domain.columns, *_COSTS)), flush=True)
    _save_sheet(output, inputs, [*(arm.name for arm in arms), "truth"])
    if settings.ablations and isinstance(domain, MediaDomain):
        _residuals(output, domain, record, inputs)
    return _report(output, settings, domain, arms, record["rows"], inputs)


def _known_arms(settings: BenchmarkSettings) -> tuple[tuple[Arm, ...], tuple[Arm, ...]]:
    if settings.domain == "scene":
        from benchmarks.truth.scene_arms import SceneDomain

        return SceneDomain.arms, SceneDomain.ablations
    return ARMS[settings.domain], ABLATIONS[settings.domain]


def _domain(output: Path, settings: BenchmarkSettings) -> Domain:
    prior = priors.load("tiny")
    if settings.domain == "scene":
        from benchmarks.truth.scene_arms import SceneDomain

        return SceneDomain(output / "scenes", prior, settings.options)
    return MediaDomain(settings.domain, prior, settings.options)


def _jobs(arm: Arm, settings: BenchmarkSettings) -> Iterator[Job]:
    """All seeds at the first budget; one at the others, which make the curve."""
    if arm.method is None:
        yield Job(arm, settings.budgets[0])
        return
    for seed in range(settings.seeds):
        yield Job(arm, settings.budgets[0], seed)
    for budget in settings.budgets[1:]:
        yield Job(arm, budget)


def _key(row: Row) -> tuple[Any, ...]:
    return row["input"], row["arm"], row["budget"], row["seed"]


def _opened(
    output: Path, settings: BenchmarkSettings, domain: Domain, jobs: Sequence[Job]
) -> dict[str, Any]:
    """The record of what was run in a folder before, or a new one."""
    values = {f"{job.arm.name} x {job.budget:g}": domain.settings(job) for job in jobs[::-1]}
    # As JSON has them, so that those of a file compare equal.
    values = json.loads(json.dumps(values))
    now = {"domain": settings.domain, "split": settings.split}
    path = output / "benchmark.json"
    (output / "pictures").mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        return {"settings": now, "arms": values, "rows": []}
    record = json.loads(path.read_text())
    before = {**record["settings"], **{n: record["arms"].get(n, v) for n, v in values.items()}}
    wanted = {**now, **values}
    different = [name for name in wanted if wanted[name] != before[name]]
    if different:
        raise ValueError(
            f"{output} holds a benchmark with other settings of {', '.join(different)}; "
            "name another --output."
        )
    return {**record, "arms": {**record["arms"], **values}}


def _report(
    output: Path,
    settings: BenchmarkSettings,
    domain: Domain,
    arms: Sequence[Arm],
    rows: Sequence[Row],
    inputs: Sequence[Given],
) -> str:
    names = [arm.name for arm in arms]
    mine = [row for row in rows if row["arm"] in names]
    mine = [row for row in mine if row["input"] in {given.name for given in inputs}]
    table = Table(
        [row for row in mine if row["budget"] == settings.budgets[0]],
        names,
        (*domain.columns, *_COSTS),
        count="runs",
        references=[arm.name for arm in arms if arm.method is None],
    )
    text = table.markdown()
    write_text(output / "table.md", text)
    write_text(output / "table.tex", table.latex())
    write_text(output / "rows.csv", Table(mine, names, table.columns).csv())
    if len(settings.budgets) > 1:
        judged = {column.key: column for column in domain.columns}
        for key in ("psnr", domain.consistency):
            curves = {arm.name: _curve(mine, arm, judged[key]) for arm in arms if arm.method}
            save_curves(
                output / f"cost_{key}.png",
                curves,
                x="U-Net evaluations an input",
                y=judged[key].head,
                log_x=True,
            )
    return text


def _residuals(
    output: Path, domain: MediaDomain, record: dict[str, Any], inputs: Sequence[Any]
) -> None:
    """What csd and sds would still change at the true edit, in residuals.md."""
    rows: list[Row] = record.setdefault("residuals", [])
    done = {row["input"] for row in rows}
    for given in inputs:
        if given.name not in done:
            rows.extend(domain.residuals(given))
            write_json(output / "benchmark.json", record)
    names = [given.name for given in inputs]
    mine = [row for row in rows if row["input"] in names]
    write_text(output / "residuals.md", Table(mine, ["csd", "sds"], RESIDUAL_COLUMNS).markdown())


def _curve(rows: Sequence[Row], arm: Arm, column: Column) -> list[tuple[float, float, float]]:
    """Means over the inputs by budget; their deviation is that of the inputs, so it is left out."""
    by_budget: dict[float, list[Row]] = {}
    for row in rows:
        if row["arm"] == arm.name and row["seed"] == 0:
            by_budget.setdefault(row["budget"], []).append(row)
    return [
        (
            fmean(row["evaluations"] for row in same),
            fmean(row[column.key] for row in same) * column.scale,
            0.0,
        )
        for same in by_budget.values()
    ]


def _told(row: Row, columns: Sequence[Column]) -> str:
    """One line for the terminal."""
    values = (f"{c.key} {row[c.key] * c.scale:.{c.digits}f}" for c in columns if c.key in row)
    job = f"{row['arm']} x {row['budget']:g}, seed {row['seed']}"
    return f"{row['input']}, {job}: {', '.join(values)}"


def _picture(output: Path, given: Given, name: str) -> Path:
    return output / "pictures" / f"{given.name} {name}.png".replace(" ", "_")


def _save_picture(path: Path, image01: Float[Tensor, "n 3 h w"]) -> None:
    """All frames, one below the other."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("frames", str(len(image01)))
    with written_whole(path) as partial:
        Image.fromarray(to_bytes(image01).cpu().flatten(0, 1).numpy()).save(partial, pnginfo=info)


def _save_sheet(output: Path, inputs: Sequence[Given], names: Sequence[str]) -> None:
    """First, middle and last frame of each input; a column a name."""

    def shown(given: Given, name: str) -> Tensor:
        picture = Image.open(_picture(output, given, name))
        n = int(picture.info["frames"])
        pixels = torch.from_numpy(np.array(picture))
        frames = to_01(pixels.unflatten(0, (n, -1)))
        return enlarge(frames[sorted({0, n // 2, n - 1})], edge=128)

    columns = {name: torch.cat([shown(given, name) for given in inputs]) for name in names}
    save_contact_sheet(output / "sheet.png", columns)
