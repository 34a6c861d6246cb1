"""Settings of a user study; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class UserStudySettings:
    """Write a page on which people rank methods blindly, or tabulate their answers."""

    examples: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="DIR...", help_behavior_hint="(required without --summarize)"),
    ] = ()
    """Folders of examples. Each contains prompt.txt, source.* and METHOD.* for each method:
    videos, pictures or folders of frames."""
    output: Path
    """Page to write, an .html file, with a .key.json beside it.
    With --summarize, the table to write, in markdown."""
    seed: int = 0
    """Seed of the opaque ids of the results in the page."""
    overwrite: bool = False
    """Replace an existing page and its key.
    Answers to the old page can't be tabulated without its key."""
    summarize: tuple[Path, ...] = ()
    """Files of answers to tabulate, one per participant."""
    key: Path | None = None
    """The .key.json of the page that was answered."""
    paper: Literal["video", "scene"] | None = None
    """Also print the numbers of CSD Table 6 (video) or 7 (scene)."""

    def __post_init__(self) -> None:
        """Check that the options go together."""
        if not self.summarize and (self.key or self.paper):
            raise ValueError("--key and --paper need --summarize with the answers' files.")
        if self.summarize and (self.key is None or self.examples):
            raise ValueError("--summarize needs --key and no examples' folders.")

    def run(self) -> None:
        """Write the page, or write and print the table."""
        from benchmarks.user_study.answers import summarize
        from benchmarks.user_study.page import write_study

        if self.key is not None:
            print(summarize(self.summarize, self.key, self.output, paper=self.paper), end="")
            return
        key = write_study(self.examples, self.output, seed=self.seed, overwrite=self.overwrite)
        print(f"Wrote {self.output} for participants, and {key} to keep for --summarize.")
