"""Text-to-3D by several distillations, measured: what `python -m benchmarks text-to-3d` runs.

For each prompt, arm and seed an object is trained and rendered from 12 sides (CSD Appendix C.2).
CLIP and Inception judge its views; where the prompt means a synthetic object, so does the truth.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from benchmarks.text_to_3d.measures import Judges, load_judges, measure
from benchmarks.text_to_3d.report import COLOUR, LIT, write_report
from benchmarks.text_to_3d.runs import (
    METHODS,
    RunFailedError,
    RunViews,
    method_config,
    preset,
    train_and_render,
)
from csd_nerf.core.settings import Distillation
from csd_nerf.evaluation.tables import Row
from csd_nerf.media.files import check_writable, write_json
from csd_nerf.media.frames import frame_writer
from csd_nerf.media.pixels import to_bytes
from csd_nerf.priors import fetch
from csd_nerf.priors.devices import find_device

ARMS: tuple[str, ...] = get_args(Distillation)
RESULT = "result.json"
"""What is kept of a finished run, in its folder."""
PROMPTS = "prompts.json"
"""The objects' texts, by which `reproduce table5` finds their views."""
_DEPTH = "depth"
_PACKAGES = ("csd_nerf", "torch", "nerfstudio", "diffusers", "open_clip_torch")


@dataclass(frozen=True, kw_only=True)
class TextTo3dSettings:
    """What is made and measured."""

    prompts: tuple[str, ...]
    """A text for each object."""
    method: str = METHODS[0]
    """The nerfstudio method."""
    seeds: int = 3
    """Runs of each prompt and arm."""
    arms: tuple[str, ...] = ARMS
    """Distillations that are compared."""
    steps: int | None = None
    """Training steps of a run; None means the method's own number."""
    prior: str | None = None
    """Name or folder of the text-to-image model; None means the method's own."""
    clip: str | None = None
    """An OpenCLIP model or a local folder of one; None leaves CLIP's columns empty."""
    reference: Path | None = None
    """Folder of pictures for FID."""
    inception: Path | None = None
    """Weights of FID's network; None means its usual download."""
    device: str | None = None
    """cpu or cuda; None means the method's own."""

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        if not self.prompts:
            raise ValueError("--prompts needs a prompt or more, got none; write one a line.")
        if len(set(self.prompts)) < len(self.prompts):
            twice = next(text for text in self.prompts if self.prompts.count(text) > 1)
            raise ValueError(f"--prompts must name each prompt once, got {twice!r} again.")
        if self.method not in METHODS:
            raise ValueError(f"--method must be one of {', '.join(METHODS)}, got {self.method!r}.")
        if not self.arms or not set(self.arms) <= set(ARMS) or len({*self.arms}) < len(self.arms):
            raise ValueError(
                f"--arms needs one or more of {', '.join(ARMS)}, each once, got "
                f"{' '.join(self.arms) or 'none'}."
            )
        for name in ("seeds", "steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}.")
        if self.inception is not None and self.reference is None:
            raise ValueError(f"--inception {self.inception} is for FID: add --reference DIR.")
        if self.device not in (None, "cpu", "cuda"):
            raise ValueError(
                f"--device must be cpu or cuda, got {self.device!r}; choose among GPUs by "
                "CUDA_VISIBLE_DEVICES."
            )


@dataclass(frozen=True)
class Plan:
    """How all runs are made, with the method's own values where none were given."""

    method: str
    steps: int
    prior: str
    device: str


@dataclass(frozen=True)
class Job:
    """One run, and its folder."""

    prompt: str
    arm: str
    seed: int
    folder: Path


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a text file: one a line, without blank lines and those that begin with #.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no prompt, or isn't text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--prompts must be a text file, one prompt a line, got {path}.")
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"--prompts must be text in UTF-8, got {path}; save it as such.") from None
    prompts = tuple(line for line in lines if line and not line.startswith("#"))
    if not prompts:
        raise ValueError(f"--prompts needs a prompt or more, got none in {path}; write one a line.")
    return prompts


