"""Settings of the paper's experiments; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

PAPER_CLIP = "ViT-bigG-14"
"""OpenCLIP model of the paper's evaluation (Appendix B)."""


@dataclass(frozen=True, kw_only=True)
class PaperSettings:
    """Run the experiment of a table or figure of the paper, and print our numbers beside its own.

    table5 measures folders of rendered views, which the command text-to-3d makes.
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
    """Table or figure. Tables 1, 3 and 9 are on videos, 2 and 4 on scenes, 8, 10 and the figures on
    panoramas, 5 on text-to-3D."""
    output: Path
    """Folder for results and tables; several experiments may share it.
    Finished trials in it are not run again."""
    data: Path | None = None
    """Folder of the inputs. Videos: prompts.json and the videos or folders of frames that it names.
    Scenes: prompts.json and nerfstudio data sets. Panoramas: pictures, optionally prompts.json.
    table5: prompts.json with a text for each scene, and pictures in reference/ for FID."""
    tiny: bool = False
    """Run a small version with synthetic inputs and the bundled prior, without --data."""
    peer: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=DIR: folder with the results of a method that this package doesn't have, named like the
    inputs. NAME is FateZero or Pix2Video; for table5 it is csd or sds, and DIR/SCENE/colour and
    DIR/SCENE/depth hold 12 views each."""
    clip: str | None = None
    """OpenCLIP model, by name or local folder.
    If not given, the paper's ViT-bigG-14; with --tiny none."""
    preset: Literal["full", "small"] = "full"
    """Preset of csd-nerf or ns-train csd-edit; small is half precision for a GPU with 12 GB."""
    device: str | None = None
    """Device of prior and networks; if not given, a GPU if there is one, and the CPU with
    --tiny."""

    def __post_init__(self) -> None:
        """Check all that can be checked without the experiments."""
        if self.tiny and self.data is not None:
            raise ValueError(f"--tiny makes its own inputs; leave out --data {self.data}.")
        if not self.tiny and self.data is None:
            raise ValueError(
                f"{self.experiment} needs its inputs by --data DIR; --tiny runs it without."
            )
        if self.data is not None and not self.data.exists():
            raise FileNotFoundError(f"--data must exist, got {self.data}.")
        for name, folder in self.peers.items():
            if not folder.is_dir():
                raise FileNotFoundError(f"--peer {name} must be a folder, got {folder}.")

    @property
    def peers(self) -> dict[str, Path]:
        """Folders of results by the method's name.

        Raises:
            ValueError: If a value isn't NAME=DIR, or a name is given twice.
        """
        peers: dict[str, Path] = {}
        for text in self.peer:
            name, equals, folder = text.partition("=")
            if not equals or not name or not folder or name in peers:
                raise ValueError(f"--peer needs NAME=DIR with each name once, got {text!r}.")
            peers[name] = Path(folder)
        return peers

    @property
    def clip_name(self) -> str | None:
        """The CLIP model to use; None for none."""
        return self.clip or (None if self.tiny else PAPER_CLIP)

    @property
    def place(self) -> str:
        """Name of the device."""
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() and not self.tiny else "cpu")

    def run(self) -> None:
        """Run all trials that are not finished, and print the table."""
        from benchmarks.paper.run import run_paper

        print(run_paper(self))


@dataclass(frozen=True, kw_only=True)
class TinySize:
    """Size of the experiments on synthetic inputs."""

    inputs: int | None = None
    """Number of inputs; None takes that of the experiment."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that replace those of every line that edits pictures or videos."""
    shrink: int = 1
    """Divisor of the sizes of lines that set a size."""
    source_steps: int = 400
    """Training steps of a scene before it is edited."""
    scene: Mapping[str, Any] = field(default_factory=lambda: {"updates": 10, "edit_steps": 240})
    """Options that replace those of every line that edits a scene."""
    view_edge: int = 64
    """Edge in pixels of the views of table5."""
