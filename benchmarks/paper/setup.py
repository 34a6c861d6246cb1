"""The context of an experiment's run: settings, store of trials, and measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from benchmarks.engine.pictures import kept_frames, save_frames
from benchmarks.engine.trials import Store, Trial
from benchmarks.paper.experiment import Experiment
from benchmarks.paper.inputs import Frames, Task
from benchmarks.paper.settings import PaperSettings, TinySize
from csd_nerf.evaluation.comparison import Comparison
from csd_nerf.evaluation.inputs import ImageSequence
from csd_nerf.evaluation.measures import Measure, measure, named
from csd_nerf.evaluation.networks import Networks
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.pixels import to_01

_FRAMES = "frames"
"""Folder of a trial's pictures."""


@dataclass(frozen=True)
class Setup:
    """An experiment with its settings, the store of its trials, and networks for measures."""

    experiment: Experiment
    settings: PaperSettings
    store: Store
    networks: Networks
    size: TinySize
    left_out: dict[str, set[str]] = field(default_factory=dict)
    """Headings of columns that could not be measured, by the reason."""

    @property
    def tiny_inputs(self) -> int:
        """Number of synthetic inputs."""
        return self.size.inputs or self.experiment.tiny_inputs

    def frames_of(
        self, trial: Trial, make: Callable[[Path], tuple[Frames, Row]]
    ) -> tuple[Frames, Row]:
        """Run a trial unless it is finished; returns its pictures and its row."""

        def run(folder: Path) -> Row:
            frames, facts = make(folder)
            save_frames(folder / _FRAMES, frames)
            return facts

        row = self.store.run(trial, run)
        return kept_frames(self.store.folder(trial) / _FRAMES), row

    def measure_edit(
        self,
        task: Task,
        source: Frames,
        edited: Frames,
        truth01: Float[Tensor, "n 3 h w"] | None = None,
    ) -> Row:
        """Compute the experiment's measures of an edit, and the PSNR if the truth is known."""
        measures = [column for column in self.experiment.columns if isinstance(column, Measure)]
        if truth01 is not None:
            measures += named("psnr_edited")
        comparison = Comparison(
            ImageSequence.of(to_01(source)),
            ImageSequence.of(to_01(edited)),
            self.networks,
            truth=None if truth01 is None else ImageSequence.of(truth01),
            captions=(task.source_caption, task.edited_caption),
            device=self.settings.place,
        )
        return self.measure_comparison(comparison, measures)

    def measure_comparison(self, comparison: Comparison, measures: list[Measure]) -> Row:
        """Compute measures, and add those that are left out to `left_out`."""
        values, reasons = measure(comparison, measures)
        for item in measures:
            if item.key in reasons:
                self.left_out.setdefault(reasons[item.key], set()).add(item.heading)
        return values

    def tell(self, row: Row) -> None:
        """Print a row as one line."""
        keys = ["psnr_edited", *(column.key for column in self.experiment.columns)]
        values = [f"{key} {row[key]:.3f}" for key in keys if row.get(key) is not None]
        print(f"{row['input']}, {row['line']}: {', '.join(values) or 'done'}", flush=True)
