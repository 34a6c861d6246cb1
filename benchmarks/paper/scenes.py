"""The experiments on 3D scenes: every method edits one trained source."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paper.inputs import Frames, Task, read_tasks
from benchmarks.paper.paper import Experiment, Line
from benchmarks.paper.scores import Scorer
from benchmarks.paper.settings import ReproduceSettings, TinySize
from benchmarks.paper.store import Store, complete, file_name
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.pixels import to_01, to_bytes

if TYPE_CHECKING:
    from benchmarks.truth.scene_runs import SceneInput

SOURCE = "source"
TRUTH = "truth"
SOURCE_STEPS = 30_000
"""B.3."""
FRAMES_BETWEEN_VIEWS = 10
"""Frames of the rendered path from one held-out view to the next."""

Made = tuple[Float[Tensor, "n 3 h w"], Row]
"""Renders, and what they cost."""


@dataclass(frozen=True)
class Scene:
    """A scene with its task, and how its renders are made."""

    task: Task
    make: Callable[[Line | None], Made]
    """Renders of an edited scene, or of the source for None."""
    truth: Callable[[], Float[Tensor, "n 3 h w"]] | None = None
    """The true edit, where it is known."""


def run_scenes(
    experiment: Experiment,
    settings: ReproduceSettings,
    store: Store,
    scorer: Scorer,
    size: TinySize,
) -> list[Row]:
    """Train, edit and render what is missing, and measure all renders.

    Returns:
        A row for each line and scene, with the measures by the columns' keys.

    Raises:
        FileNotFoundError: If a scene is missing.
        ChildProcessError: If ns-train fails.
    """
    rows: list[Row] = []
    for scene in _scenes(experiment, settings, store, size):
        source, _ = _made(scene, None, store)
        for line in experiment.lines:
            edited, facts = _made(scene, line, store)
            row = _scored(experiment, line, scene, source, edited, store, scorer)
            rows.append({**row, **facts})
            values = [f"{key} {value:.3f}" for key, value in row.items() if key in _SHOWN]
            print(f"{scene.task.name}, {line.name}: {', '.join(values) or 'done'}", flush=True)
    return rows


_SHOWN = ("psnr", "clip_direction", "clip_consistency", "frame_lpips")


def _made(scene: Scene, line: Line | None, store: Store) -> tuple[Frames, Row]:
    name = SOURCE if line is None else line.name
    if (kept := store.frames(name, scene.task.name)) is None:
        renders01, facts = scene.make(line)
        store.keep(name, scene.task.name, to_bytes(renders01), facts)
        kept = store.frames(name, scene.task.name)
        assert kept is not None
    facts = store.facts(name, scene.task.name) or {}
    return kept, {key: facts[key] for key in ("seconds", "evaluations") if key in facts}


def _scored(
    experiment: Experiment,
    line: Line,
    scene: Scene,
    source: Frames,
    edited: Frames,
    store: Store,
    scorer: Scorer,
) -> Row:
    keys = [column.key for column in experiment.columns]
    row = store.score(line.name, scene.task.name)
    if row is not None and complete(row, keys, scorer.clip_name):
        return row
    truth01 = None if scene.truth is None else scene.truth()
    scores = scorer.image_scores(keys, scene.task, to_01(source), to_01(edited), truth01)
    scores["clip_model"] = scorer.clip_name
    store.keep_score(line.name, scene.task.name, scores)
    return {"line": line.name, "input": scene.task.name, **scores}


def _scenes(
    experiment: Experiment, settings: ReproduceSettings, store: Store, size: TinySize
) -> list[Scene]:
    if settings.tiny:
        count = size.inputs or experiment.tiny_inputs
        return [_tiny_scene(position, store, size) for position in range(count)]
    assert settings.data is not None
    tasks = read_tasks(settings.data)
    for task in tasks:
        if task.path is None or not task.path.exists():
            raise FileNotFoundError(
                f"--data must hold a folder for each scene in prompts.json, got none at {task.path}"
            )
    runs = store.output / "runs"
    return [Scene(task, functools.partial(_train, task, settings, runs)) for task in tasks]


def _train(task: Task, settings: ReproduceSettings, runs: Path, line: Line | None) -> Made:
    """Train or edit a scene by `ns-train`, and render it."""
    source = runs / file_name(task.path.name if task.path else task.name) / "nerfacto" / SOURCE
    began = time.perf_counter()
    if not (source / "nerfstudio_models" / f"step-{SOURCE_STEPS - 1:09d}.ckpt").is_file():
        _call(source_command(task, runs))
    if line is None:
        config = source / "config.yml"
    else:
        command = edit_command(task, line, runs, source / "nerfstudio_models", settings.preset)
        _call(command)
        config = _folder_of(command) / "config.yml"
    return render_path(config), {"seconds": time.perf_counter() - began}


def source_command(task: Task, runs: Path) -> list[str]:
    """How a scene is trained before it is edited: nerfacto, 30,000 steps."""
    assert task.path is not None
    return [
        *_ns_train("nerfacto", task.path, runs, file_name(task.path.name), SOURCE),
        *("--max-num-iterations", str(SOURCE_STEPS)),
    ]


def edit_command(task: Task, line: Line, runs: Path, load_dir: Path, preset: str) -> list[str]:
    """How a line edits a trained scene."""
    assert task.path is not None
    method = "csd-edit" if preset == "full" else f"csd-edit-{preset}"
    options = [word for key, value in line.options.items() for word in (f"--{key}", str(value))]
    return [
        *_ns_train(method, task.path, runs, file_name(task.name), file_name(line.name)),
        *("--load-dir", str(load_dir)),
        *("--pipeline.prompt", task.prompt),
        *options,
    ]


def _ns_train(method: str, data: Path, runs: Path, name: str, run: str) -> list[str]:
    return [
        str(Path(sys.executable).parent / "ns-train"),
        method,
        *("--data", str(data)),
        *("--output-dir", str(runs)),
        *("--experiment-name", name),
        *("--timestamp", run),
        # Without a viewer the command ends with the training.
        *("--vis", "tensorboard"),
    ]


def _folder_of(command: list[str]) -> Path:
    options = dict(zip(command[2::2], command[3::2], strict=True))
    folder = Path(options["--output-dir"]) / options["--experiment-name"]
    return folder / command[1] / options["--timestamp"]


def _call(command: list[str]) -> None:
    print(" ".join(f"'{word}'" if " " in word else word for word in command), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        raise ChildProcessError(
            f"ns-train must end with status 0, got {status}; its output says why."
        )


@torch.no_grad()
def render_path(load_config: Path) -> Float[Tensor, "n 3 h w"]:
    """Render a path through a run's held-out views, in their order."""
    from nerfstudio.cameras.camera_paths import get_interpolated_camera_path
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, _ = eval_setup(load_config, test_mode="test")
    dataset: Any = pipeline.datamanager.eval_dataset  # pyright: ignore[reportAttributeAccessIssue]
    cameras = dataset.cameras.to("cpu")
    path = get_interpolated_camera_path(cameras, FRAMES_BETWEEN_VIEWS, order_poses=False)
    path.height = cameras.height[:1].expand(len(path), 1).clone()
    path.width = cameras.width[:1].expand(len(path), 1).clone()
    path = path.to(pipeline.device)
    frames = []
    with warnings.catch_warnings():
        # nerfstudio indexes tensors in a way that torch warns of at every image.
        warnings.filterwarnings("ignore", category=UserWarning, module="nerfstudio")
        for index in range(len(path)):
            outputs = pipeline.model.get_outputs_for_camera(path[index : index + 1])
            frames.append(outputs["rgb"].permute(2, 0, 1).float().clamp(0, 1).cpu())
    return torch.stack(frames)


