"""The experiments on panoramas and videos."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from benchmarks.paper.inputs import (
    Frames,
    Item,
    find_input,
    panorama_items,
    read_peer,
    resized,
    tiny_items,
    video_items,
)
from benchmarks.paper.paper import Experiment, Line
from benchmarks.paper.scores import Scorer
from benchmarks.paper.settings import ReproduceSettings, TinySize
from benchmarks.paper.store import Store, complete
from csd_nerf import priors
from csd_nerf.adapters.options import EditOptions, PanoramaOptions, VideoOptions
from csd_nerf.adapters.panorama import edit_panorama
from csd_nerf.adapters.video import edit_frames
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.pixels import to_01
from csd_nerf.priors.base import Prior
from csd_nerf.priors.halving import HalvingPrior

_COSTS = ("seconds", "rate", "ratio")
"""Columns that come from a run's facts instead of its pictures."""


def run_images(
    experiment: Experiment,
    settings: ReproduceSettings,
    store: Store,
    scorer: Scorer,
    size: TinySize,
) -> list[Row]:
    """Run what is missing, and measure all results.

    Returns:
        A row for each line and input, with the measures by the columns' keys.

    Raises:
        FileNotFoundError: If an input or a peer's result is missing.
        ValueError: If an input is not as it must be.
    """
    items = _items(experiment, settings, size)
    lines = [line for line in experiment.lines if line.method or line.peer in settings.peers]
    for line, item in itertools.product(lines, items):
        if line.method is None:
            find_input(settings.peers[line.peer or ""] / item.task.name)
    editor = _Editor(experiment, settings, size)
    rows: list[Row] = []
    for item in items:
        for line in lines:
            source = _brought_to_size(line, item.read(), settings, size)
            if line.method is None:
                edited, facts = read_peer(settings.peers[line.peer or ""], item, like=source), {}
            else:
                edited, facts = _kept_or_made(line, item, source, store, editor)
            rows.append(_scored(experiment, line, item, source, edited, facts, store, scorer))
            print(_told(rows[-1], experiment), flush=True)
    return rows


def _items(experiment: Experiment, settings: ReproduceSettings, size: TinySize) -> Sequence[Item]:
    if settings.tiny:
        return tiny_items(
            "panorama" if experiment.kind == "panorama" else "video",
            size.inputs or experiment.tiny_inputs,
        )
    assert settings.data is not None
    if experiment.kind == "video":
        return video_items(settings.data)
    return panorama_items(settings.data, experiment)


def _brought_to_size(
    line: Line, source: Frames, settings: ReproduceSettings, size: TinySize
) -> UInt8[Tensor, "n H W 3"]:
    wanted = line.tiny_size if settings.tiny else line.size
    if wanted is None:
        return source
    if settings.tiny:
        wanted = (wanted[0] // size.shrink, wanted[1] // size.shrink)
    return resized(source, wanted)


def line_options(
    experiment: Experiment, line: Line, prompt: str, settings: ReproduceSettings, size: TinySize
) -> PanoramaOptions | VideoOptions:
    """The options of a line's edits: its own over the preset's."""
    chosen: dict[str, Any] = {"prompt": prompt, "method": line.method, "device": settings.place}
    if settings.tiny:
        chosen |= {**line.tiny, **size.options, "preset": "tiny"}
    else:
        chosen |= {**line.options, "preset": settings.preset}
    return (PanoramaOptions if experiment.kind == "panorama" else VideoOptions)(**chosen)


def _kept_or_made(
    line: Line, item: Item, source: Frames, store: Store, editor: _Editor
) -> tuple[Frames, Row]:
    """A result that was kept, or a new one."""
    name = item.task.name
    if (kept := store.frames(line.name, name)) is not None:
        return kept, store.facts(line.name, name) or {}
    edited, facts = editor.edit(line, item.task.prompt, source)
    store.keep(line.name, name, edited, facts)
    return edited, facts


class _Editor:
    """Edits with one prior, which is loaded for the first edit."""

    def __init__(self, experiment: Experiment, settings: ReproduceSettings, size: TinySize) -> None:
        self._experiment, self._settings, self._size = experiment, settings, size
        self._prior: Prior | None = None
        self._warm: set[tuple[str | None, int]] = set()

    def edit(self, line: Line, prompt: str, source: Frames) -> tuple[Frames, Row]:
        """A line's result and the facts of its making."""
        options = line_options(self._experiment, line, prompt, self._settings, self._size)
        if self._prior is None:
            self._prior = _load_prior(options, self._settings.place)
        kind = (line.method, options.values().batch)
        if self._experiment.timed and kind not in self._warm:
            # What is done once, such as choosing kernels, is no part of an edit's time.
            _edit(self._prior, source, dataclasses.replace(options, iterations=1, steps=1))
            self._warm.add(kind)
        edited, facts = _edit(self._prior, source, options)
        facts["options"] = {
            key: value for key, value in dataclasses.asdict(options).items() if value is not None
        }
        return edited, facts


def _edit(prior: Prior, source: Frames, options: EditOptions) -> tuple[Frames, Row]:
    if isinstance(options, PanoramaOptions):
        result = edit_panorama(prior, source[0], options)
        return result.image[None], dict(result.facts)
    assert isinstance(options, VideoOptions)
    return edit_frames(prior, source, options)


def _load_prior(options: EditOptions, device: str) -> Prior:
    values = options.values()
    prior = priors.load(
        values.prior, device=device, dtype=values.dtype, vae_slicing=options.preset == "small"
    )
    return HalvingPrior(
        prior, max_batch=values.max_batch, tell=lambda text: print(f"note: {text}", file=sys.stderr)
    )


def _scored(
    experiment: Experiment,
    line: Line,
    item: Item,
    source: Frames,
    edited: Frames,
    facts: Row,
    store: Store,
    scorer: Scorer,
) -> Row:
    keys = [column.key for column in experiment.columns if column.key not in _COSTS]
    row = store.score(line.name, item.task.name)
    if row is None or not complete(row, keys, scorer.clip_name):
        # The truth of an input that was brought to another size isn't known.
        truth01 = item.truth01 if line.tiny_size is None else None
        scores = scorer.image_scores(keys, item.task, to_01(source), to_01(edited), truth01)
        scores["clip_model"] = scorer.clip_name
        store.keep_score(line.name, item.task.name, scores)
        row = {"line": line.name, "input": item.task.name, **scores}
    return {**row, **_costs(facts)}


def _costs(facts: Row) -> Row:
    if "seconds" not in facts:
        return {}
    costs = {
        "seconds": sum(facts["seconds"].values()),
        "evaluations": facts["evaluations"],
    }
    if "iterations" in facts:
        costs["rate"] = facts["iterations"] / max(facts["seconds"]["edit"], 0.01)
    return costs


def _told(row: Row, experiment: Experiment) -> str:
    """One line for the terminal."""
    keys = ("psnr", *(column.key for column in experiment.columns))
    values = [f"{key} {row[key]:.3f}" for key in keys if row.get(key) is not None]
    return f"{row['input']}, {row['line']}: {', '.join(values) or 'done'}"