def run_text_to_3d(output: Path, settings: TextTo3dSettings, *, note: Callable[[str], None]) -> str:
    """Run what is missing in `output`, and write results.json, .md and .csv, and objects.png.

    Args:
        output: Folder; below runs/ARM it holds a folder for each run with its views in colour/,
            lit/ and depth/. Finished runs, failed ones too, aren't run again; more prompts, arms or
            seeds are added.
        settings: What to make and measure.
        note: Told in a line which measures are left out.

    Returns:
        The tables in markdown.

    Raises:
        ValueError: If an option is wrong, or the folder holds runs of other settings.
        FileNotFoundError: If weights or a folder are missing.
    """
    plan = _plan(settings)
    check_writable(output / "results.json")
    identity = _identity(settings, plan)
    jobs = list(_jobs(output, settings))
    missing = [job for job in jobs if _kept(job, identity, output) is None]
    if settings.clip is None:
        note("CLIP similarities are left out: they need --clip MODEL_OR_DIR.")
    if missing:
        fetch(plan.prior, kind="text")
        judges = load_judges(
            clip=settings.clip,
            reference=settings.reference,
            inception=settings.inception,
            device=plan.device,
        )
        _run_all(missing, plan, judges, identity)
    rows = [row for job in jobs if (row := _kept(job, identity, output)) is not None]
    values = dataclasses.asdict(settings) | dataclasses.asdict(plan)
    values = json.loads(json.dumps(values, default=str))
    record = {"settings": values, "versions": _versions(), "rows": rows}
    write_json(output / "results.json", record)
    write_json(output / PROMPTS, _scenes(jobs, rows))
    folders = {(job.prompt, job.arm, job.seed): job.folder for job in jobs}
    return write_report(output, rows, folders, with_fid=settings.reference is not None)


def _scenes(jobs: Sequence[Job], rows: Sequence[Row]) -> dict[str, str]:
    """The texts of the objects that no arm failed to make, as `reproduce table5` reads them."""
    failed = {job.folder.name for job, row in zip(jobs, rows, strict=True) if row["failure"]}
    return {job.folder.name: job.prompt for job in jobs if job.folder.name not in failed}


def _plan(settings: TextTo3dSettings) -> Plan:
    config = preset(settings.method)
    device = settings.device or config.machine.device_type
    find_device(device)
    steps = settings.steps or config.max_num_iterations
    return Plan(settings.method, steps, settings.prior or config.pipeline.prior, device)


def _identity(settings: TextTo3dSettings, plan: Plan) -> dict[str, Any]:
    """What decides a run's result beside prompt, arm and seed."""
    named: dict[str, Any] = {"method": plan.method, "steps": plan.steps}
    places = {"prior": plan.prior, "clip": settings.clip}
    places |= {"reference": settings.reference, "inception": settings.inception}
    for name, value in places.items():
        named[name] = str(Path(value).resolve()) if value and Path(value).exists() else value
    return named


def _jobs(output: Path, settings: TextTo3dSettings) -> Iterator[Job]:
    for prompt in settings.prompts:
        words = "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:40]
        # Prompts may differ in signs, or after the fortieth letter.
        name = f"{words}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"
        for arm in settings.arms:
            for seed in range(settings.seeds):
                yield Job(prompt, arm, seed, output / "runs" / arm / f"{name}-seed{seed}")


def _kept(job: Job, identity: dict[str, Any], output: Path) -> Row | None:
    """The row of a finished run, or None."""
    path = job.folder / RESULT
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text("utf8"))
        before, row = kept["settings"], kept["row"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} must be the record of a run, but can't be read as one; remove it to run anew."
        ) from None
    different = [name for name in identity if before.get(name) != identity[name]]
    if different:
        raise ValueError(
            f"{output} holds runs with other settings of {', '.join(different)}; name another "
            "--output."
        )
    return row


def _run_all(jobs: Sequence[Job], plan: Plan, judges: Judges, identity: dict[str, Any]) -> None:
    """Run jobs, and keep what they make, each when it is finished."""
    with tqdm(total=len(jobs) * plan.steps, unit="step") as bar:
        for number, job in enumerate(jobs, start=1):
            bar.set_description(f"{job.arm}, seed {job.seed}: {job.prompt}"[:48])
            row = _run(job, plan, judges, bar.update)
            write_json(job.folder / RESULT, {"settings": identity, "row": row})
            # A failed run ends before its last step.
            bar.update(number * plan.steps - bar.n)


def _run(job: Job, plan: Plan, judges: Judges, on_step: Callable[[], object]) -> Row:
    """Make and measure one object, in place of what an interrupted run left."""
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    config = method_config(
        plan.method,
        job.folder,
        prompt=job.prompt,
        arm=job.arm,
        seed=job.seed,
        steps=plan.steps,
        prior=plan.prior,
        device=plan.device,
    )
    began = time.perf_counter()
    row: Row = {"prompt": job.prompt, "arm": job.arm, "seed": job.seed, "failure": None}
    try:
        views = train_and_render(config, job.folder, on_step=on_step)
    except RunFailedError as error:
        return {**row, "failure": str(error)}
    seconds = round(time.perf_counter() - began, 1)
    _save_views(job.folder, views)
    return {**row, "seconds": seconds, **measure(views, job.prompt, judges)}


def _save_views(folder: Path, views: RunViews) -> None:
    """Write the views as `python -m benchmarks paper table5` reads them."""
    kept = {COLOUR: views.colour01, LIT: views.lit01, _DEPTH: views.depth01}
    for name, image01 in kept.items():
        height, width = image01.shape[2:]
        with frame_writer(folder / name, size=(height, width)) as write:
            for frame in to_bytes(image01):
                write(frame)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }
