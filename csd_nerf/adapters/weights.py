"""The options of `csd-nerf weights`; this module imports nothing heavy.

The docstrings of fields are the command's help.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class WeightsSettings:
    """Download exactly the files that a diffusion model needs; the size is told before."""

    prior: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """A name such as instruct-pix2pix, flux2-klein or flux-kontext, or a hub id."""
    variant: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Variant of the weight files, such as fp16 for *.fp16.safetensors."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder to write, for a machine without a network, where it is given as --prior. If not given,
    the hub's cache."""

    def run(self) -> None:
        """Download, and print where the files are."""
        from csd_nerf.priors.weights import fetch_to

        def tell(text: str) -> None:
            print(f"weights: {text}.", flush=True)

        found = fetch_to(self.prior, self.output, variant=self.variant, tell=tell)
        print(f"weights: {found} is complete.")
