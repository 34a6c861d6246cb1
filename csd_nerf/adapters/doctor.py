"""The options of `csd-nerf doctor`; this module imports nothing heavy.

The docstrings of fields are the command's help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class DoctorSettings:
    """Tell what this machine has, which models fit it, and what is missing.

    Nothing is downloaded. The exit code is 1 if something is missing that --prior needs.
    """

    prior: Annotated[str | None, tyro.conf.arg(metavar="NAME|FOLDER")] = None
    """Look at this diffusion model alone. If not given, all known ones."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the same facts as JSON."""
    table: bool = False
    """Print only the table of docs/priors.md, which is computed for a stated rate."""

    def run(self) -> int:
        """Print the report; returns the exit code."""
        from csd_nerf.adapters.doctor_report import print_report, print_table

        if self.table:
            print_table()
            return 0
        return print_report(self.prior, self.json)
