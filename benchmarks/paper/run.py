"""What `python -m benchmarks paper` runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper.images import run_images
from benchmarks.paper.paper import EXPERIMENTS
from benchmarks.paper.report import write_report
from benchmarks.paper.scenes import run_scenes
from benchmarks.paper.scores import Scorer
from benchmarks.paper.settings import ReproduceSettings, TinySize
from benchmarks.paper.store import Store
from benchmarks.paper.views import run_views

_RUNNERS = {
    "panorama": run_images,
    "video": run_images,
    "scene": run_scenes,
    "views": run_views,
}
_DEFAULT_SIZE = TinySize()


def run_reproduce(
    output: Path, settings: ReproduceSettings, *, size: TinySize = _DEFAULT_SIZE
) -> str:
    """Run what is missing of an experiment, and write its report.

    Args:
        output: Folder for results, record.json, table.md, table.tex, rows.csv and plot.png. What
            is finished there is not run again.
        settings: What to run.
        size: How large the inputs and edits are that `tiny` stands for.

    Returns:
        The table in markdown, ours beside the paper's numbers, with notes.

    Raises:
        ValueError: If an option is wrong, an input isn't as it must be, or `output` holds another
            experiment.
        FileNotFoundError: If an input or a peer's result is missing.
    """
    check_settings(settings)
    experiment = EXPERIMENTS[settings.experiment]
    identity = {
        "experiment": settings.experiment,
        "data": None if settings.data is None else str(settings.data.resolve()),
        "tiny": settings.tiny,
        "preset": settings.preset,
    }
    scorer = Scorer(clip=settings.clip_name, device=settings.place)
    store = Store(output, identity)
    rows = _RUNNERS[experiment.kind](experiment, settings, store, scorer, size)
    return write_report(output, experiment, settings, rows, scorer.missing)


def check_settings(settings: ReproduceSettings) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        ValueError: If the experiment or a peer is unknown, or there is no data.
        FileNotFoundError: If a folder is missing.
    """
    if settings.experiment not in EXPERIMENTS:
        raise ValueError(
            f"The experiment must be one of {', '.join(EXPERIMENTS)}, got {settings.experiment!r}."
        )
    if settings.tiny and settings.data is not None:
        raise ValueError(f"--tiny makes its own inputs; leave out --data {settings.data}.")
    if not settings.tiny and settings.data is None:
        raise ValueError(
            f"{settings.experiment} needs its inputs by --data DIR; --tiny runs it without."
        )
    if settings.data is not None and not settings.data.exists():
        raise FileNotFoundError(f"--data must exist, got {settings.data}.")
    lines = EXPERIMENTS[settings.experiment].lines
    known = [line.peer for line in lines if line.peer is not None]
    for name, folder in settings.peers.items():
        if name not in known:
            expected = ", ".join(known) or "none"
            raise ValueError(
                f"{settings.experiment} compares with peers of these names: {expected}; got "
                f"--peer {name}={folder}."
            )
        if not folder.is_dir():
            raise FileNotFoundError(f"--peer {name} must be a folder, got {folder}.")


def parse_peers(texts: Sequence[str]) -> dict[str, Path]:
    """Read NAME=DIR.

    Raises:
        ValueError: If one has another form, or a name comes twice.
    """
    peers: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder or name in peers:
            raise ValueError(f"--peer needs NAME=DIR with each name once, got {text!r}.")
        peers[name] = Path(folder)
    return peers
