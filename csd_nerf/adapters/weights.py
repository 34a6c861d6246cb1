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
    """A name such as instruct-pix2pix, flux2-klein or flux-kontext, or a hub id; or a ControlNet:
    controlnet-canny, controlnet-depth, and for Stable Diffusion 2.1 controlnet-canny-21,
    controlnet-depth-21; or clipseg, which finds regions by a word."""
    variant: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Variant of the weight files, such as fp16 for *.fp16.safetensors. If not given, what a GPU
    takes: fp16, if the model has all of it, else the files without a variant."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder to write, for a machine without a network, where it is given as --prior, for a
    ControlNet as --control-model, or for clipseg as --region-model. If not given, the hub's
    cache."""

    def run(self) -> None:
        """Download, and print where the files are."""
        from csd_nerf.priors.control_weights import CONTROLNETS
        from csd_nerf.priors.segmenters import SEGMENTERS
        from csd_nerf.priors.weights import fetch_to

        def tell(text: str) -> None:
            print(f"weights: {text}.", flush=True)

        beside = dict.fromkeys(CONTROLNETS.names, CONTROLNETS.fetch_to)
        beside |= dict.fromkeys(SEGMENTERS.names, SEGMENTERS.fetch_to)
        if self.prior in beside:
            if self.variant is not None:
                raise ValueError(
                    f"{self.prior} is loaded from its plain files, got --variant {self.variant}; "
                    "leave it out."
                )
            found = beside[self.prior](self.prior, self.output, tell=tell)
        else:
            found = fetch_to(self.prior, self.output, variant=self.variant, tell=tell)
        print(f"weights: {found} is complete.")
