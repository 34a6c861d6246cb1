"""Table 5: measures renders of text-to-3D, from `python -m benchmarks text-to-3d` or elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.pictures import kept_frames, save_frames
from benchmarks.paper.experiment import VIEW_COLUMNS
from benchmarks.paper.inputs import PROMPTS, Frames, read_texts, sorted_pictures
from benchmarks.paper.settings import PaperSettings, TinySize
from benchmarks.paper.setup import Setup
from benchmarks.paper.tiny import ELEVATION, VIEWS, tiny_views
from csd_nerf.evaluation.comparison import Comparison
from csd_nerf.evaluation.inputs import ImageSequence
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.pixels import to_01

_REFERENCE = "reference"


@dataclass(frozen=True)
class Generated:
    """The views of one scene, made by one method."""

    line: str
    name: str
    text: str
    read: Callable[[str], Frames]
    """Reads the views of a kind, `colour` or `depth`."""


def reference_pictures(settings: PaperSettings, size: TinySize) -> Path | None:
    """Folder of reference pictures for FID, written for --tiny; None if --data has none."""
    if settings.data is not None:
        folder = settings.data / _REFERENCE
        return folder if folder.is_dir() else None
    folder = settings.output / _REFERENCE
    # A scene that no line uses.
    save_frames(folder, tiny_views(1000, size.view_edge)["colour"])
    return folder


def run_views(setup: Setup) -> list[Row]:
    """Measure the views of all methods.

    Returns:
        A row for each method and text. FID is that of all views of a method, and is in the method's
        first row.

    Raises:
        FileNotFoundError: If a folder is missing.
        ValueError: If a scene has not exactly 12 views, or folders of a method are not given.
    """
    scenes = _tiny_views(setup) if setup.settings.tiny else _given_views(setup)
    rows: list[Row] = []
    for line in setup.experiment.lines:
        mine = [scene for scene in scenes if scene.line == line.name]
        rows += [
            {"line": line.name, "input": scene.name, **_similarities(setup, scene)}
            for scene in mine
        ]
        if (obstacle := setup.networks.obstacle("Inception")) is not None:
            setup.left_out.setdefault(obstacle, set()).add("FID")
        elif mine:
            views = (to_01(view)[None] for scene in mine for view in scene.read("colour"))
            rows[-len(mine)]["fid"] = setup.networks.fid(views)
    return rows


def _similarities(setup: Setup, scene: Generated) -> Row:
    """CLIP similarity of the views of each kind to the text."""
    row: Row = {}
    for kind, column in VIEW_COLUMNS.items():
        frames = ImageSequence.of(to_01(scene.read(kind)))
        captions = (scene.text, scene.text)
        row |= setup.measure_comparison(
            Comparison(frames, frames, setup.networks, captions=captions), [column]
        )
    return row


def _given_views(setup: Setup) -> list[Generated]:
    settings = setup.settings
    assert settings.data is not None
    missing = [line.peer for line in setup.experiment.lines if line.peer not in settings.peers]
    if missing:
        raise ValueError(
            f"table5 needs folders of rendered views, got none of {', '.join(map(str, missing))}; "
            f"make them with python -m benchmarks text-to-3d, then add --peer {missing[0]}=DIR."
        )
    texts = read_texts(settings.data)
    scenes = []
    for line in setup.experiment.lines:
        for name, text in texts.items():
            folder = settings.peers[line.peer or ""] / name
            for kind in VIEW_COLUMNS:
                _check_views(folder / kind)
            scenes.append(
                Generated(
                    line.name, name, text, lambda kind, folder=folder: kept_frames(folder / kind)
                )
            )
    return scenes


def _check_views(folder: Path) -> None:
    count = len(sorted_pictures(folder))
    if count != VIEWS:
        raise ValueError(
            f"A scene needs {VIEWS} views, every {360 // VIEWS} degrees at an elevation of "
            f"{ELEVATION:g}, got {count} in {folder}; the scenes are named in {PROMPTS}."
        )


def _tiny_views(setup: Setup) -> list[Generated]:
    """Views of synthetic scenes instead of generated ones; each line gets other scenes."""
    scenes = []
    for number, line in enumerate(setup.experiment.lines):
        for position in range(setup.tiny_inputs):
            seed = number * setup.tiny_inputs + position
            views = tiny_views(seed, setup.size.view_edge)
            scenes.append(
                Generated(
                    line.name, f"shapes {position}", "simple shapes on a floor", views.__getitem__
                )
            )
    return scenes
