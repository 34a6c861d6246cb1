"""The options of `csd-nerf synthetic` and `edits`; this module imports nothing heavy.

The docstrings of fields are the command's help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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


_HEADINGS = {
    "look": "Looks",
    "weather": "Weather",
    "floor": "Floors",
    "sky": "Skies",
    "recolour": "Colours of objects",
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
