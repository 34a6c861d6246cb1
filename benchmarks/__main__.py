"""The `python -m benchmarks` command: experiments; imports nothing heavy before one is run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from benchmarks.truth.settings import TruthSettings

_Number = TypeVar("_Number", int, float)
_Preset = Annotated[
    _Number | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: the preset's)")
]


@dataclass
class Paper:
    """Run a table or figure of the paper, and print ours beside its numbers.

    table5 scores folders of rendered views, as evaluate-text-to-3d makes them.
    """

    experiment: Annotated[
        Literal[
            "table1",
            "table2",
            "table3",
            "table4",
            "table5",
            "table8",
            "table9",
            "table10",
            "figure5",
            "figure7",
        ],
        tyro.conf.Positional,
    ]
    """1, 3, 9: videos. 2, 4: scenes. 8, 10 and the figures: panoramas. 5: text-to-3D."""
    output: Path
    """Folder for results, tables, plot and record.json. What is finished there is not run again."""
    data: Path | None = None
    """Inputs. Videos: prompts.json and the videos or folders of frames that it names.
    Scenes: prompts.json and nerfstudio data sets. Panoramas: pictures, prompts.json if wanted.
    table5: prompts.json with a text for each scene, and pictures in reference/ for FID."""
    tiny: bool = False
    """Synthetic inputs, the bundled prior and few steps instead; no --data."""
    peer: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=DIR: results of a method that this package hasn't, named like the inputs.
    FateZero, Pix2Video; for table5 csd and sds, whose DIR/SCENE/colour and DIR/SCENE/depth hold
    12 views each."""
    clip: str | None = None
    """OpenCLIP model or local folder that judges.
    Without it the paper's ViT-bigG-14, with --tiny none."""
    preset: Literal["full", "small"] = "full"
    """Of csd-nerf or ns-train csd-edit: small is half precision for a GPU of 12 GB."""
    device: str | None = None
    """Where prior and networks run; a GPU if there is one, the CPU with --tiny."""

    def run(self) -> None:
        """Run what is missing, and print the table."""
        from benchmarks.paper.run import parse_peers, run_reproduce
        from benchmarks.paper.settings import ReproduceSettings

        settings = ReproduceSettings(
            experiment=self.experiment,
            data=self.data,
            tiny=self.tiny,
            peers=parse_peers(self.peer),
            clip=self.clip,
            preset=self.preset,
            device=self.device,
        )
        print(run_reproduce(self.output, settings))


@dataclass
class Profile:
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
    """Iterations of a run."""
    repetitions: int = 5
    """Runs of each loop, in turns."""
    dtype: str = "float32"
    """Number format of the prior, such as bfloat16."""
    device: str | None = None
    """Such as cpu or cuda; a GPU if there is one, the CPU for the bundled prior."""
    channels_last: bool = False
    """Lay our U-Net's weights out with the channels last."""
    compile: bool = False
    """Compile our U-Net."""
    max_batch: int | None = None
    """Most evaluations in one of our calls."""

    def run(self) -> None:
        """Measure, write the results and print the table."""
        from benchmarks.profile.run import ProfileSettings, run_profile

        values = {item.name: getattr(self, item.name) for item in fields(ProfileSettings)}
        print(run_profile(self.output, ProfileSettings(**values)))


@dataclass
class UserStudy:
    """Write a page on which people rank methods blindly, or tabulate their answers."""

    examples: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="DIR...", help_behavior_hint="(required without --summarize)"),
    ]
    """Folders with prompt.txt, source.* and METHOD.* for each method: videos, pictures or folders
    of frames."""
    output: Path
    """The page, an .html file, with its .key.json beside it; the table with --summarize."""
    seed: int = 0
    """Of the ids under which the page knows the results."""
    summarize: tuple[Path, ...] = ()
    """Answers' files, a participant each."""
    key: Path | None = None
    """The .key.json of the answers' page."""
    paper: Literal["video", "scene"] | None = None
    """Print the numbers of CSD Table 6 (video) or 7 (scene) too."""

    def run(self) -> None:
        """Write the page, or the table and print it."""
        from benchmarks.user_study.study import summarize, write_study

        if not self.summarize:
            if self.key or self.paper:
                raise ValueError("--key and --paper need --summarize with the answers' files.")
            key = write_study(self.examples, self.output, seed=self.seed)
            print(f"Wrote {self.output} for participants, and {key} to keep for --summarize.")
            return
        if self.key is None or self.examples:
            raise ValueError("--summarize needs --key and no examples' folders.")
        print(summarize(self.summarize, self.key, self.output, paper=self.paper), end="")


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


Command = (
    Annotated[TruthSettings, tyro.conf.subcommand("truth")]
    | Annotated[Paper, tyro.conf.subcommand("paper")]
    | Annotated[Profile, tyro.conf.subcommand("profile")]
    | Annotated[UserStudy, tyro.conf.subcommand("user-study")]
    | Annotated[TextTo3d, tyro.conf.subcommand("text-to-3d")]
)


def _run(command: Command) -> None:
    if isinstance(command, TruthSettings):
        from benchmarks.truth.run import run_truth

        print(run_truth(command))
    else:
        command.run()


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; a user's mistake ends in one line and exit code 1."""
    # Before torch is loaded: threads that spin while they wait are slow on cores with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        command = tyro.cli(
            Command,
            prog="python -m benchmarks",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        _run(command)
    except (ValueError, OSError, ImportError, MemoryError, FloatingPointError) as error:
        print(f"benchmarks: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
