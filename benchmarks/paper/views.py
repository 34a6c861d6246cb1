"""Table 5: renders of text-to-3D scenes, made by `python -m benchmarks text-to-3d` or elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.inputs import (
    PROMPTS,
    Frames,
    read_texts,
    sorted_pictures,
)
from benchmarks.paper.paper import Experiment
from benchmarks.paper.scores import Scorer
from benchmarks.paper.settings import ReproduceSettings, TinySize
from benchmarks.paper.store import Store
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.images import read_image
from csd_nerf.media.pixels import to_01, to_bytes

VIEWS = 12
"""Every 30 degrees of azimuth (C.2)."""
ELEVATION = 30.0
"""Degrees (C.2)."""
KINDS = {"clip_colour": "colour", "clip_geometry": "depth"}
"""The folders of a scene's views by the column that judges them."""
REFERENCE = "reference"


@dataclass(frozen=True)
class Generated:
    """The views of one scene by one method."""

    line: str
    name: str
    text: str
    read: Callable[[str], Frames]
    """The views of a kind, colour or depth."""


def run_views(
    experiment: Experiment,
    settings: ReproduceSettings,
    store: Store,
    scorer: Scorer,
    size: TinySize,
) -> list[Row]:
    """Measure the views of all methods.

    Returns:
        A row for each method and text; FID, which is of all of a method's views, stands in the
        first.

    Raises:
        FileNotFoundError: If a folder is missing.
        ValueError: If a scene has another number of views than 12.
    """
    if settings.tiny:
        scenes, reference = _tiny_views(experiment, store, size)
    else:
        assert settings.data is not None
        scenes = _given_views(experiment, settings)
        folder = settings.data / REFERENCE
        reference = folder if folder.is_dir() else None
    if reference is None:
        scorer.missing["Inception"] = f"--data holds no folder {REFERENCE!r} of pictures for FID"
    rows: list[Row] = []
    for line in experiment.lines:
        mine = [scene for scene in scenes if scene.line == line.name]
        for scene in mine:
            row: Row = {"line": line.name, "input": scene.name}
            for key, kind in KINDS.items():
                row[key] = scorer.text_score(to_01(scene.read(kind)), scene.text)
            rows.append(row)
        if mine and reference is not None:
            colours = (to_01(scene.read("colour")) for scene in mine)
            rows[-len(mine)]["fid"] = scorer.fid(colours, reference)
    return rows


def _given_views(experiment: Experiment, settings: ReproduceSettings) -> list[Generated]:
    assert settings.data is not None
    missing = [line.peer for line in experiment.lines if line.peer not in settings.peers]
    if missing:
        raise ValueError(
            f"table5 needs folders of rendered views, got none of {', '.join(map(str, missing))}; "
            f"make them with python -m benchmarks text-to-3d, then add --peer {missing[0]}=DIR."
        )
    texts = read_texts(settings.data)
    scenes = []
    for line in experiment.lines:
        for name, text in texts.items():
            folder = settings.peers[line.peer or ""] / name
            for kind in KINDS.values():
                _check_views(folder / kind)
            scenes.append(
                Generated(line.name, name, text, lambda kind, folder=folder: _read(folder / kind))
            )
    return scenes


def _check_views(folder: Path) -> None:
    count = len(sorted_pictures(folder))
    if count != VIEWS:
        raise ValueError(
            f"A scene needs {VIEWS} views, every {360 // VIEWS} degrees at an elevation of "
            f"{ELEVATION:g}, got {count} in {folder}; the scenes are named in {PROMPTS}."
        )


def _read(folder: Path) -> Frames:
    return torch.stack([read_image(path)[0] for path in sorted_pictures(folder)])


def _tiny_views(
    experiment: Experiment, store: Store, size: TinySize
) -> tuple[list[Generated], Path]:
    """Views of synthetic scenes in the place of generated ones, kept as a user would give them."""
    scenes = []
    seed = 0
    for line in experiment.lines:
        for position in range(size.inputs or experiment.tiny_inputs):
            name = f"shapes {position}"
            for kind, image01 in _render(seed, size.view_edge).items():
                if store.frames(f"{line.name} {kind}", name) is None:
                    store.keep(f"{line.name} {kind}", name, to_bytes(image01), {"scene": seed})
            seed += 1

            def read(kind: str, line: str = line.name, name: str = name) -> Frames:
                return _read(store.folder(f"{line} {kind}", name))

            scenes.append(Generated(line.name, name, "simple shapes on a floor", read))
    if store.frames(REFERENCE, "shapes") is None:
        colours = _render(seed, size.view_edge)["colour"]
        store.keep(REFERENCE, "shapes", to_bytes(colours), {"scene": seed})
    return scenes, store.folder(REFERENCE, "shapes")


def _render(position: int, edge: int) -> dict[str, Float[Tensor, "n 3 h w"]]:
    from csd_nerf.synthetic.cameras import orbit_cameras
    from csd_nerf.synthetic.dataset import render_views
    from csd_nerf.synthetic.scenes import SPLIT_SEEDS, draw_scenes

    azimuth = torch.arange(VIEWS) * (2 * torch.pi / VIEWS)
    cameras = orbit_cameras(azimuth, torch.full_like(azimuth, math.radians(ELEVATION)))
    rendering = render_views(draw_scenes([SPLIT_SEEDS["benchmark"][position]]), cameras, size=edge)
    # Near is white; what is infinitely far, the sky, is black.
    near = rendering.depth.amin() / rendering.depth
    return {"colour": rendering.image01, "depth": near[:, None].expand(-1, 3, -1, -1)}
