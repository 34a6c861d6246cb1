"""The experiments on 3D scenes: every method edits the same trained source."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine.identity import files_digest, weights_digest
from benchmarks.engine.trials import Trial
from benchmarks.paper.experiment import Line
from benchmarks.paper.inputs import Frames, Task, read_tasks
from benchmarks.paper.setup import Setup
from benchmarks.paper.tiny import TinyScene
from csd_nerf.evaluation.scene_runs import SceneRun, path_through, render_cameras
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.pixels import to_bytes

SOURCE_STEPS = 30_000
"""Training steps of the unedited scene (B.3)."""
FRAMES_BETWEEN_VIEWS = 10
"""Frames of the rendered path from one held-out view to the next."""
# With a viewer the command would not end after training.
_NO_VIEWER = ("--vis", "tensorboard")


def run_scenes(setup: Setup) -> list[Row]:
    """Train, edit and render scenes that are not finished, and measure all renders.

    Returns:
        A row for each line and scene, with the measures by the columns' keys.

    Raises:
        FileNotFoundError: If a scene is missing.
        ChildProcessError: If ns-train fails.
    """
    rows: list[Row] = []
    for scene in _scenes(setup):
        source, truth01 = scene.source(), scene.truth01()
        for line in setup.experiment.lines:
            edited, facts = scene.edit(line)
            values = setup.measure_edit(scene.task, source, edited, truth01)
            costs = {key: facts[key] for key in ("seconds", "evaluations") if key in facts}
            rows.append({"line": line.name, "input": scene.task.name, **values, **costs})
            setup.tell(rows[-1])
    return rows


def _scenes(setup: Setup) -> Sequence[CapturedScene | TinyScene]:
    data = setup.settings.data
    if data is None:
        return [TinyScene(setup, position) for position in range(setup.tiny_inputs)]
    tasks = read_tasks(data)
    for task in tasks:
        if not task.path.is_dir():
            raise FileNotFoundError(
                f"--data must hold a folder for each scene in prompts.json, got none at {task.path}"
            )
    return [CapturedScene(setup, task) for task in tasks]


class CapturedScene:
    """A nerfstudio data set, trained and edited by `ns-train`."""

    def __init__(self, setup: Setup, task: Task) -> None:
        """Take the edit; nothing is trained yet."""
        self.task = task
        self._setup = setup
        decides = {"data": files_digest(task.path), **_rendered(source_run(task, Path()))}
        self._source = Trial({"line": "source", "input": task.name}, decides)

    def source(self) -> Frames:
        """Renders of the unedited scene, which is trained first."""
        return self._setup.frames_of(
            self._source, lambda folder: _train(source_run(self.task, folder))
        )[0]

    def edit(self, line: Line) -> tuple[Frames, Row]:
        """Renders of the scene after the edit of a line."""
        task, preset = self.task, self._setup.settings.preset
        source = source_run(task, self._setup.store.folder(self._source))
        checkpoints = source.folder / "nerfstudio_models"
        decides = {
            "source": self._source.id,
            "weights": weights_digest(_prior_name(edit_method(preset))),
            **_rendered(edit_run(task, line, Path(), Path(), preset)),
        }
        trial = Trial({"line": line.name, "input": task.name}, decides)
        return self._setup.frames_of(
            trial, lambda folder: _train(edit_run(task, line, folder, checkpoints, preset))
        )

    def truth01(self) -> None:
        """None: the true edit of a capture is not known."""


def _rendered(run: SceneRun) -> dict[str, Any]:
    """What decides a run's renders, except the data and the scene that it starts from."""
    return {
        "method": run.method,
        "options": list(run.options),
        "frames between views": FRAMES_BETWEEN_VIEWS,
    }


def _train(run: SceneRun) -> tuple[Frames, Row]:
    began = time.perf_counter()
    frames = render_path(run.train())
    return frames, {"seconds": time.perf_counter() - began}


def source_run(task: Task, folder: Path) -> SceneRun:
    """The run that trains the unedited scene: nerfacto with 30,000 steps."""
    options = ["--max-num-iterations", str(SOURCE_STEPS), *_NO_VIEWER]
    return SceneRun("nerfacto", task.path, folder, "scene", "run", options)


def edit_run(task: Task, line: Line, folder: Path, checkpoints: Path, preset: str) -> SceneRun:
    """The run by which a line edits a trained scene."""
    options = [word for key, value in line.options.items() for word in (f"--{key}", str(value))]
    given = ["--load-dir", str(checkpoints), "--pipeline.prompt", task.prompt]
    options = [*given, *options, *_NO_VIEWER]
    return SceneRun(edit_method(preset), task.path, folder, "scene", "run", options)


def edit_method(preset: str) -> str:
    """Name of the nerfstudio method for a preset."""
    return "csd-edit" if preset == "full" else f"csd-edit-{preset}"


def _prior_name(method: str) -> str:
    """The default prior of a nerfstudio method."""
    from nerfstudio.configs.method_configs import all_methods

    config: Any = all_methods[method].pipeline
    return config.prior


def render_path(load_config: Path) -> Frames:
    """Render a path through a run's held-out views in order."""
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, _ = eval_setup(load_config, test_mode="test")
    dataset: Any = pipeline.datamanager.eval_dataset  # pyright: ignore[reportAttributeAccessIssue]
    path = path_through(dataset.cameras.to(pipeline.device), FRAMES_BETWEEN_VIEWS)
    return to_bytes(render_cameras(pipeline, path)[0])
