"""What the benchmark asks of a domain: its methods, its inputs, and a measured result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from csd_nerf.evaluation.measures import named
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.synthetic.edits import Edit, all_edits
from csd_nerf.synthetic.scenes import Split

EDITS = (
    "night",
    "floor grass",
    "sky orange",
    "sepia",
    "blueprint",
    "fog",
    "sunset",
    "floor water",
    "sky pink",
    "negative",
    "infrared",
    "floor sand",
)
"""What is asked for, one edit an input: looks, floors, skies and fog, which the prior knows."""
SEEDS_APART = 7
"""Seeds between the places from which two inputs look for a scene that shows their edit."""


def measured(measure: str, key: str) -> Column:
    """The column of one of the package's measures, under the key that rows have here."""
    (column,) = named(measure)
    return replace(column, key=key)


@dataclass(frozen=True)
class Arm:
    """A method, and where it departs from the tiny preset."""

    name: str
    method: str | None
    """None for a reference: what bounds the methods rather than being one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    tiles: bool = False
    """Windows that lie side by side instead of overlapping."""


@dataclass(frozen=True)
class Job:
    """One run of a method."""

    arm: Arm
    budget: float = 1.0
    """U-Net evaluations, in those that csd makes by its preset."""
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """A result and what was measured of it."""

    row: Row
    """Values by the keys of the domain's columns, with `evaluations` and `seconds`."""
    edited01: Float[Tensor, "n 3 h w"]
    truth01: Float[Tensor, "n 3 h w"]


@runtime_checkable
class Given(Protocol):
    """An input of the benchmark."""

    @property
    def name(self) -> str:
        """Unique among the benchmark's inputs."""
        ...

    @property
    def edit(self) -> Edit:
        """What is asked for."""
        ...


@runtime_checkable
class Domain(Protocol):
    """Scenes, panoramas or videos.

    Made with the bundled prior, the options that all arms take in place of their own, and the
    experiment's `Store`.
    """

    arms: ClassVar[tuple[Arm, ...]]
    """The usual ones, references among them."""
    ablations: ClassVar[tuple[Arm, ...]]
    """Departures of csd and of its peers."""
    columns: ClassVar[tuple[Column, ...]]
    """What is measured, without the cost."""
    consistency: ClassVar[str]
    """Key of the column that tells how well the images agree."""

    def draw(self, position: int, split: Split) -> Any:
        """The input at a position of the benchmark, a `Given`; the same every time."""
        ...

    def decides(self, job: Job, given: Any) -> dict[str, Any]:
        """What decides a job's result on an input, beside the prior; see `Trial.decides`."""
        ...

    def measure(self, job: Job, given: Any, folder: Path) -> Outcome:
        """Run a job on an input, and measure the result; a folder takes what the run writes."""
        ...


def edit_at(position: int) -> Edit:
    """The edit of the input at a position; after the last the first comes again."""
    return all_edits()[EDITS[position % len(EDITS)]]


def chosen_arms(
    arms: Sequence[Arm], ablations: Sequence[Arm], names: Sequence[str], *, ablate: bool
) -> tuple[Arm, ...]:
    """The arms of these names in the table's order, the references with them.

    Args:
        arms: The usual ones.
        ablations: Departures of csd.
        names: Whom to choose; without names all usual ones, or csd and its ablations.
        ablate: The latter.

    Raises:
        ValueError: If there is no such arm.
    """
    known = {arm.name: arm for arm in (*arms, *ablations)}
    for name in names:
        if name not in known:
            raise ValueError(f"--arms needs some of {', '.join(known)}, got {name!r}.")
    if not names and not ablate:
        return tuple(arms)
    chosen = names or ("csd", *(arm.name for arm in ablations))
    return tuple(arm for arm in known.values() if arm.name in chosen or arm.method is None)
