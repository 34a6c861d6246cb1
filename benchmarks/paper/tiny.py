"""Synthetic inputs that replace the paper's, for `--tiny`."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.engine.identity import files_digest, weights_digest
from benchmarks.engine.pictures import kept_frames, save_frames
from benchmarks.engine.trials import Trial
from benchmarks.paper.experiment import Line
from benchmarks.paper.inputs import Frames, Item, Task
from benchmarks.paper.settings import TinySize
from benchmarks.paper.setup import Setup
from benchmarks.truth.panoramas import draw_panorama
from benchmarks.truth.videos import draw_video
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.pixels import to_01, to_bytes

SPLIT = "benchmark"
VIEWS = 12
"""Number of views, one every 30 degrees of azimuth (C.2)."""
ELEVATION = 30.0
"""Elevation of the views in degrees (C.2)."""
DRAW = {"panorama": draw_panorama, "video": draw_video}
"""Functions that draw the synthetic input at a position."""
_SOURCE, _TRUTH = "source", "truth"


def tiny_items(medium: str, count: int) -> list[Item]:
    """The first `count` panoramas or videos of the split `SPLIT`, with their true edits."""
    items = []
    for position in range(count):
        given = DRAW[medium](position, SPLIT)
        prompt = given.edit.instructions[0]
        task = Task(given.name, prompt, "a picture of shapes", f"a picture of shapes, {prompt}")
        items.append(Item(task, lambda source=given.source: source, given.truth01))
    return items


class TinyScene:
    """A synthetic scene, trained and edited in this process by code of the benchmark `truth`."""

    def __init__(self, setup: Setup, position: int) -> None:
        """Draw the scene; nothing is trained yet."""
        from benchmarks.truth.scenes import draw_scene

        self._setup = setup
        self._given = draw_scene(position, SPLIT, setup.store)
        prompt = self._given.edit.instructions[0]
        self.task = Task(
            self._given.name, prompt, "a scene of shapes", f"a scene of shapes, {prompt}"
        )

    def source(self) -> Frames:
        """Renders of the held-out views of the unedited scene."""
        return self._run(_SOURCE)[0]

    def edit(self, line: Line) -> tuple[Frames, Row]:
        """Renders of the same views after the edit of a line."""
        return self._run(line.method or "")

    def truth01(self) -> Float[Tensor, "n 3 h w"]:
        """The true edit of the same views, which is stored with the source."""
        self.source()
        return to_01(kept_frames(self._setup.store.folder(self._trial(_SOURCE)) / _TRUTH))

    def _run(self, method: str) -> tuple[Frames, Row]:
        from benchmarks.truth.scene_runs import run_scene_arm, train_source

        def make(folder: Path) -> tuple[Frames, Row]:
            size, given = self._setup.size, self._given
            options = _scene_options(method, size)
            source = train_source(given, self._setup.store, steps=size.source_steps)
            result = run_scene_arm(
                method,
                given,
                source,
                folder / "run",
                prior=_tiny_prior(),
                options=options,
                csd=size.scene,
            )
            if method == _SOURCE:
                save_frames(folder / _TRUTH, to_bytes(result.truth01))
            facts = {"seconds": result.seconds, "evaluations": result.evaluations}
            return to_bytes(result.edited01), facts

        return self._setup.frames_of(self._trial(method), make)

    def _trial(self, method: str) -> Trial:
        decides = {
            "data": files_digest(self._given.folder),
            "prompt": self.task.prompt,
            "source steps": self._setup.size.source_steps,
            "method": method,
            "options": _scene_options(method, self._setup.size),
            "weights": weights_digest("tiny"),
        }
        return Trial({"line": method, "input": self.task.name}, decides)


def _scene_options(method: str, size: TinySize) -> dict[str, Any]:
    """Options of a method of the scene benchmark: its tuned ones under those of the size."""
    from benchmarks.truth.domains import Arm
    from benchmarks.truth.scene_plans import REFERENCES
    from benchmarks.truth.tuned import tuned_arm

    arm = Arm(method, None if method in REFERENCES else method)
    return {**tuned_arm("scene", arm).options, **size.scene}


@functools.cache
def _tiny_prior() -> Any:
    from csd_nerf import priors

    return priors.load("tiny")


def tiny_views(position: int, edge: int) -> dict[str, Frames]:
    """Colour and depth of a synthetic scene, from the cameras of generated scenes."""
    from csd_nerf.synthetic.cameras import orbit_cameras
    from csd_nerf.synthetic.dataset import render_views
    from csd_nerf.synthetic.scenes import SPLIT_SEEDS, draw_scenes

    azimuth = torch.arange(VIEWS) * (2 * torch.pi / VIEWS)
    cameras = orbit_cameras(azimuth, torch.full_like(azimuth, math.radians(ELEVATION)))
    rendering = render_views(draw_scenes([SPLIT_SEEDS[SPLIT][position]]), cameras, size=edge)
    # White is near; the sky, infinitely far away, is black.
    near = (rendering.depth.amin() / rendering.depth)[:, None].expand(-1, 3, -1, -1)
    return {"colour": to_bytes(rendering.image01), "depth": to_bytes(near)}
