"""Settings of the measurements on a GPU; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

StageName = Literal[
    "tests",
    "evaluation-sd15",
    "evaluation-klein",
    "iteration",
    "vae",
    "memory-sd15",
    "memory-klein",
    "splats",
    "csd-edit",
    "csd-edit-splat",
]


@dataclass(frozen=True, kw_only=True)
class GpuSettings:
    """Check and measure on a GPU all that a CPU can't; needs no network and no weights."""

    output: Path
    """Folder for results.json and results.md, which are written after every stage."""
    minutes: float = 9.0
    """Time for all stages together. A stage that would take longer than what is left is not begun;
    they come in the order of their worth."""
    only: tuple[StageName, ...] = ()
    """Stages to run; all if none is given."""
    device: str = "cuda"
    """Device, such as cuda:1."""
    scale: Literal["full", "tiny"] = "full"
    """full: random models of the size of Stable Diffusion 1.5 and of FLUX.2 [klein]. tiny: small
    random models, to try the command itself, also with --device cpu."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.minutes < float("inf"):
            raise ValueError(f"--minutes must be positive, got {self.minutes}.")

    def run(self) -> int:
        """Run the stages, write the results and print the page; returns the exit code."""
        from benchmarks.gpu.run import run_gpu

        return run_gpu(self)
