"""All methods on panoramas and videos whose true edit is known: what `csd-nerf benchmark` runs.

Each arm edits the same held-out inputs, asked for in words that the bundled prior was trained on.
Arms that optimise have one budget of U-Net evaluations; those that sample need what they need.
What is tuned is tuned on the validation split.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from csd_nerf import priors
from csd_nerf.adapters.files import written_whole
from csd_nerf.core.windows import window_positions
from csd_nerf.evaluation.arms import (
    Arm,
    Input,
    Medium,
    arm_options,
    chosen_arms,
    draw_input,
    reference,
    run_arm,
)
from csd_nerf.evaluation.consistency import (
    border_psnr,
    extra_change,
    flicker,
    seam_step,
    window_borders,
)
from csd_nerf.evaluation.metrics import psnr
from csd_nerf.evaluation.pictures import enlarge, save_contact_sheet, to_uint8
from csd_nerf.priors.base import Prior
from csd_nerf.synthetic.scenes import Split

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    key: str
    """Of the rows' values."""
    head: str
    scale: int = 1
    digits: int = 1


_COSTS = (Column("evaluations", "evaluations", digits=0), Column("seconds", "seconds"))
COLUMNS: dict[Medium, tuple[Column, ...]] = {
    "panorama": (
        Column("psnr", "PSNR, dB"),
        Column("seam", "seams, 1/1000", 1000, 2),
        Column("border", "PSNR at the border"),
        Column("corners", "in the corners"),
        Column("interior", "in the interior"),
        Column("fewest_updates", "fewest updates of a cell, of the mean", 1, 2),
        *_COSTS,
    ),
    "video": (
        Column("psnr", "PSNR, dB"),
        Column("flicker", "flicker, 1/1000", 1000),
        Column("extra_change", "change beyond the source's, 1/1000", 1000),
        *_COSTS,
    ),
}
"""`csd_nerf.evaluation.consistency` defines the measures."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What decides a table."""

    medium: Medium
    split: Split = "benchmark"
    inputs: int = 12
    arms: tuple[str, ...] = ()
    """Names of the arms; all without names."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of all arms in place of the preset's, such as the learning rate."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.inputs < 1:
            raise ValueError(f"--inputs must be at least 1, got {self.inputs}.")
        chosen_arms(self.medium, self.arms)


def run_benchmark(output: Path, settings: BenchmarkSettings) -> str:
    """Run what is missing in `output`, and write the table.

    Args:
        output: Folder for benchmark.json, which grows by a row for each arm and input, table.md,
            sheet.png and the pictures. An interrupted run goes on; more inputs or arms are added.
        settings: What to run.

    Returns:
        The table.

    Raises:
        ValueError: If the folder holds a benchmark of other settings.
    """
    prior = priors.load("tiny")
    record = _opened(output, settings, prior)
    done = {(row["input"], row["arm"]) for row in record["rows"]}
    arms = chosen_arms(settings.medium, settings.arms)
    inputs = [draw_input(settings.medium, i, settings.split) for i in range(settings.inputs)]
    for given in inputs:
        _save_picture(_picture(output, given, "truth"), given.truth01)
        for arm in arms:
            if (given.name, arm.name) not in done:
                row, edited01 = measure_arm(settings, arm, prior, given)
                _save_picture(_picture(output, given, arm.name), edited01)
                record["rows"].append(row)
                _write(output / "benchmark.json", json.dumps(record, indent=1))
                print(_told(row, COLUMNS[settings.medium]), flush=True)
    names = [arm.name for arm in arms]
    _save_sheet(output, inputs, [*names, "truth"])
    text = table(record["rows"], names, COLUMNS[settings.medium])
    _write(output / "table.md", text)
    return text


def _opened(output: Path, settings: BenchmarkSettings, prior: Prior) -> dict[str, Any]:
    """The record of what was run in a folder before, or a new one."""
    arms = chosen_arms(settings.medium, settings.arms)
    values = {
        arm.name: dataclasses.asdict(arm_options(settings.medium, arm, prior, settings.options))
        for arm in arms
        if arm.method is not None
    }
    now = {"medium": settings.medium, "split": settings.split}
    path = output / "benchmark.json"
    (output / "pictures").mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        return {"settings": now, "arms": values, "rows": []}
    record = json.loads(path.read_text())
    before = {**record["settings"], **{n: record["arms"].get(n, v) for n, v in values.items()}}
    wanted = json.loads(json.dumps({**now, **values}))
    different = [name for name in wanted if wanted[name] != json.loads(json.dumps(before[name]))]
    if different:
        raise ValueError(
            f"{output} holds a benchmark with other settings of {', '.join(different)}; "
            "name another --output."
        )
    return {**record, "arms": {**record["arms"], **values}}


def measure_arm(
    settings: BenchmarkSettings, arm: Arm, prior: Prior, given: Input
) -> tuple[Row, Float[Tensor, "n 3 h w"]]:
    """Run an arm on an input, and measure the result against the truth."""
    facts: dict[str, Any] = {}
    stride = None
    began = time.perf_counter()
    if arm.method is None:
        edited01 = reference(prior, arm.name, given)
    else:
        options = arm_options(settings.medium, arm, prior, settings.options)
        stride = getattr(options, "stride", None)
        edited01, facts = run_arm(prior, given, options)
    seconds = time.perf_counter() - began
    row: Row = {"input": given.name, "edit": given.edit.name, "arm": arm.name}
    row["psnr"] = psnr(edited01, given.truth01)
    if settings.medium == "panorama":
        row |= measure_panorama(prior, edited01[0], given.truth01[0], stride=stride)
    else:
        row["flicker"] = flicker(edited01, given.truth01)
        row["extra_change"] = extra_change(edited01, given.source01)
    if (updates := facts.get("updates_per_cell")) is not None and settings.medium == "panorama":
        row["fewest_updates"] = updates["min"] / updates["mean"]
    return row | {"seconds": seconds, "evaluations": facts.get("evaluations", 0)}, edited01


def measure_panorama(
    prior: Prior,
    edited01: Float[Tensor, "3 H W"],
    truth01: Float[Tensor, "3 H W"],
    *,
    stride: int | None = None,
) -> dict[str, float]:
    """Seams and PSNR by place; the border is as wide as a step from window to window.

    Args:
        prior: Whose windows were used.
        edited01: The edit.
        truth01: The true edit.
        stride: Cells between windows; None means a quarter of a window, as the method's default.
    """
    cell, extent = prior.cell_size, prior.preferred_size // prior.cell_size
    canvas, window = (truth01.shape[1] // cell, truth01.shape[2] // cell), (extent, extent)
    positions = window_positions(canvas, window, stride=stride or extent // 4)
    borders = window_borders(positions, window, canvas, cell_size=cell)
    places = border_psnr(edited01, truth01, margin=extent // 4 * cell)
    seam = seam_step(edited01, truth01, borders, period=cell)
    return {"seam": seam, **dataclasses.asdict(places)}


def table(rows: Sequence[Row], arms: Sequence[str], columns: Sequence[Column]) -> str:
    """Markdown: mean and standard deviation over the inputs, an arm a line."""
    head = f"| method | inputs | {' | '.join(column.head for column in columns)} |\n"
    lines = [head, f"{'| --- ' * (2 + len(columns))}|\n"]
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        cells = [_mean_and_deviation([r[c.key] for r in mine if c.key in r], c) for c in columns]
        lines.append(f"| {arm} | {len(mine)} | {' | '.join(cells)} |\n")
    return "".join(lines)


def _mean_and_deviation(values: Sequence[float | int], column: Column) -> str:
    if not values:
        return ""
    scaled = [value * column.scale for value in values]
    numbers = [fmean(scaled), *([stdev(scaled)] if len(scaled) > 1 else [])]
    return " ± ".join(f"{number:.{column.digits}f}" for number in numbers)


def _told(row: Row, columns: Sequence[Column]) -> str:
    """One line for the terminal."""
    values = (f"{c.key} {row[c.key] * c.scale:.{c.digits}f}" for c in columns if c.key in row)
    return f"{row['input']}, {row['arm']}: {', '.join(values)}"


def _picture(output: Path, given: Input, name: str) -> Path:
    return output / "pictures" / f"{given.name} {name}.png".replace(" ", "_")


def _save_picture(path: Path, image01: Float[Tensor, "n 3 h w"]) -> None:
    """All frames, one below the other."""
    with written_whole(path) as partial:
        Image.fromarray(to_uint8(image01).flatten(0, 1).numpy()).save(partial)


def _save_sheet(output: Path, inputs: Sequence[Input], names: Sequence[str]) -> None:
    """First, middle and last frame of each input; a column a name."""

    def shown(given: Input, name: str) -> Tensor:
        pixels = torch.from_numpy(np.array(Image.open(_picture(output, given, name))))
        frames = pixels.view(given.source.shape).permute(0, 3, 1, 2).float() / 255
        n = len(frames)
        return enlarge(frames[sorted({0, n // 2, n - 1})], edge=128)

    columns = {name: torch.cat([shown(given, name) for given in inputs]) for name in names}
    save_contact_sheet(output / "sheet.png", columns)


def _write(path: Path, text: str) -> None:
    with written_whole(path) as partial:
        partial.write_text(text + "\n")
