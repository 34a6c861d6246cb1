"""What the stages share: sizes, the device, and models, which are made once and freed when done."""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.models import random_model, write_tiny_klein
from benchmarks.gpu.sizes import Mode, Sizes
from csd_nerf.priors import precision

Record = dict[str, Any]
"""What a stage found: `rows` of its table by column, `goals` by name, and anything else."""


@dataclass(frozen=True)
class Stage:
    """One thing to check or measure."""

    name: str
    heading: str
    """Heading of its table."""
    seconds: int
    """About how long it takes at full size; a guess, until it has run on a GPU."""
    run: Callable[[Bench], Record]


@dataclass
class Bench:
    """The machine and the models of a run."""

    device: torch.device
    sizes: Sizes
    is_tiny: bool
    folder: Path
    """Folder for files of stages."""
    seconds_left: Callable[[], float]
    told: list[str] = field(default_factory=list)
    """What was said of compilation."""
    _models: dict[str, Any] = field(default_factory=dict)

    def name(self, model: str) -> str:
        """The name or folder of the configurations of `sd15` or `klein`."""
        if not self.is_tiny:
            return {"sd15": "instruct-pix2pix", "klein": "flux2-klein"}[model]
        return "tiny" if model == "sd15" else str(write_tiny_klein(self.folder / "klein"))

    def dtype(self, model: str) -> torch.dtype:
        """The precision in which such a model runs on the device."""
        half = "float16" if model == "sd15" else "bfloat16"
        return precision("auto", device=self.device, half=half)

    def model(self, model: str) -> Any:
        """The random prior `sd15` or `klein`."""
        if model not in self._models:
            self._models[model] = random_model(
                self.name(model), device=self.device, dtype=self.dtype(model)
            )
        return self._models[model]

    def called(self, model: str, mode: Mode) -> Any:
        """The same prior with the same weights, compiled anew unless the mode is `eager`."""
        prior = copy.copy(self.model(model))
        if mode != "eager":
            prior.compile(graphs=mode == "graphs", tell=self._tell)
        return prior

    def edited(self) -> Any:
        """The prior of Stable Diffusion 1.5's size, called as in the full presets."""
        return self.called("sd15", "on" if self.sizes.compile else "eager")

    def keep_only(self, model: str | None) -> None:
        """Free the memory of all other models."""
        self._models = {name: one for name, one in self._models.items() if name == model}
        if self.sizes.compile:
            # Graphs keep memory, too.
            torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _tell(self, text: str) -> None:
        self.told.append(text)
        print(text, file=sys.stderr)