def _tiny_scene(position: int, store: Store, size: TinySize) -> Scene:
    from benchmarks.engine import trials
    from benchmarks.truth.scenes import draw_scene

    given = draw_scene(position, "benchmark", trials.Store(store.output / "scenes"))
    prompt = given.edit.instructions[0]
    task = Task(given.name, prompt, "a scene of shapes", f"a scene of shapes, {prompt}")

    def truth() -> Float[Tensor, "n 3 h w"]:
        kept = store.frames(TRUTH, task.name)
        assert kept is not None, "It is kept with the source."
        return to_01(kept)

    return Scene(task, functools.partial(_tiny_run, given, task, store, size), truth)


def _tiny_run(
    given: SceneInput, task: Task, store: Store, size: TinySize, line: Line | None
) -> Made:
    """Renders of the held-out views, by the benchmark's machinery."""
    from benchmarks.engine import trials
    from benchmarks.truth.scene_runs import run_scene_arm, train_source

    folder = store.output / "scenes"
    source = train_source(given, trials.Store(folder), steps=size.source_steps)
    method = SOURCE if line is None else (line.method or "")
    result = run_scene_arm(
        method,
        given,
        source,
        folder / "runs" / method / given.folder.parent.name,
        prior=_tiny_prior(),
        options=size.scene,
    )
    if line is None:
        store.keep(TRUTH, task.name, to_bytes(result.truth01), {})
    return result.edited01, {"seconds": result.seconds, "evaluations": result.evaluations}


@functools.cache
def _tiny_prior() -> Any:
    from csd_nerf import priors

    return priors.load("tiny")
