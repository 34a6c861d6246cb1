"""The `csd-nerf` command; imports nothing heavy before a subcommand needs it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from csd_nerf.adapters.options import EditOptions, PanoramaOptions, VideoOptions


@dataclass
class Synthetic:
    """Write a procedural scene as a nerfstudio data set, with its true edit beside it."""

    output: Path
    """Folder to make."""
    edit: str | None = None
    """A known edit, by name or wording, such as "make the sphere blue" or "night"."""
    scene: int = 0
    """Number of the scene within its split."""
    split: Literal["train", "validation", "benchmark"] = "benchmark"
    """Family of seeds that the scene comes from; the bundled prior was trained on `train`."""
    views: int = 56
    """Number of images; every eighth is held out for evaluation."""
    size: int = 96
    """Height and width of the images in pixels."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def run(self) -> None:
        """Write the data set."""
        from csd_nerf.synthetic.dataset import SceneSettings, write_dataset

        settings = SceneSettings(
            scene=self.scene, split=self.split, views=self.views, size=self.size
        )
        write_dataset(self.output, settings, edit=self.edit, overwrite=self.overwrite)
        print(f"Wrote {self.views} views to {self.output}.")


@dataclass
class Compare:
    """Render a csd-edit run before and after, and measure both against the true edit."""

    load_config: Path
    """The run's config.yml."""
    output: Path
    """Folder for before_after.mp4, contact_sheet.png and metrics.json."""
    edit: str | None = None
    """The known edit to compare with, by name or wording; the run's prompt if not given. A look
    is applied to the held-out photographs, other edits need a data set of `csd-nerf synthetic`."""

    def run(self) -> None:
        """Compare and print the numbers."""
        import json

        from csd_nerf.evaluation.scene import compare_scene

        metrics = compare_scene(self.load_config, self.output, edit=self.edit)
        print(json.dumps(metrics, indent=1))


@dataclass
class Demo:
    """Make a sample scene, train it, edit it with csd-edit-tiny and show before and after."""

    output: Path = Path("outputs/demo")
    """Folder for the video, the pictures and the numbers."""
    edit: str = "turn it into a sepia photo"
    """A known edit, by name or wording."""
    scene: int = 19
    """Number of the scene within the benchmark's family of seeds."""
    size: int = 80
    """Height and width of the scene's images in pixels."""
    train_options: Annotated[list[str], tyro.conf.Positional] = field(default_factory=list)
    """Further options for ns-train, after --, such as --pipeline.edit.text-scale 5."""

    def run(self) -> None:
        """Run the whole demonstration."""
        from csd_nerf.evaluation.demo import run_demo
        from csd_nerf.synthetic.dataset import SceneSettings

        run_demo(
            self.output,
            edit=self.edit,
            settings=SceneSettings(scene=self.scene, size=self.size),
            train_options=self.train_options,
        )


_Number = TypeVar("_Number", int, float)
_Preset = Annotated[
    _Number | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: the preset's)")
]


@dataclass
class Benchmark:
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
        from csd_nerf.evaluation.benchmark import BenchmarkSettings, run_benchmark

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
class Evaluate:
    """Measure edits of a picture, video or capture, several side by side."""

    source: Path
    """The unedited input: a picture, a video, a folder of frames, or one with a transforms.json,
    whose depth then tells how well the edited views agree."""
    edited: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=]PATH...")]
    """Edits of it."""
    output: Path
    """JSON file to make; beside it .csv, .md, .tex and .png."""
    truth: Path | None = None
    """The true edit, for PSNR, SSIM, LPIPS and flicker."""
    look: str | None = None
    """A look that is the true edit, by name or wording, such as "make it night"."""
    source_caption: str | None = None
    """What the input shows, for CLIP's direction."""
    edited_caption: str | None = None
    """What the edit should show, for CLIP's direction and similarity."""
    reference: Path | None = None
    """Folder of pictures for FID."""
    depth_unit: float = 1e-3
    """Units of the poses in a step of the transforms.json's depth files."""
    clip: str = "ViT-bigG-14"
    """OpenCLIP model, by name or as a local folder."""
    inception: Path | None = None
    """File with the weights of FID's network, instead of its download."""
    device: str = "cpu"
    """Where the networks run, such as cuda."""

    def run(self) -> None:
        """Measure, write the results and print the table."""
        from csd_nerf.evaluation.evaluate import EvaluateSettings, run_evaluate

        values = {item.name: getattr(self, item.name) for item in fields(EvaluateSettings)}
        settings = EvaluateSettings(**values)
        print(run_evaluate(self.output, settings, note=_note), end="")


