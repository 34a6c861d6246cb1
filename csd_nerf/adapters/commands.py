"""The commands `csd-nerf panorama`, `csd-nerf video` and `csd-nerf image`: options with files.

This module imports nothing heavy, since the command line needs it for its help. The docstrings of
fields are the command's help, which keeps their line breaks.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from csd_nerf.adapters.options import EditOptions, ImageOptions, PanoramaOptions, VideoOptions
from csd_nerf.hints import check_input
from csd_nerf.media.places import parse_region

_Inputs = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="INPUT...", help_behavior_hint="(required)"),
]


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Inputs and output, which the command line takes before the options."""

    inputs: _Inputs
    output: Path


@dataclass(frozen=True, kw_only=True)
class PanoramaCommand(PanoramaOptions, _Files):
    """Edit pictures of any size by an instruction, such as panoramas of up to 360 degrees."""

    inputs: _Inputs
    """One or more pictures."""
    output: Path
    """Picture to make: .png, .jpg or .webp.
    For several inputs, a folder, in which results are named like their inputs."""

    def run(self, command: list[str]) -> int:
        """Run; returns the exit code. `command` is the command line, for the records."""
        _check_inputs(self.inputs, "The input must be a picture file", folder=False)
        _check_masks(self.region)
        _say_loading("panorama")
        from csd_nerf.adapters.run import run_panoramas

        options = _part(self, PanoramaOptions)
        with _naming_tiny(self):
            return run_panoramas(self.inputs, self.output, options, command=command)


@dataclass(frozen=True, kw_only=True)
class VideoCommand(VideoOptions, _Files):
    """Edit videos by an instruction; frame rate and sound are kept."""

    inputs: _Inputs
    """One or more video files or folders of frames."""
    output: Path
    """Video to make: .mp4, .mov, .mkv or .webm; or a folder for frames.
    For several inputs, a folder, in which results are named like their inputs."""

    def run(self, command: list[str]) -> int:
        """Run; returns the exit code. `command` is the command line, for the records."""
        _check_inputs(self.inputs, "The input must be a video file or a folder of pictures")
        _check_masks([] if self.region is None else [self.region])
        _say_loading("video")
        from csd_nerf.adapters.run import run_videos

        options = _part(self, VideoOptions)
        with _naming_tiny(self):
            return run_videos(self.inputs, self.output, options, command=command)


def _check_masks(regions: Sequence[str]) -> None:
    """Refuse regions whose file or folder of masks isn't there."""
    for text in regions:
        where = parse_region(text).where
        if isinstance(where, Path):
            check_input(where, "--region must be a picture or a folder of masks")


@dataclass(frozen=True, kw_only=True)
class ImageCommand(ImageOptions, _Files):
    """Edit single pictures, or a set together, such as photographs of one thing or a burst."""

    inputs: _Inputs
    """One or more pictures, or folders of them; all are edited together."""
    output: Path
    """Picture to make: .png, .jpg or .webp.
    For several inputs or a folder, a folder, in which results are named like their inputs."""

    def run(self, command: list[str]) -> int:
        """Run; returns the exit code. `command` is the command line, for the records."""
        for path in self.inputs:
            check_input(path, "The input must be a picture file or a folder of pictures")
        _check_masks([] if self.region is None else [self.region])
        _say_loading("image")
        from csd_nerf.adapters.run import run_images

        options = _part(self, ImageOptions)
        with _naming_tiny(self):
            return run_images(self.inputs, self.output, options, command=command)


def _check_inputs(inputs: Sequence[Path], needs: str, *, folder: bool = True) -> None:
    """Refuse inputs if none of them is there; otherwise those that are there are edited."""
    first: FileNotFoundError | None = None
    for path in inputs:
        try:
            check_input(path, needs, folder=folder)
        except FileNotFoundError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def _say_loading(command: str) -> None:
    """Say what is about to take some seconds, also without a terminal."""
    if "torch" not in sys.modules:
        print(f"csd-nerf {command}: loading libraries ...", file=sys.stderr, flush=True)


@contextmanager
def _naming_tiny(options: EditOptions) -> Iterator[None]:
    """Add to the error for missing weights that the preset tiny needs none."""
    from csd_nerf.priors import WeightsNotFoundError

    try:
        yield
    except WeightsNotFoundError as error:
        if options.preset == "tiny" or options.residual == "dds":
            raise
        raise WeightsNotFoundError(
            f"{error} Without them, --preset tiny runs on a CPU with the bundled prior."
        ) from None


_Options = TypeVar("_Options", PanoramaOptions, VideoOptions, ImageOptions)


def _part(command: _Options, kind: type[_Options]) -> _Options:
    """The options of a command, without its files."""
    return kind(**{item.name: getattr(command, item.name) for item in dataclasses.fields(kind)})
