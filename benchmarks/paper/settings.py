"""What the user asks of an experiment; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

PAPER_CLIP = "ViT-bigG-14"
"""Appendix B."""


@dataclass(frozen=True, kw_only=True)
class PaperSettings:
    """Run a table or figure of the paper, and print ours beside its numbers.

    table5 scores folders of rendered views, as text-to-3d makes them.
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
    """Folder for results and tables; several experiments may share it.
    What is finished there is not run again."""
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

    def __post_init__(self) -> None:
        """Check what can be checked without the experiments."""
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
            ValueError: If one isn't NAME=DIR, or a name comes twice.
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
        """The CLIP model that judges."""
        return self.clip or (None if self.tiny else PAPER_CLIP)

    @property
    def place(self) -> str:
        """The device's name."""
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() and not self.tiny else "cpu")

    def run(self) -> None:
        """Run what is missing, and print the table."""
        from benchmarks.paper.run import run_paper

        print(run_paper(self))


@dataclass(frozen=True, kw_only=True)
class TinySize:
    """How large the experiments on synthetic inputs are."""

    inputs: int | None = None
    """None: the experiment's own number."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Over those of every line that edits pictures."""
    shrink: int = 1
    """Divides the sizes of lines that have one."""
    source_steps: int = 400
    """Training steps of a scene before it is edited."""
    scene: Mapping[str, Any] = field(default_factory=lambda: {"updates": 10, "edit_steps": 240})
    """Options of every line that edits a scene."""
    view_edge: int = 64
    """Edge in pixels of the views of table5."""
