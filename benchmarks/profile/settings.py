"""What the user asks of the cost profile; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    """Measure what an edit costs and where its time goes, beside a naive loop."""

    output: Path
    """JSON file to make; beside it .md and .png."""
    prior: str | None = None
    """Name or folder of the prior; the bundled tiny one if neither this nor --random-weights."""
    random_weights: Literal["sd15"] | None = None
    """Shape of a model with random weights, in the prior's place."""
    particles: tuple[int, ...] = (4, 16)
    """Images that are edited together; each number is measured."""
    size: int | None = None
    """Edge of the images in pixels; the prior's own if not given."""
    iterations: int = 10
    """Iterations of a run; few of them give the VAE a larger share than a whole edit has."""
    repetitions: int = 5
    """Runs of each loop, in turns."""
    dtype: str = "float32"
    """Number format of the prior, such as bfloat16."""
    device: str | None = None
    """Such as cpu or cuda; a GPU if there is one, the CPU for the bundled prior."""
    channels_last: bool = False
    """Lay our U-Net's weights out with the channels last; the naive loop keeps the usual way."""
    compile: bool = False
    """Compile our U-Net; the naive loop runs without."""
    max_batch: int | None = None
    """Most evaluations in one of our calls."""

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
