"""Settings of the computed costs of several GPUs; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ScalingSettings:
    """Compute the share of an edit's time that several GPUs communicate; nothing is run."""

    output: Path | None = None
    """Markdown file to make of the tables."""
    gpus: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Numbers of GPUs."""
    particles: tuple[int, ...] = (16, 64, 256, 1000)
    """Numbers of images that are edited together."""
    milliseconds: float = 1.4
    """Time of one model evaluation on one GPU; the default is an estimate for Stable Diffusion 1.5
    at 512x512 pixels in bfloat16 on an H200, not a measurement."""
    evaluations: int = 5
    """Evaluations of an image in an iteration."""
    kib: float = 64.0
    """Size of an image's latent in KiB; the default is 4 x 64 x 64 numbers in float32."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("gpus", "particles"):
            value = getattr(self, name)
            if not value or min(value) < 1:
                raise ValueError(f"--{name} must be at least 1 each, got {value}.")
        for name in ("milliseconds", "evaluations", "kib"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"--{name} must be above 0, got {value}.")

    def run(self) -> None:
        """Print the tables."""
        from benchmarks.scaling.tables import scaling_tables
        from csd_nerf.media.files import write_text

        tables = scaling_tables(self)
        print(tables)
        if self.output is not None:
            write_text(self.output, tables)
