"""Settings of the benchmark with known truth; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks.engine.options import Preset

EXACT = "exact"
"""Name of the prior that knows the answers of each input; see `benchmarks.truth.exact_prior`."""
DOMAINS = {
    "scene": "benchmarks.truth.scenes:SceneDomain",
    "panorama": "benchmarks.truth.panoramas:PanoramaDomain",
    "video": "benchmarks.truth.videos:VideoDomain",
    "choice": "benchmarks.truth.choice:ChoiceDomain",
}
"""The domains, as `module:class`, imported when needed; each class is a `Domain`, see
`benchmarks.truth.domains`."""


@dataclass(frozen=True, kw_only=True)
class TruthSettings:
    """Compare all methods on inputs whose true edit is known, with the bundled prior."""

    domain: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar=f"{{{','.join(DOMAINS)}}}")]
    """Domain of the inputs."""
    output: Path
    """Folder for tables, curves, pictures and results.
    Finished trials in it are not run again."""
    prior: str = "tiny"
    """The bundled prior, or a folder with another one.
    exact, for the domain choice only: an exact prior of each input's answers, without a network."""
    split: Literal["validation", "benchmark"] = "benchmark"
    """Split of the inputs' seeds: tune on validation, report on benchmark."""
    inputs: int = 12
    """Number of inputs. There are 12 edits, each with its own scene; more inputs repeat them."""
    seeds: int = 1
    """Number of runs of each method on each input, with different seeds."""
    budgets: tuple[float, ...] = (1.0,)
    """Number of U-Net evaluations of every method, relative to csd with its preset.
    Tables show the first budget; several budgets give a plot of quality by cost."""
    arms: tuple[str, ...] = ()
    """Methods to compare; if not given, all."""
    baseline: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: csd; none-shared-noise for choice)")
    ] = None
    """Method with which the paired differences of the others are computed."""
    media: Annotated[
        tuple[Literal["views", "video", "panorama"], ...] | None,
        tyro.conf.arg(help_behavior_hint="(default: all)"),
    ] = None
    """Media of the inputs, which take turns; for the domain choice only."""
    ablations: bool = False
    """Compare csd with variants of its settings instead of the default methods."""
    tune: bool = False
    """Choose the options of each arm on validation inputs, for the domain choice only.
    They are kept in benchmarks/truth/tuned/, where the benchmark reads them."""
    updates: Preset[int] = None
    """Mean number of updates of each cell, frame or view by csd.
    Other methods get as many U-Net evaluations."""
    learning_rate: Preset[float] = None
    """Step size of all methods, in latent units."""
    text_scale: Preset[float] = None
    """w_y of all methods: how strongly the instruction is followed."""
    image_scale: Preset[float] = None
    """w_s of all methods: how closely the source is kept."""

    def __post_init__(self) -> None:
        """Check all that can be checked without loading a domain."""
        if self.domain not in DOMAINS:
            raise ValueError(f"The domain must be one of {', '.join(DOMAINS)}, got {self.domain}.")
        chosen = self.media is not None or self.prior == EXACT or self.tune
        if self.domain != "choice" and chosen:
            raise ValueError(
                "--media, --tune and --prior exact need the domain choice, got the domain "
                f"{self.domain}; leave them out."
            )
        if self.tune and self.prior == EXACT:
            raise ValueError("--tune needs a trained prior, got --prior exact; name another.")
        for name in ("inputs", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}.")
        if not self.budgets or not all(budget > 0 for budget in self.budgets):
            raise ValueError(f"--budgets must be positive numbers, got {self.budgets}.")

    @property
    def options(self) -> dict[str, Any]:
        """The given options that replace those of all arms."""
        names = ("updates", "learning_rate", "text_scale", "image_scale", "media")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def run(self) -> None:
        """Run all trials that are not finished, and print the tables."""
        if self.tune:
            from benchmarks.truth.choice_tuning import run_tune

            print(run_tune(self))
            return
        from benchmarks.truth.run import run_truth

        print(run_truth(self))
