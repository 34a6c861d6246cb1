"""The command `python -m benchmarks regions`; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RegionsSettings:
    """Edit one object of a synthetic scene, and measure the masks and what changes outside."""

    output: Path
    """Folder of the data set, the trained scene and the results; what is there already is used."""
    method: Literal["csd-edit-tiny", "csd-edit-splat-tiny"] = "csd-edit-tiny"
    """The method of ns-train, as it is."""
    region: Literal["box", "masks", "labels"] = "masks"
    """box: around the object's points. masks: of three views, lifted to the others. labels: the
    data set's own of all training views."""
    scene: int = 0
    """Number of the scene in the split `benchmark`."""
    label: int = 1
    """The object's number in the data set's label images."""
    edit: str = "negative"
    """A look, by name; its true result in the object's pixels is known."""
    train: bool = True
    """Whether to edit too; otherwise the masks alone are measured."""

    def run(self) -> None:
        """Measure, and print a line for each figure."""
        from benchmarks.regions.run import measure_region

        for name, value in measure_region(self).items():
            print(f"{name}: {value:.3f}")
