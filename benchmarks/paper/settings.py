"""What the user asks of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PAPER_CLIP = "ViT-bigG-14"
"""Appendix B."""


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """An experiment, its inputs and its networks."""

    experiment: str
    """A key of `EXPERIMENTS`."""
    data: Path | None = None
    """Inputs; None with `tiny`."""
    tiny: bool = False
    """Synthetic inputs and the bundled prior."""
    peers: Mapping[str, Path] = field(default_factory=dict)
    """Folders of results by the method's name."""
    clip: str | None = None
    """An OpenCLIP model or a local folder of one; None: the paper's, with `tiny` none."""
    preset: Literal["full", "small"] = "full"
    """Of the prior, without `tiny`."""
    device: str | None = None
    """Where prior and networks run; None: a GPU if there is one, the CPU with `tiny`."""

    @property
    def clip_name(self) -> str | None:
        """The CLIP model that judges."""
        return self.clip or (None if self.tiny else PAPER_CLIP)

    @property
    def place(self) -> str:
        """The device's name."""
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() and not self.tiny else "cpu")


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
