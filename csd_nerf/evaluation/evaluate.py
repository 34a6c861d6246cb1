"""Runs `csd-nerf evaluate`: measures one or more edits of one source."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csd_nerf.adapters.fingerprints import versions
from csd_nerf.evaluation.comparison import Comparison
from csd_nerf.evaluation.inputs import ImageSequence, open_input, read_facts
from csd_nerf.evaluation.measures import MEASURES, measure
from csd_nerf.evaluation.needs import SAME_SIZES
from csd_nerf.evaluation.networks import Networks
from csd_nerf.evaluation.options import EvaluateSettings
from csd_nerf.evaluation.plots import save_bars
from csd_nerf.evaluation.tables import Table
from csd_nerf.media.files import check_results, check_writable, write_json, write_text
from csd_nerf.priors.devices import find_device
from csd_nerf.synthetic.edits import Edit, find_edit

_PACKAGES = ("csd_nerf", "torch", "torchvision", "scikit-image", "lpips", "open_clip_torch")
_BESIDE = (".csv", ".md", ".tex", ".png")
"""Suffixes of the files beside the results."""
_DIGITS = 5
"""Decimal places of the values in the JSON file."""


def run_evaluate(settings: EvaluateSettings, *, note: Callable[[str], None]) -> str:
    """Measure edits, and write the results as .json, .csv, .md, .tex and .png.

    Args:
        settings: The settings. The plot (.png) shows the measures with a better direction.
        note: Called with one line for each network that can't be loaded, and for each difference of
            sizes, because of which measures are left out.

    Returns:
        The table in markdown.

    Raises:
        ValueError: If an option is wrong, or the inputs don't fit each other.
        FileNotFoundError: If an input is missing.
        FileExistsError: If there are files already, and they are not to be replaced or not ours.
    """
    output = settings.output
    inputs = [settings.source, settings.truth, *(path for _, path in settings.edits)]
    check_results(
        output,
        [output.with_suffix(suffix) for suffix in _BESIDE],
        fields={"settings", "versions", "runs"},
        overwrite=settings.overwrite,
        inputs=[path for path in inputs if path is not None],
    )
    check_writable(output)
    results = evaluate(settings, note=note)
    rows = [{"run": name} | run["values"] for name, run in results["runs"].items()]
    columns = [column for column in MEASURES if any(column.key in row for row in rows)]
    names = [row["run"] for row in rows]
    table = Table(rows, names, columns, by="run", count=None)
    judged = [column for column in columns if column.better]
    if judged:
        panels = [
            (
                column.heading,
                [(row.get(column.key, math.nan) * column.scale, 0.0) for row in rows],
            )
            for column in judged
        ]
        save_bars(output.with_suffix(".png"), names, panels)
    texts = {".csv": table.csv(), ".md": table.markdown(), ".tex": table.latex()}
    for suffix, text in texts.items():
        write_text(output.with_suffix(suffix), text)
    write_json(output, results)
    return table.markdown()


def evaluate(settings: EvaluateSettings, *, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure edits; see `run_evaluate`.

    Returns:
        `settings`, `versions`, and `runs`. `runs` holds for each edit's name its path `edited`, the
        number of `frames`, `size` (width, height), `values` by the keys of `MEASURES`, and
        `left_out`, the reasons by the keys of the measures that were left out.
    """
    find_device(settings.device)
    networks = Networks(
        clip=settings.clip,
        reference=settings.reference,
        inception=settings.inception,
        device=settings.device,
        note=note,
    )
    results = {}
    comparisons = _comparisons(settings, networks)
    for (name, path), comparison in zip(settings.edits, comparisons, strict=True):
        for need in SAME_SIZES:
            if reason := need(comparison):
                note(f"{name}: what compares their pixels is left out: {reason}")
        values, left_out = measure(comparison)
        results[name] = {
            "edited": str(path),
            "frames": comparison.edited.count,
            "size": list(comparison.edited.size[::-1]),
            "values": {key: round(value, _DIGITS) for key, value in values.items()},
            "left_out": left_out,
        }
    return {
        "settings": json.loads(json.dumps(dataclasses.asdict(settings), default=str)),
        "versions": versions(_PACKAGES),
        "runs": results,
    }


def _comparisons(settings: EvaluateSettings, networks: Networks) -> list[Comparison]:
    """Open all inputs, and check that source, edits and truth have the same number of frames.

    If the record of an edit says that only some frames of a video were edited, the same frames of
    the source are taken.
    """

    @functools.cache
    def source(frames: str) -> ImageSequence:
        return open_input(settings.source, frames=frames, depth_unit=settings.depth_unit)

    look = None if settings.look is None else _find_look(settings.look)
    captions = None
    if settings.source_caption and settings.edited_caption:
        captions = (settings.source_caption, settings.edited_caption)
    comparisons = []
    for _, path in settings.edits:
        facts, edited = read_facts(path), open_input(path)
        given = source(str(facts.get("frames", "all")))
        _check_count("its source", given.count, edited.count, path)
        truth = look if settings.truth is None else open_input(settings.truth)
        if isinstance(truth, ImageSequence):
            _check_count("the truth", truth.count, edited.count, path)
        comparisons.append(
            Comparison(given, edited, networks, truth, captions, facts, settings.device)
        )
    return comparisons


def _find_look(text: str) -> Edit:
    edit = find_edit(text)
    if edit.kind != "look":
        raise ValueError(f"--look needs a look, which applies to any picture, got {edit.name!r}.")
    return edit


def _check_count(what: str, expected: int, count: int, path: Path) -> None:
    if count != expected:
        raise ValueError(
            f"An edit needs as many frames as {what}, {expected}, got {count} in {path}; give the "
            "frames that belong together."
        )
