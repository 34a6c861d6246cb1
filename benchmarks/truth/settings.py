"""Settings of the benchmark with known truth; imports nothing heavy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks.engine.options import Preset

EXACT = "exact"
"""Name of the prior that knows the answers of each input; see `benchmarks.truth.exact_prior`."""
DOMAINS = {
    "scene": "benchmarks.truth.scenes:SceneDomain",
    "splat-scene": "benchmarks.truth.scenes:SplatSceneDomain",
    "panorama": "benchmarks.truth.panoramas:PanoramaDomain",
    "video": "benchmarks.truth.videos:VideoDomain",
    "cost-video": "benchmarks.truth.cost_videos:CostVideoDomain",
    "flow-video": "benchmarks.truth.flow_videos:FlowVideoDomain",
    "choice": "benchmarks.truth.choice:ChoiceDomain",
    "choice-scene": "benchmarks.truth.choice_scenes:ChoiceSceneDomain",
}
"""The domains, as `module:class`, imported when needed; each class is a `Domain`, see
`benchmarks.truth.domains`."""


@dataclass(frozen=True)
class Counts:
    """How many runs of each method a table has."""

    inputs: int
    """Number of inputs."""
    seeds: int
    """Number of runs on each input, with different seeds."""


COUNTS = {
    "scene": Counts(8, 2),
    "splat-scene": Counts(8, 2),
    "panorama": Counts(12, 3),
    "video": Counts(12, 3),
    "cost-video": Counts(12, 1),
    "flow-video": Counts(12, 1),
    "choice": Counts(30, 5),
    "choice-scene": Counts(4, 2),
}
"""The default counts. A run of a scene takes minutes; choices have ten inputs of each medium."""
TUNING_COUNTS = {
    "scene": Counts(4, 1),
    "panorama": Counts(8, 1),
    "video": Counts(8, 1),
    "cost-video": Counts(4, 1),
    "flow-video": Counts(4, 1),
    "choice": Counts(12, 1),
}
"""The default counts of `--tune`: each of the edits that are tuned on, for scenes half of them.
Other arms of scenes than Instruct-NeRF2NeRF's, and scenes with choices, take what was tuned on
other domains; see `tuned.SHARED`."""
_DEFAULT = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the domain's)")


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
    inputs: Annotated[int | None, _DEFAULT] = None
    """Number of inputs. There are 12 edits, each with its own scene; more inputs repeat them.
    The domain's: 12, scenes 8, choice 30, choice-scene 4; with --tune 8, scene and flow-video 4,
    choice 12."""
    seeds: Annotated[int | None, _DEFAULT] = None
    """Number of runs of each method on each input, with different seeds.
    The domain's: 3, flow-video 1, scenes 2, choice 5; with --tune 1."""
    budgets: tuple[float, ...] = (1.0,)
    """Number of U-Net evaluations of every method, relative to csd with its preset.
    Tables show the first budget; several budgets give a plot of quality by cost."""
    arms: tuple[str, ...] = ()
    """Methods to compare; if not given, all."""
    baseline: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: csd; without mixing for choices)")
    ] = None
    """Method with which the paired differences of the others are computed.
    If it is not among the methods, the first takes its place."""
    media: Annotated[
        tuple[Literal["views", "video", "panorama"], ...] | None,
        tyro.conf.arg(help_behavior_hint="(default: all)"),
    ] = None
    """Media of the inputs, which take turns; for the domain choice only."""
    ablations: bool = False
    """Compare csd with variants of its settings instead of the default methods."""
    tune: bool = False
    """Choose learning rate, scales and the like of each arm on validation inputs, and keep them in
    benchmarks/truth/tuned/, where the benchmark reads them."""
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
        if self.domain != "choice" and (self.media is not None or self.prior == EXACT):
            raise ValueError(
                "--media and --prior exact need the domain choice, got the domain "
                f"{self.domain}; leave them out."
            )
        if self.tune and self.domain not in TUNING_COUNTS:
            raise ValueError(
                f"--tune needs one of {', '.join(TUNING_COUNTS)}, got {self.domain}, which takes "
                "the options of another one, see SHARED in tuned.py; tune these."
            )
        for name, count in dataclasses.asdict(self.counts).items():
            if count < 1:
                raise ValueError(f"--{name} must be at least 1, got {count}.")
        if not self.budgets or not all(budget > 0 for budget in self.budgets):
            raise ValueError(f"--budgets must be positive numbers, got {self.budgets}.")
        if self.tune:
            self._check_tune()

    def _check_tune(self) -> None:
        if self.prior == EXACT:
            raise ValueError("--tune needs a trained prior, got --prior exact; name another.")
        chosen = [name for name in self.options if name != "media"]
        if chosen or len(self.budgets) > 1:
            raise ValueError(
                "--tune chooses the options itself, at one budget; leave out "
                f"{', '.join(chosen) or 'all budgets but one'}."
            )

    @property
    def counts(self) -> Counts:
        """The numbers of inputs and seeds: the given ones, else the domain's."""
        default = (TUNING_COUNTS if self.tune else COUNTS)[self.domain]
        return Counts(
            default.inputs if self.inputs is None else self.inputs,
            default.seeds if self.seeds is None else self.seeds,
        )

    @property
    def options(self) -> dict[str, Any]:
        """The given options that replace those of all arms."""
        names = ("updates", "learning_rate", "text_scale", "image_scale", "media")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def run(self) -> None:
        """Run all trials that are not finished, and print the tables."""
        if self.tune:
            from benchmarks.truth.tune import run_tune

            print(run_tune(self))
            return
        from benchmarks.truth.run import run_truth

        print(run_truth(self))
