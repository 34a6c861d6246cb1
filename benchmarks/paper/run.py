"""Runs `python -m benchmarks paper`."""

from __future__ import annotations

from benchmarks.engine.trials import Store
from benchmarks.paper.images import run_images
from benchmarks.paper.paper import EXPERIMENTS
from benchmarks.paper.report import write_report
from benchmarks.paper.scenes import run_scenes
from benchmarks.paper.settings import PaperSettings, TinySize
from benchmarks.paper.setup import Setup
from benchmarks.paper.views import reference_pictures, run_views
from csd_nerf.evaluation.networks import Networks

_RUNNERS = {
    "panorama": run_images,
    "video": run_images,
    "scene": run_scenes,
    "views": run_views,
}
_DEFAULT_SIZE = TinySize()


def run_paper(settings: PaperSettings, *, size: TinySize = _DEFAULT_SIZE) -> str:
    """Run all trials of an experiment that are not finished, and write its report.

    Args:
        settings: The settings. Their output folder gets a folder for each trial, and .md, .tex,
            .csv and .png files named after the experiment.
        size: Size of the synthetic inputs and edits with `tiny`.

    Returns:
        The table in markdown, with our numbers, the paper's numbers, and notes.

    Raises:
        ValueError: If a peer is unknown, or an input is invalid.
        FileNotFoundError: If an input, a peer's result or the prior's weights are missing.
    """
    experiment = EXPERIMENTS[settings.experiment]
    known = [line.peer for line in experiment.lines if line.peer is not None]
    for name, folder in settings.peers.items():
        if name not in known:
            raise ValueError(
                f"{settings.experiment} compares with peers of these names: "
                f"{', '.join(known) or 'none'}; got --peer {name}={folder}."
            )
    store = Store(settings.output)
    views = experiment.kind == "views"
    networks = Networks(
        clip=settings.clip_name,
        reference=reference_pictures(settings, size) if views else None,
        device=settings.place,
    )
    setup = Setup(experiment, settings, store, networks, size)
    return write_report(setup, _RUNNERS[experiment.kind](setup))
