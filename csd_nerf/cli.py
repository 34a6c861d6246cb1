"""The `csd-nerf` command; imports nothing heavy before a subcommand needs it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

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

        from csd_nerf.evaluation.compare import compare_scene

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


Command = (
    Annotated[Synthetic, tyro.conf.subcommand("synthetic")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Panorama, tyro.conf.subcommand("panorama")]
    | Annotated[Video, tyro.conf.subcommand("video")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
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
