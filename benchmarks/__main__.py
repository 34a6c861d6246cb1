"""The `python -m benchmarks` command: experiments; imports nothing heavy before one is run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from benchmarks.paper.settings import PaperSettings
from benchmarks.profile.settings import ProfileSettings
from benchmarks.user_study.settings import UserStudySettings
from csd_nerf.cli import call

_Number = TypeVar("_Number", int, float)
_Preset = Annotated[
    _Number | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: the preset's)")
]


@dataclass
class Truth:
    """Compare all methods on inputs whose true edit is known, with the bundled prior."""

    domain: Annotated[Literal["scene", "panorama", "video"], tyro.conf.Positional]
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
    ablations: bool = False
    """Run csd and departures from its settings instead of the usual rows."""
    updates: _Preset[int] = None
    """How often a place is updated by csd; other methods get as many U-Net evaluations."""
    learning_rate: _Preset[float] = None
    """Step size of all arms."""
    text_scale: _Preset[float] = None
    """w_y of all arms."""
    image_scale: _Preset[float] = None
    """w_s of all arms."""

    def run(self) -> None:
        """Run what is missing, and print the table."""
        from benchmarks.truth.run import BenchmarkSettings, run_benchmark

        names = ("updates", "learning_rate", "text_scale", "image_scale")
        settings = BenchmarkSettings(
            domain=self.domain,
            split=self.split,
            inputs=self.inputs,
            seeds=self.seeds,
            budgets=self.budgets,
            arms=self.arms,
            ablations=self.ablations,
            options={name: value for name in names if (value := getattr(self, name)) is not None},
        )
        print(run_benchmark(self.output, settings))


@dataclass
class TextTo3d:
    """Make objects from texts by several distillations, and measure them from 12 sides."""

    prompts: Path
    """Text file, one prompt a line; blank lines and those that begin with # are skipped."""
    output: Path
    """Folder for results.json, .md and .csv, objects.png and the runs.
    What is finished there is not run again."""
    method: Literal["csd-dreamfusion", "csd-dreamfusion-tiny"] = "csd-dreamfusion"
    """Method of ns-train; -tiny runs on a CPU with the bundled prior."""
    seeds: int = 3
    """Runs of each prompt and arm; equal seeds begin equally in all arms."""
    arms: tuple[str, ...] = ("csd", "sds")
    """Distillations that are compared."""
    steps: _Preset[int] = None
    """Training steps of a run; warm-up, decay and the unshaded beginning keep their shares."""
    prior: str | None = None
    """Text-to-image model, by name or as a local folder; the method's own if not given."""
    clip: str | None = None
    """OpenCLIP model, by name or as a local folder, that judges how views fit their text."""
    reference: Path | None = None
    """Folder of pictures for FID."""
    inception: Path | None = None
    """File with the weights of FID's network, instead of its download."""
    device: str | None = None
    """cpu or cuda, for training and networks; the method's own if not given."""

    def run(self) -> None:
        """Run what is missing, write the results and print the tables."""
        from benchmarks.text_to_3d.run import TextTo3dSettings, read_prompts, run_text_to_3d

        values = {item.name: getattr(self, item.name) for item in fields(TextTo3dSettings)}
        values["prompts"] = read_prompts(self.prompts)
        print(run_text_to_3d(self.output, TextTo3dSettings(**values), note=_note), end="")


def _note(text: str) -> None:
    print(f"benchmarks: {text}", file=sys.stderr)


COMMANDS: dict[str, type] = {
    "truth": Truth,
    "paper": PaperSettings,
    "profile": ProfileSettings,
    "user-study": UserStudySettings,
    "text-to-3d": TextTo3d,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; a user's mistake ends in one line and exit code 1."""
    call("python -m benchmarks", COMMANDS, arguments)


if __name__ == "__main__":
    main()
