"""The demonstration: makes a sample scene, edits it by `ns-train`, measures it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from csd_nerf.evaluation.compare import FILES, compare_scene
from csd_nerf.evaluation.options import DemoSettings
from csd_nerf.evaluation.scene_runs import SceneRun
from csd_nerf.media.files import write_json
from csd_nerf.synthetic.dataset import write_dataset
from csd_nerf.synthetic.edits import find_edit
from csd_nerf.synthetic.options import SceneSettings

_RUNS, _NAME, _RUN = "nerfstudio", "demo", "run"
"""Folder of nerfstudio's runs, and the names that they have there."""
RECORD = "demo.json"
"""File by which a folder is known to be a demonstration's; it lists the pictures of the rounds."""


def run_demo(settings: DemoSettings) -> None:
    """Make a scene, train and edit it with `ns-train`, and measure the result.

    Args:
        settings: The settings. The folder `output` gets before_after.mp4 (and .webp),
            contact_sheet.png, metrics.json, the data set and nerfstudio's run.

    Raises:
        ValueError: If the edit is unknown.
        FileExistsError: If the folder holds something, and is not to be replaced or is not an
            earlier demonstration's.
        ChildProcessError: If ns-train fails.
    """
    output, known = settings.output, find_edit(settings.edit)
    prompt = known.wording(settings.edit)
    scene = SceneSettings(scene=settings.scene, size=settings.size)
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    _clear(output, overwrite=settings.overwrite)
    write_dataset(output / "data", scene, edit=prompt, overwrite=True)
    seconds["scene"] = round(time.perf_counter() - began, 1)

    began = time.perf_counter()
    config = _run_in(
        output, settings.method, ["--pipeline.prompt", prompt, *settings.train_options]
    ).train()
    seconds["train_and_edit"] = round(time.perf_counter() - began, 1)

    began = time.perf_counter()
    metrics = compare_scene(config, output, edit=known.name)
    seconds["compare"] = round(time.perf_counter() - began, 1)
    _copy_rounds(config.parent, output)
    metrics |= {"seconds": seconds, "train_options": settings.train_options, "scene": vars(scene)}
    write_json(output / "metrics.json", metrics)
    activate = "" if shutil.which("ns-viewer") else "  source .venv/bin/activate\n"
    print(
        f"\n{prompt!r}: held-out views are {metrics['psnr_source']:.1f} dB from the true edit "
        f"before and {metrics['psnr_edited']:.1f} dB after, in {sum(seconds.values()):.0f} s.\n"
        "Look at:\n"
        f"  {output / 'before_after.mp4'}   held-out views, before and after\n"
        f"  {output / 'contact_sheet.png'}  the same beside photographs and true edits\n"
        f"  {output / 'round_1.png'}        what the first round made of the photographs\n"
        f"Type next:\n{activate}"
        f"  ns-viewer --load-config {config}\n"
        f'  csd-nerf demo --overwrite --output {output} --scene 14 --edit "make the floor water"'
        "   (csd-nerf edits lists others)\n"
        "  csd-nerf -h"
    )


def _clear(output: Path, *, overwrite: bool) -> None:
    """Make the folder, without what an earlier demonstration made but its data set.

    What the user added to it stays.
    """
    output.mkdir(parents=True, exist_ok=True)
    record = output / RECORD
    if any(output.iterdir()):
        if not record.is_file():
            raise FileExistsError(
                "The demo's folder must be new or that of an earlier demo, got "
                f"{output}, which has no {RECORD}; name another --output."
            )
        if not overwrite:
            raise FileExistsError(
                f"The demo's folder must be a new one, got {output}; pass --overwrite to replace "
                "the demo in it, or name another --output."
            )
        pictures = json.loads(record.read_text("utf8"))["pictures"]
        for name in (*pictures, *FILES):
            (output / Path(name).name).unlink(missing_ok=True)
        for run in (output / _RUNS / _NAME).glob(f"*/{_RUN}"):
            shutil.rmtree(run, ignore_errors=True)
    write_json(record, {"pictures": []})


def _run_in(output: Path, method: str, options: Sequence[str]) -> SceneRun:
    """The run of `ns-train` on the scene."""
    return SceneRun(method, output / "data", output / _RUNS, _NAME, _RUN, options)


def _copy_rounds(run: Path, output: Path) -> None:
    """Copy the contact sheets of the editing rounds to the output folder."""
    sheets = sorted(run.rglob("round*.png"))
    names = [f"round_{index + 1}.png" for index in range(len(sheets))]
    write_json(output / RECORD, {"pictures": names})
    for sheet, name in zip(sheets, names, strict=True):
        shutil.copy(sheet, output / name)
