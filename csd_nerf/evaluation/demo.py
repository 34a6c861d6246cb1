"""The demonstration: a sample scene, its edit by `ns-train csd-edit-tiny`, before and after."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from csd_nerf.evaluation.compare import compare_scene
from csd_nerf.media.files import write_json
from csd_nerf.synthetic.dataset import SceneSettings, write_dataset
from csd_nerf.synthetic.edits import find_edit


def run_demo(output: Path, *, edit: str, settings: SceneSettings, train_options: list[str]) -> None:
    """Make a scene, train and edit it with the real command, and measure the result.

    Args:
        output: Folder that is made anew: before_after.mp4, contact_sheet.png, metrics.json, the
            data set and nerfstudio's run.
        edit: Wording of a known edit; it is the prompt.
        settings: The sample scene.
        train_options: Further options for ns-train.

    Raises:
        ValueError: If the edit is unknown.
        ChildProcessError: If ns-train fails.
    """
    known = find_edit(edit)
    prompt = known.wording(edit)
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    for sheet in output.glob("round_*.png"):
        sheet.unlink()
    write_dataset(output / "data", settings, edit=prompt, overwrite=True)
    seconds["scene"] = round(time.perf_counter() - began, 1)

    began = time.perf_counter()
    config = _train(output, prompt, train_options)
    seconds["train_and_edit"] = round(time.perf_counter() - began, 1)

    began = time.perf_counter()
    metrics = compare_scene(config, output, edit=known.name)
    seconds["compare"] = round(time.perf_counter() - began, 1)
    _copy_rounds(config.parent, output)
    metrics |= {"seconds": seconds, "train_options": train_options, "scene": vars(settings)}
    write_json(output / "metrics.json", metrics)
    print(
        f"\n{prompt!r}: held-out views are {metrics['psnr_source']:.1f} dB from the true edit "
        f"before and {metrics['psnr_edited']:.1f} dB after, in {sum(seconds.values()):.0f} s.\n"
        f"Look at {output / 'before_after.mp4'} and {output / 'contact_sheet.png'}."
    )


def _train(output: Path, prompt: str, options: list[str]) -> Path:
    """Run `ns-train csd-edit-tiny` on the scene; returns the run's config.yml."""
    runs = output / "nerfstudio"
    shutil.rmtree(runs, ignore_errors=True)
    command = [
        str(Path(sys.executable).parent / "ns-train"),
        "csd-edit-tiny",
        *("--data", str(output / "data")),
        *("--output-dir", str(runs)),
        *("--experiment-name", "demo"),
        *("--timestamp", "run"),
        *("--pipeline.prompt", prompt),
        *options,
    ]
    print(" ".join(f"'{word}'" if " " in word else word for word in command), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        raise ChildProcessError(
            f"ns-train must end with status 0, got {status}; its output says why."
        )
    return runs / "demo" / "csd-edit-tiny" / "run" / "config.yml"


def _copy_rounds(run: Path, output: Path) -> None:
    """Bring the contact sheets of the editing rounds to where the other pictures are."""
    for index, sheet in enumerate(sorted(run.rglob("round*.png"))):
        shutil.copy(sheet, output / f"round_{index + 1}.png")
