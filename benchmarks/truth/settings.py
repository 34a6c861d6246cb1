"""What the user asks of the benchmark with known truth; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks.engine.options import Preset

DOMAINS = {
    "scene": "benchmarks.truth.scenes:SceneDomain",
    "panorama": "benchmarks.truth.panoramas:PanoramaDomain",
    "video": "benchmarks.truth.videos:VideoDomain",
}
"""What can be edited, by the names of classes, which are loaded when they are needed; each has
the attributes of `benchmarks.truth.domains.Domain`."""


@dataclass(frozen=True, kw_only=True)
class TruthSettings:
    """Compare all methods on inputs whose true edit is known, with the bundled prior."""

    domain: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar=f"{{{','.join(DOMAINS)}}}")]
    """What is edited."""
    output: Path
    """Folder for tables, curves, pictures and the rows behind them.
    What is there is not run again."""
    split: Literal["validation", "benchmark"] = "benchmark"
    """Family of seeds that the inputs come from; tune on validation, report on benchmark."""
    inputs: int = 12
    """Number of inputs; there are 12 edits, each on a scene of its own."""
    seeds: int = 1
    """Times that each input is edited, with another seed each time."""
    budgets: tuple[float, ...] = (1.0,)
    """U-Net evaluations of every method, in those that csd makes by its preset.
    The first makes the table; several make a plot of quality by cost."""
    arms: tuple[str, ...] = ()
    """Rows of the table; all without names."""
    baseline: str = "csd"
    """Row to which the others' paired differences are taken."""
    ablations: bool = False
    """Run csd and departures from its settings instead of the usual rows."""
    updates: Preset[int] = None
    """How often a place is updated by csd; other methods get as many U-Net evaluations."""
    learning_rate: Preset[float] = None
    """Step size of all arms."""
    text_scale: Preset[float] = None
    """w_y of all arms."""
    image_scale: Preset[float] = None
    """w_s of all arms."""

    def __post_init__(self) -> None:
        """Check what can be checked without loading a domain."""
        if self.domain not in DOMAINS:
            raise ValueError(f"The domain must be one of {', '.join(DOMAINS)}, got {self.domain}.")
        for name in ("inputs", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}.")
        if not self.budgets or not all(budget > 0 for budget in self.budgets):
            raise ValueError(f"--budgets must be positive numbers, got {self.budgets}.")

    @property
    def options(self) -> dict[str, Any]:
        """The options of all arms that were given."""
        names = ("updates", "learning_rate", "text_scale", "image_scale")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def run(self) -> None:
        """Run what is missing, and print the tables."""
        from benchmarks.truth.run import run_truth

        print(run_truth(self))
