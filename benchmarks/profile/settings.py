"""Settings of the cost profile; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    """Measure the time and memory of an edit, compared with a naive loop."""

    output: Path
    """JSON file to make; files with the suffixes .md and .png are written beside it."""
    prior: str | None = None
    """Name or folder of the prior; tiny if neither this nor --random-weights is given."""
    random_weights: Literal["sd15"] | None = None
    """Architecture of a model with random weights, instead of a prior."""
    particles: tuple[int, ...] = (4, 16)
    """Numbers of images that are edited together; each number is measured."""
    size: int | None = None
    """Edge of the images in pixels; if not given, the size that the prior was trained on."""
    iterations: int = 10
    """Iterations per run. With few iterations the share of the VAE is larger than in a real
    edit."""
    repetitions: int = 5
    """Number of runs of each loop; the loops run in turns."""
    dtype: str = "float32"
    """Precision of the prior, such as bfloat16."""
    device: str | None = None
    """Device, such as cpu or cuda; if not given, a GPU if there is one, and the CPU for tiny."""
    channels_last: bool = False
    """Use the channels-last memory format for the editor's U-Net, but not for the naive loop's."""
    compile: bool = False
    """Compile the editor's U-Net, but not the naive loop's."""
    max_batch: int | None = None
    """Largest number of evaluations in one call of the editor's U-Net; no limit if not given."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.prior is not None and self.random_weights is not None:
            raise ValueError(
                f"--random-weights {self.random_weights} takes the prior's place, got --prior "
                f"{self.prior} as well; give one of them."
            )
        if not self.particles or min(self.particles) < 1:
            raise ValueError(f"--particles must be at least 1 each, got {self.particles}.")
        for name in ("iterations", "repetitions", "max_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")

    def run(self) -> None:
        """Measure, write the results and print the table."""
        from benchmarks.profile.run import run_profile

        print(run_profile(self))
