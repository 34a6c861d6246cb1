"""The experiments on panoramas and videos."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from benchmarks.engine.identity import plain, plain_options, weights_digest
from benchmarks.engine.options import PAPER_MIXING
from benchmarks.engine.trials import Trial
from benchmarks.paper.experiment import Line
from benchmarks.paper.inputs import (
    Frames,
    Item,
    find_input,
    panorama_items,
    read_peer,
    resized,
    video_items,
)
from benchmarks.paper.setup import Setup
from benchmarks.paper.tiny import tiny_items
from csd_nerf import priors
from csd_nerf.adapters.options import EditOptions, PanoramaOptions, VideoOptions
from csd_nerf.adapters.panorama import edit_panorama
from csd_nerf.adapters.run_files import NEUTRAL_SETTINGS
from csd_nerf.adapters.video import edit_frames
from csd_nerf.evaluation.tables import Row
from csd_nerf.priors.base import Prior
from csd_nerf.priors.halving import HalvingPrior


def run_images(setup: Setup) -> list[Row]:
    """Run all trials that are not finished, and measure all results.

    Returns:
        A row for each line and input, with the measures by the columns' keys.

    Raises:
        FileNotFoundError: If an input or a peer's result is missing.
        ValueError: If an input is invalid.
    """
    items, peers = _items(setup), setup.settings.peers
    lines = [line for line in setup.experiment.lines if line.method or line.peer in peers]
    for line, item in itertools.product(lines, items):
        if line.method is None:
            find_input(peers[line.peer or ""] / item.task.name)
    editor = _Editor(setup)
    rows: list[Row] = []
    for item in items:
        given = item.read()
        for line in lines:
            source = _brought_to_size(setup, line, given)
            if line.method is None:
                edited, facts = read_peer(peers[line.peer or ""], item, like=source), {}
            else:
                edited, facts = editor.edit(line, item, source)
            # The truth of a resized input isn't known.
            truth01 = item.truth01 if line.tiny_size is None else None
            values = setup.measure_edit(item.task, source, edited, truth01)
            rows.append({"line": line.name, "input": item.task.name, **values, **_costs(facts)})
            setup.tell(rows[-1])
    return rows


def _items(setup: Setup) -> Sequence[Item]:
    experiment, data = setup.experiment, setup.settings.data
    if data is None:
        return tiny_items(experiment.kind, setup.tiny_inputs)
    if experiment.kind == "video":
        return video_items(data)
    return panorama_items(data, experiment)


def _brought_to_size(setup: Setup, line: Line, source: Frames) -> UInt8[Tensor, "n H W 3"]:
    wanted, shrink = (line.tiny_size, setup.size.shrink) if setup.settings.tiny else (line.size, 1)
    if wanted is None:
        return source
    return resized(source, (wanted[0] // shrink, wanted[1] // shrink))


def line_options(setup: Setup, line: Line, prompt: str) -> PanoramaOptions | VideoOptions:
    """The options of a line's edits: its own, over those of the preset."""
    settings = setup.settings
    chosen: dict[str, Any] = {"prompt": prompt, "method": line.method, "device": settings.place}
    # What is measured are the prior's own pictures.
    chosen["keep_detail"] = False
    if settings.tiny:
        mixing = PAPER_MIXING if line.method == "csd" else {}
        chosen |= {**mixing, **line.tiny, **setup.size.options, "preset": "tiny"}
    else:
        chosen |= {**line.options, "preset": settings.preset}
    return (PanoramaOptions if setup.experiment.kind == "panorama" else VideoOptions)(**chosen)


class _Editor:
    """Edits with one prior, which is loaded for the first trial that is not finished."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._prior: Prior | None = None
        self._warm: set[tuple[str | None, int | None]] = set()

    def edit(self, line: Line, item: Item, source: Frames) -> tuple[Frames, Row]:
        """A line's result on an input, and the facts of the edit."""
        options = line_options(self._setup, line, item.task.prompt)
        values = options.values()
        timed = self._setup.experiment.timed
        decides = {
            "options": plain_options(dataclasses.asdict(options)),
            "values": plain(values, leave_out=NEUTRAL_SETTINGS),
            "weights": weights_digest(values.prior),
            "source": source,
            # The device decides the time, but not the pictures.
            "timed on": self._setup.settings.place if timed else None,
        }
        trial = Trial({"line": line.name, "input": item.task.name}, decides)

        def make(_: Path) -> tuple[Frames, Row]:
            if self._prior is None:
                self._prior = _load_prior(options, self._setup.settings.place)
            kind = (line.method, values.batch)
            if timed and kind not in self._warm:
                # Work that is done only once, such as choosing kernels, should not be timed.
                _edit(self._prior, source, dataclasses.replace(options, iterations=1, steps=1))
                self._warm.add(kind)
            return _edit(self._prior, source, options)

        return self._setup.frames_of(trial, make)


def _edit(prior: Prior, source: Frames, options: EditOptions) -> tuple[Frames, Row]:
    if isinstance(options, PanoramaOptions):
        result = edit_panorama(prior, source[0], options)
        return result.image[None], dict(result.facts)
    assert isinstance(options, VideoOptions)
    return edit_frames(prior, source, options)


def _load_prior(options: EditOptions, device: str) -> Prior:
    values = options.values()
    prior = priors.load(values.prior, device=device, dtype=values.dtype)
    return HalvingPrior(
        prior, max_batch=values.max_batch, tell=lambda text: print(f"note: {text}", file=sys.stderr)
    )


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
