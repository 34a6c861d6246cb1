"""The demonstration: makes a sample scene, edits it by `ns-train csd-edit-tiny`, measures it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from csd_nerf.evaluation.compare import compare_scene
from csd_nerf.evaluation.options import DemoSettings
from csd_nerf.evaluation.scene_runs import SceneRun
from csd_nerf.media.files import write_json
from csd_nerf.synthetic.dataset import write_dataset
from csd_nerf.synthetic.edits import find_edit
from csd_nerf.synthetic.options import SceneSettings


def run_demo(settings: DemoSettings) -> None:
    """Make a scene, train and edit it with `ns-train`, and measure the result.

    Args:
        settings: The settings. The folder `output` gets before_after.mp4, contact_sheet.png,
            metrics.json, the data set and nerfstudio's run; earlier ones are replaced.

    Raises:
        ValueError: If the edit is unknown.
        ChildProcessError: If ns-train fails.
    """
    output, known = settings.output, find_edit(settings.edit)
    prompt = known.wording(settings.edit)
    scene = SceneSettings(scene=settings.scene, size=settings.size)
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    for sheet in output.glob("round_*.png"):
        sheet.unlink()
    write_dataset(output / "data", scene, edit=prompt, overwrite=True)
    seconds["scene"] = round(time.perf_counter() - began, 1)

    began = time.perf_counter()
    config = _train(output, prompt, settings.train_options)
    seconds["train_and_edit"] = round(time.perf_counter() - began, 1)

    began = time.perf_counter()
    metrics = compare_scene(config, output, edit=known.name)
    seconds["compare"] = round(time.perf_counter() - began, 1)
    _copy_rounds(config.parent, output)
    metrics |= {"seconds": seconds, "train_options": settings.train_options, "scene": vars(scene)}
    write_json(output / "metrics.json", metrics)
    print(
        f"\n{prompt!r}: held-out views are {metrics['psnr_source']:.1f} dB from the true edit "
        f"before and {metrics['psnr_edited']:.1f} dB after, in {sum(seconds.values()):.0f} s.\n"
        f"Look at {output / 'before_after.mp4'} and {output / 'contact_sheet.png'}."
    )


def _train(output: Path, prompt: str, options: Sequence[str]) -> Path:
    """Run `ns-train csd-edit-tiny` on the scene; returns the run's config.yml."""
    runs = output / "nerfstudio"
    shutil.rmtree(runs, ignore_errors=True)
    options = ["--pipeline.prompt", prompt, *options]
    return SceneRun("csd-edit-tiny", output / "data", runs, "demo", "run", options).train()


def _copy_rounds(run: Path, output: Path) -> None:
    """Copy the contact sheets of the editing rounds to the output folder."""
    for index, sheet in enumerate(sorted(run.rglob("round*.png"))):
        shutil.copy(sheet, output / f"round_{index + 1}.png")
