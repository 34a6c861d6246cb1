"""The options of `csd-nerf synthetic`, `sample` and `edits`; this module imports nothing heavy.

The docstrings of fields are the command's help.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

HELD_OUT_EVERY = 8
"""Every eighth view is held out for evaluation, as is usual for captures."""

Split = Literal["train", "validation", "benchmark"]


@dataclass(frozen=True)
class SceneSettings:
    """Settings of a data set."""

    scene: int = 0
    """Number of the scene within its split, counted from 0."""
    split: Split = "benchmark"
    """Split that the scene is taken from; the bundled prior was trained on `train`."""
    views: int = 56
    """Number of images; every eighth is held out for evaluation."""
    size: int = 96
    """Height and width of the images in pixels."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        from csd_nerf.synthetic.scenes import SPLIT_SEEDS

        if not 0 <= self.scene < len(SPLIT_SEEDS[self.split]):
            raise ValueError(
                f"scene must be from 0 to {len(SPLIT_SEEDS[self.split]) - 1}, got {self.scene}."
            )
        if self.views < HELD_OUT_EVERY:
            raise ValueError(
                f"views must be at least {HELD_OUT_EVERY}, so that one can be held out, "
                f"got {self.views}."
            )
        if self.size < 16:
            raise ValueError(f"size must be at least 16 pixels, got {self.size}.")


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings(SceneSettings):
    """Write a procedural scene as a nerfstudio data set, with its true edit beside it."""

    output: Path
    """Folder to write."""
    edit: str | None = None
    """A known edit, by name or wording, such as "make the sphere blue" or "night"."""
    overwrite: bool = False
    """Replace the folder if it exists."""

    def run(self) -> None:
        """Write the data set."""
        from csd_nerf.synthetic.dataset import write_dataset

        settings = SceneSettings(self.scene, self.split, self.views, self.size)
        write_dataset(self.output, settings, edit=self.edit, overwrite=self.overwrite)
        print(f"Wrote {self.views} views to {self.output}.")


SampleKind = Literal["scene", "panorama", "video", "capture"]
_SIZES: dict[SampleKind, int] = {"scene": 128, "panorama": 2048, "video": 256, "capture": 128}
_SEEDS: dict[SampleKind, int] = {"scene": 21, "panorama": 6, "video": 21, "capture": 14}
_NEXT: dict[SampleKind, str] = {
    "scene": (
        'ns-train csd-edit-splat-tiny --data {folder} --prompt "make it sunset"\n'
        "  (with a GPU and the weights of InstructPix2Pix: ns-train csd-edit --data {folder} ...)"
    ),
    "panorama": (
        "csd-nerf panorama {folder}/panorama.png --wrap --preset tiny --size 512 "
        '--prompt "make it sunset" --output {folder}/sunset.png'
    ),
    "video": (
        'csd-nerf video {folder}/video.mp4 --preset tiny --prompt "turn it into a blueprint" '
        "--output {folder}/blueprint.mp4"
    ),
    "capture": (
        "csd-nerf scene --splat {folder}/splats.ply --cameras {folder}/sparse/0 "
        '--images {folder}/images --preset tiny --prompt "make it sunset" '
        "--output {folder}/sunset.ply"
    ),
}
"""The command to type after each kind of sample."""


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Write a procedural input to try the commands on; prints the next one to type."""

    kind: Annotated[SampleKind, tyro.conf.Positional]
    """scene: photographs and cameras, a data set for ns-train. panorama: panorama.png, a full
    sphere. video: video.mp4, of 2 seconds. capture: photographs, a COLMAP model and splats.ply,
    for csd-nerf scene."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder to make."""
    seed: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT", help_behavior_hint="(default: 21, the demo's; panorama: 6; capture: 14)"
        ),
    ] = None
    """Which scene it shows."""
    size: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT", help_behavior_hint="(default: 128; video: 256; panorama: 2048)"
        ),
    ] = None
    """Longer edge in pixels."""
    overwrite: bool = False
    """Replace the folder, if it is such a sample."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.seed is not None and not 0 <= self.seed < 1_000_000:
            raise ValueError(f"--seed must be from 0 to 999999, got {self.seed}.")
        if self.size is not None and self.size < 32:
            raise ValueError(f"--size must be at least 32 pixels, got {self.size}.")

    def run(self) -> None:
        """Write the sample and print the next command."""
        from csd_nerf.synthetic.samples import write_sample

        size = self.size or _SIZES[self.kind]
        seed = _SEEDS[self.kind] if self.seed is None else self.seed
        write_sample(self.kind, self.folder, seed=seed, size=size, overwrite=self.overwrite)
        command = _NEXT[self.kind].format(folder=shlex.quote(str(self.folder)))
        print(f"Wrote {self.folder}. Next:\n  {command}")


_HEADINGS = {
    "look": "Looks",
    "weather": "Weather",
    "floor": "Floors",
    "sky": "Skies",
    "recolour": "Colours of objects; where a scene holds several, often another one is painted",
    "choice": "Instructions with several right results, which --edit doesn't take",
    "object": "Objects that csd-dreamfusion-tiny knows",
}
"""What `csd-nerf edits` prints above each kind."""


@dataclass(frozen=True)
class EditsSettings:
    """List what the bundled priors know: edits by name, each with an instruction."""

    def run(self) -> None:
        """Print the list."""
        from csd_nerf.synthetic import known

        for kind, group in {**known.instructions(), **known.objects()}.items():
            print(f"{_HEADINGS[kind]}:")
            for name, words in group.items():
                print(f"  {name:<20} {words.seen[0]}")
            print()
        print('Other words work too, such as "paint the ball blue" or "turn it into winter".')