def _note(text: str) -> None:
    print(f"csd-nerf: {text}", file=sys.stderr)


@dataclass
class EvaluateTextTo3d:
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
        from csd_nerf.evaluation.text_to_3d import TextTo3dSettings, read_prompts, run_text_to_3d

        values = {item.name: getattr(self, item.name) for item in fields(TextTo3dSettings)}
        values["prompts"] = read_prompts(self.prompts)
        print(run_text_to_3d(self.output, TextTo3dSettings(**values), note=_note), end="")


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
        from csd_nerf.evaluation.profile import ProfileSettings, run_profile

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
        from csd_nerf.evaluation.user_study import summarize, write_study

        if not self.summarize:
            if self.key or self.paper:
                raise ValueError("--key and --paper need --summarize with the answers' files.")
            key = write_study(self.examples, self.output, seed=self.seed)
            print(f"Wrote {self.output} for participants, and {key} to keep for --summarize.")
            return
        if self.key is None or self.examples:
            raise ValueError("--summarize needs --key and no examples' folders.")
        print(summarize(self.summarize, self.key, self.output, paper=self.paper), end="")


_Inputs = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="INPUT...", help_behavior_hint="(required)"),
]


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What is read and written; comes before the options."""

    inputs: _Inputs
    output: Path


@dataclass(frozen=True, kw_only=True)
class Panorama(PanoramaOptions, _Files):
    """Edit pictures of any size by an instruction, such as panoramas, also of 360 degrees."""

    inputs: _Inputs
    """One picture or more."""
    output: Path
    """Picture to make: .png, .jpg or .webp.
    For several inputs a folder; the results are named like them."""

    def __post_init__(self) -> None:
        """Leave the checks to `run`, for tyro would frame their messages."""

    def run(self, command: list[str]) -> int:
        """Edit; returns the exit code."""
        options = PanoramaOptions(**_values_of(self, PanoramaOptions))
        from csd_nerf.adapters.run import run_panoramas

        return run_panoramas(self.inputs, self.output, options, command=command)


@dataclass(frozen=True, kw_only=True)
class Video(VideoOptions, _Files):
    """Edit videos by an instruction; frame rate and sound are kept."""

    inputs: _Inputs
    """One video file or folder of frames, or more."""
    output: Path
    """Video to make: .mp4, .mov, .mkv or .webm; or a folder for frames.
    For several inputs a folder; the results are named like them."""

    def __post_init__(self) -> None:
        """Leave the checks to `run`, for tyro would frame their messages."""

    def run(self, command: list[str]) -> int:
        """Edit; returns the exit code."""
        options = VideoOptions(**_values_of(self, VideoOptions))
        from csd_nerf.adapters.run import run_videos

        return run_videos(self.inputs, self.output, options, command=command)


def _values_of(command: Panorama | Video, options: type[EditOptions]) -> dict[str, Any]:
    """The fields that a command has from its options."""
    return {field.name: getattr(command, field.name) for field in fields(options)}


@dataclass
class Reproduce:
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
        from csd_nerf.evaluation.reproduce.run import parse_peers, run_reproduce
        from csd_nerf.evaluation.reproduce.settings import ReproduceSettings

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


Command = (
    Annotated[Synthetic, tyro.conf.subcommand("synthetic")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Panorama, tyro.conf.subcommand("panorama")]
    | Annotated[Video, tyro.conf.subcommand("video")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[EvaluateTextTo3d, tyro.conf.subcommand("evaluate-text-to-3d")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Profile, tyro.conf.subcommand("profile")]
    | Annotated[UserStudy, tyro.conf.subcommand("user-study")]
)


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; a user's mistake ends in one line and exit code 1."""
    # Before torch is loaded: threads that spin while they wait are slow on cores with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given = sys.argv[1:] if arguments is None else arguments
    try:
        command = tyro.cli(
            Command, prog="csd-nerf", args=given, config=(tyro.conf.FlagCreatePairsOff,)
        )
        if isinstance(command, Panorama | Video):
            code = command.run(["csd-nerf", *given])
        else:
            command.run()
            code = 0
    except (ValueError, OSError, ImportError, MemoryError, FloatingPointError) as error:
        print(f"csd-nerf: {' '.join(str(error).split())}", file=sys.stderr)
        code = 1
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
