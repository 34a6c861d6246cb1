"""Runs `csd-nerf preview`: cell by cell, with pictures and page as they are done."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from tqdm import tqdm

from csd_nerf import priors
from csd_nerf.bundled import notices_of_unknown
from csd_nerf.media.files import check_writable, one_writer
from csd_nerf.media.frames import find_pictures
from csd_nerf.media.pixels import to_bytes
from csd_nerf.media.regions import SceneBox, parse_region
from csd_nerf.methods.common.edit_pipeline import lazy_prior
from csd_nerf.methods.common.errors import INTERRUPTED
from csd_nerf.methods.common.lazy_prior import LazyPrior
from csd_nerf.methods.preview.cells import Cell, plan_cells
from csd_nerf.methods.preview.options import PreviewSettings
from csd_nerf.methods.preview.photographs import (
    Images,
    Pictures,
    PreviewPhotographs,
    choose_views,
    is_capture,
    open_capture,
)
from csd_nerf.methods.preview.record import (
    PAGE,
    RECORD,
    SHEET,
    PreviewRecord,
    check_folder,
    open_record,
    picture_stem,
    save_picture,
)
from csd_nerf.methods.preview.scene import PhotographsAlone, first_round
from csd_nerf.methods.preview.sheet import write_sheet
from csd_nerf.priors.identity import weights_identity
from csd_nerf.scene.report import RoundReport
from csd_nerf.scene.stage import RoundError


def run_preview(settings: PreviewSettings) -> int:
    """Make a preview.

    Args:
        settings: The options. The folder `output` gets preview.json, preview.html, sheet.png and
            the pictures.

    Returns:
        The exit code: 0, or 1 if a cell failed, or 130 after Ctrl-C.

    Raises:
        ValueError: If an option is wrong, or data can't be read.
        FileExistsError: If the output is there already, and not to be resumed or replaced.
        WeightsNotFoundError: If the prior's weights can't be had.
    """
    capture = settings.data[0] if is_capture(settings.data, settings.train_options) else None
    cells = plan_cells(settings, capture)
    config = cells[0].config
    _check_region(cells[0])
    images: Images = (
        open_capture(config) if capture else Pictures(find_pictures(settings.data), config)
    )
    images.keep_views(choose_views(images.names, count=settings.views, wanted=settings.view))
    photographs = PreviewPhotographs(images, config)
    prior = lazy_prior(cells[0].options, device=config.machine.device_type, command="preview")
    weights = _weights(prior)
    check_writable(settings.output / RECORD)
    with one_writer(settings.output / RECORD):
        check_folder(settings.output, resume=settings.resume, overwrite=settings.overwrite)
        facts = _facts(settings, cells[0], photographs, weights=weights)
        facts["cameras"] = capture is not None
        record = open_record(settings.output, facts, cells, resume=settings.resume)
        return _Sweep(cells, PhotographsAlone(photographs), prior, record).run()


def _check_region(cell: Cell) -> None:
    """Refuse at once what would fail in every cell."""
    region = cell.options.region
    if region.strip() and isinstance(parse_region(region, of="scene").where, SceneBox):
        raise ValueError(
            f"--pipeline.region can't be a box in a preview, which has photographs alone, got "
            f"{region}; give masks of all views or a word, or press Preview in the viewer's tab."
        )


def _weights(prior: LazyPrior) -> str:
    """The identity of the prior's weights, which are fetched if they aren't there."""
    try:
        return weights_identity(*prior.weights())
    except priors.WeightsNotFoundError as error:
        raise priors.WeightsNotFoundError(
            f"{error} The option is --prior. Without weights, --method csd-edit-tiny runs on a CPU "
            "with the bundled prior."
        ) from None


def _facts(
    settings: PreviewSettings, cell: Cell, photographs: PreviewPhotographs, *, weights: str
) -> dict[str, Any]:
    """The fields of the record besides the cells; writes the photographs."""
    views = []
    for view, name in enumerate(photographs.names):
        image = to_bytes(photographs.photograph01(view)).cpu()
        picture = save_picture(settings.output, f"source_{view:02d}", image)
        views.append({"name": name, "picture": picture, "size": [image.shape[1], image.shape[0]]})
    notices = [
        notice
        for prompt in settings.prompt
        for notice in notices_of_unknown(cell.options.prior, [prompt])
    ]
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
    return {
        "data": [str(path) for path in settings.data],
        "method": cell.config.method_name,
        "prior": cell.options.prior,
        "photographs": photographs.digest(),
        "weights": weights,
        "options": [*settings.train_options],
        "notices": notices,
        "views": views,
    }


class _Sweep:
    """The making of a preview's cells."""

    def __init__(
        self,
        cells: Sequence[Cell],
        scene: PhotographsAlone,
        prior: LazyPrior,
        record: PreviewRecord,
    ) -> None:
        self._cells, self._scene, self._prior, self._record = cells, scene, prior, record
        self._missing = [cell for cell in cells if not record.has(cell)]
        self._failures = 0
        self._made = 0
        self._seconds = 0.0

    def run(self) -> int:
        """Make all cells that are missing; returns the exit code."""
        self._write("running")
        print(f"Open {self._record.folder / PAGE}: cells appear in it as they are done.")
        done = len(self._cells) - len(self._missing)
        try:
            for cell in tqdm(self._missing, "cells", initial=done, total=len(self._cells)):
                self._make(cell)
                self._write("running")
        except KeyboardInterrupt:
            self._finish("interrupted")
            print("preview: interrupted; the same command with --resume goes on.", file=sys.stderr)
            return INTERRUPTED
        self._finish("finished")
        if self._failures:
            total = len(self._cells)
            print(f"preview: {self._failures} of {total} cells failed.", file=sys.stderr)
        print(f"Wrote {self._record.folder / SHEET}, {PAGE} and {RECORD}.")
        return 1 if self._failures else 0

    def _make(self, cell: Cell) -> None:
        began = perf_counter()
        try:
            report = first_round(self._scene, cell.options, prior=self._prior.get)
        except RoundError as error:
            self._failures += 1
            self._record.add(cell, {"error": str(error)})
            tqdm.write(f"preview: {cell.command}: {error}", file=sys.stderr)
            return
        seconds = perf_counter() - began
        self._made, self._seconds = self._made + 1, self._seconds + seconds
        self._record.add(cell, {**self._measured(cell, report), "seconds": round(seconds, 2)})

    def _measured(self, cell: Cell, report: RoundReport) -> dict[str, Any]:
        """Save a cell's pictures; returns their names and the cell's measures, view by view."""
        stem, pictures, changes = picture_stem(cell), [], []
        for view, source in enumerate(self._record.facts["views"]):
            edit = report.edits.get(view)
            if edit is None:
                # A round leaves out views that don't see the region that is edited.
                pictures.append(source["picture"])
                changes.append(0.0)
                continue
            pictures.append(save_picture(self._record.folder, f"{stem}_{view:02d}", edit.image))
            changes.append(round(float((edit.edited01 - edit.source01).abs().mean()), 5))
        return {
            "pictures": pictures,
            "change_from_source": round(sum(changes) / len(changes), 5),
            "changes": changes,
            "evaluations": int(report.metrics["evaluations"]),
        }

    def _write(self, state: Any) -> None:
        left = len(self._cells) - len(self._record.cells)
        each = self._seconds / self._made if self._made else None
        seconds = sum((cell.get("seconds", 0.0) for cell in self._record.cells), 0.0)
        seconds_left = None if each is None else each * left
        self._record.write(
            state, total=len(self._cells), seconds=seconds, seconds_left=seconds_left
        )

    def _finish(self, state: Any) -> None:
        self._write(state)
        if self._record.cells:
            folder = self._record.folder
            write_sheet(folder / SHEET, json.loads((folder / RECORD).read_text("utf8")))
