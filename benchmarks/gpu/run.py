"""Runs `python -m benchmarks gpu`: stage after stage within the time, each written when it ends."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Stage
from benchmarks.gpu.report import page
from benchmarks.gpu.settings import GpuSettings
from benchmarks.gpu.sizes import SIZES
from benchmarks.profile.hardware import machine
from csd_nerf.media.files import check_writable, write_json, write_text
from csd_nerf.priors.devices import find_device

RESULTS, PAGE = "results.json", "results.md"


def run_gpu(settings: GpuSettings, stages: Sequence[Stage] | None = None) -> int:
    """Run the stages in their order, and write results.json and results.md after each.

    A stage that fails is recorded with its error in one line, and the next one follows.

    Args:
        settings: The settings.
        stages: What to run; None means `STAGES`, or those of them that the settings name.

    Returns:
        The exit code: 1 if a stage failed.

    Raises:
        ValueError: If there is no such device.
    """
    if stages is None:
        # Late: it imports nerfstudio.
        from benchmarks.gpu.stages import STAGES

        stages = [stage for stage in STAGES if stage.name in (settings.only or (stage.name,))]
    began = perf_counter()
    device = find_device(settings.device, bundled=False)
    settings.output.mkdir(parents=True, exist_ok=True)
    check_writable(settings.output / RESULTS)

    def seconds_left() -> float:
        return 60 * settings.minutes - (perf_counter() - began)

    is_tiny = settings.scale == "tiny"
    bench = Bench(device, SIZES[settings.scale], is_tiny, settings.output, seconds_left)
    results: dict[str, Any] = {
        "settings": {**dataclasses.asdict(settings), "output": str(settings.output)},
        "machine": {**machine(device), **_driver(device)},
        "stages": [_not_begun(stage) for stage in stages],
        "told": bench.told,
    }
    for number, stage in enumerate(stages):
        results["stages"][number] = _done(stage, bench)
        results["seconds"] = perf_counter() - began
        _write(settings, results)
    print(page(results))
    return 1 if any("error" in stage for stage in results["stages"]) else 0


def _done(stage: Stage, bench: Bench) -> dict[str, Any]:
    """The record of a stage, which is run if the time allows."""
    head = {"name": stage.name, "heading": stage.heading}
    left = bench.seconds_left()
    # Tiny models take no time.
    needed = 0.0 if bench.is_tiny else stage.seconds
    if left <= needed:
        why = f"it takes about {stage.seconds:.0f} s, and {max(left, 0):.0f} s were left."
        return {**head, "not_run": why}
    print(f"{stage.name} ...", file=sys.stderr, flush=True)
    began = perf_counter()
    try:
        found = stage.run(bench)
    # Whatever it is: the stages after it are worth as much as before.
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines() or [""]
        found = {"error": f"{type(error).__name__}: {lines[0]}".rstrip(": ")}
    return {**head, **found, "seconds": perf_counter() - began}


def _not_begun(stage: Stage) -> dict[str, Any]:
    return {"name": stage.name, "heading": stage.heading, "not_run": "the run ended before it."}


def _write(settings: GpuSettings, results: dict[str, Any]) -> None:
    write_json(settings.output / RESULTS, results)
    write_text(settings.output / PAGE, page(results))


def _driver(device: torch.device) -> dict[str, str]:
    """The versions of CUDA and of the driver."""
    tool = shutil.which("nvidia-smi")
    if device.type != "cuda" or tool is None:
        return {}
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    return {"cuda": str(torch.version.cuda), "driver": told[0] if told else "unknown"}
