"""The options of `csd-nerf evaluate`, `compare` and `demo`.

This module imports nothing heavy, since the command line needs it for its help. The docstrings of
fields are the commands' help.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from csd_nerf.hints import check_input


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Measure one or more edits of a picture, video or capture."""

    source: Path
    """The unedited input: a picture, a video, a folder of frames, or a folder with a
    transforms.json, whose poses and depth are used to measure how well the edited views agree."""
    edited: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=]PATH...")]
    """Edits of the source, each a path or NAME=PATH."""
    output: Path
    """JSON file to make; files with the suffixes .csv, .md, .tex and .png are written beside it."""
    truth: Path | None = None
    """The true edit, for PSNR, SSIM, LPIPS and flicker."""
    look: str | None = None
    """Look that gives the true edit, by name or wording, such as "make it night"."""
    source_caption: str | None = None
    """Description of the input, for CLIP's direction."""
    edited_caption: str | None = None
    """Description of the wanted edit, for CLIP's direction and similarity."""
    reference: Path | None = None
    """Folder of reference pictures for FID; not computed if not given."""
    depth_unit: float = 1e-3
    """Length of one step of the depth files of transforms.json, in the unit of the poses."""
    clip: str = "ViT-bigG-14"
    """OpenCLIP model, by name or local folder."""
    inception: Path | None = None
    """File with the weights of FID's Inception network; if not given they are downloaded."""
    device: str = "cpu"
    """Device of the networks, such as cuda."""
    overwrite: bool = False
    """Replace an earlier evaluation."""

    def __post_init__(self) -> None:
        """Check all that can be checked without reading files."""
        if not self.edited:
            raise ValueError("--edited needs one result or more, as PATH or NAME=PATH, got none.")
        names = [name for name, _ in self.edits]
        if len(set(names)) < len(names):
            raise ValueError(
                f"Edits need names of their own, got {', '.join(names)}; give them as NAME=PATH."
            )
        if self.output.suffix != ".json":
            raise ValueError(f"--output must end in .json, got {self.output}; rename it.")
        if self.truth is not None and self.look is not None:
            raise ValueError("The true edit is --truth or --look, got both; leave one out.")
        if (self.source_caption is None) != (self.edited_caption is None):
            raise ValueError(
                "CLIP direction needs both --source-caption and --edited-caption, got one; add "
                "the other."
            )
        if not 0 < self.depth_unit < math.inf:
            raise ValueError(f"--depth-unit must be positive, got {self.depth_unit}.")

    @property
    def edits(self) -> list[tuple[str, Path]]:
        """Names and paths of the edits; the default name is that of the file."""
        pairs = []
        for text in self.edited:
            name, equals, path = text.partition("=")
            # A path may contain an =.
            if not equals or not name or Path(text).exists():
                pairs.append((Path(text).name, Path(text)))
            else:
                pairs.append((name, Path(path)))
        return pairs

    def run(self) -> None:
        """Measure, write the results and print the table."""
        check_input(self.source, "--source must be a picture, a video or a folder")
        for _, path in self.edits:
            check_input(path, "--edited must be pictures, videos or folders")
        if self.truth is not None:
            check_input(self.truth, "--truth must be a picture, a video or a folder")
        if self.reference is not None:
            check_input(self.reference, "--reference must be a folder of pictures", file=False)
        if self.inception is not None:
            check_input(self.inception, "--inception must be a file of weights", folder=False)
        from csd_nerf.evaluation.evaluate import run_evaluate

        def note(text: str) -> None:
            print(f"csd-nerf: {text}", file=sys.stderr)

        print(run_evaluate(self, note=note), end="")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Render a csd-edit run before and after, and measure both against the true edit."""

    load_config: Path
    """The run's config.yml."""
    output: Path
    """Folder for before_after.mp4, the same as .webp, contact_sheet.png and metrics.json."""
    edit: str | None = None
    """The known edit to compare with, by name or wording; if not given, the run's prompt. A look is
    applied to the held-out photographs; other edits need a data set of `csd-nerf synthetic`."""
    overwrite: bool = False
    """Replace an earlier comparison in this folder."""

    def run(self) -> None:
        """Compare and print the metrics."""
        import json

        needs = "--load-config needs the config.yml of a csd-edit run"
        check_input(self.load_config, needs, folder=False)
        from csd_nerf.evaluation.compare import compare_scene

        metrics = compare_scene(
            self.load_config, self.output, edit=self.edit, overwrite=self.overwrite
        )
        print(json.dumps(metrics, indent=1))


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Make a sample scene, train and edit it on a CPU, and render it before and after."""

    output: Path = Path("outputs/demo")
    """Folder for the video, the pictures and the metrics."""
    edit: str = "make it sunset"
    """A known edit, by name or wording."""
    method: Literal["csd-edit-splat-tiny", "csd-edit-tiny"] = "csd-edit-splat-tiny"
    """csd-edit-splat-tiny: as Gaussian splats. csd-edit-tiny: as a radiance field."""
    scene: int = 21
    """Number of the scene within the split `benchmark`."""
    size: int = 128
    """Height and width of the scene's images in pixels."""
    overwrite: bool = False
    """Replace an earlier demo in this folder; what you added to it stays."""
    train_options: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Further options for ns-train, after --, such as --pipeline.edit.text-scale 5."""

    def run(self) -> None:
        """Run the whole demonstration."""
        from csd_nerf.evaluation.demo import run_demo

        run_demo(self)
