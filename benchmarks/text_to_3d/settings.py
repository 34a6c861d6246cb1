"""What the user asks of the comparison of text-to-3D; imports nothing heavy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.engine.options import Preset


@dataclass(frozen=True, kw_only=True)
class TextTo3dSettings:
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
    arms: tuple[Literal["csd", "sds"], ...] = ("csd", "sds")
    """Distillations that are compared."""
    steps: Preset[int] = None
    """Training steps of a run; warm-up, decay and the unshaded beginning keep their shares."""
    prior: str | None = None
    """Text-to-image model, by name or as a local folder; the method's own if not given."""
    clip: str | None = None
    """OpenCLIP model, by name or as a local folder, that judges how views fit their text."""
    reference: Path | None = None
    """Folder of pictures for FID."""
    inception: Path | None = None
    """File with the weights of FID's network, instead of its download."""
    device: Literal["cpu", "cuda"] | None = None
    """For training and networks; the method's own if not given."""

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        if not self.arms or len({*self.arms}) < len(self.arms):
            raise ValueError(f"--arms needs names, each once, got {' '.join(self.arms) or 'none'}.")
        for name in ("seeds", "steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}.")
        if self.inception is not None and self.reference is None:
            raise ValueError(f"--inception {self.inception} is for FID: add --reference DIR.")

    def run(self) -> None:
        """Run what is missing, write the results and print the tables."""
        from benchmarks.text_to_3d.run import run_text_to_3d

        def note(text: str) -> None:
            print(f"benchmarks: {text}", file=sys.stderr)

        print(run_text_to_3d(self, note=note), end="")


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a text file: one a line, without blank lines and those that begin with #.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no prompt, or one twice, or isn't text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--prompts must be a text file, one prompt a line, got {path}.")
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"--prompts must be text in UTF-8, got {path}; save it as such.") from None
    prompts = tuple(line for line in lines if line and not line.startswith("#"))
    if not prompts:
        raise ValueError(f"--prompts needs a prompt or more, got none in {path}; write one a line.")
    if twice := [prompt for prompt in {*prompts} if prompts.count(prompt) > 1]:
        raise ValueError(f"--prompts must name each prompt once, got {twice[0]!r} again in {path}.")
    return prompts
