"""The `csd-nerf` command; imports nothing heavy before a subcommand needs it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro


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


Command = (
    Annotated[Synthetic, tyro.conf.subcommand("synthetic")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
)


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; a user's mistake ends in one line and exit code 1."""
    command = tyro.cli(Command, prog="csd-nerf", args=arguments)
    try:
        command.run()
    except (ValueError, OSError) as error:
        print(f"csd-nerf: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
