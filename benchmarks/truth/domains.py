"""The interface between the benchmark and its domains (scenes, panoramas, videos, choices)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from csd_nerf.evaluation.measures import named
from csd_nerf.evaluation.tables import Column, Row
from csd_nerf.synthetic.choices import Choice
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
"""The edits of the benchmark's inputs, one each: looks, floors, skies and fog, on which the prior
was trained."""
TUNING_EDITS = (
    "black and white",
    "floor wood",
    "sky purple",
    "darker",
    "floor lava",
    "sky green",
    "faded",
    "floor stone",
)
"""The edits of the validation inputs. None is among `EDITS`, so that no reported edit was tuned
on."""
SEEDS_APART = 7
"""The search for the scene of input number i begins at seed i * SEEDS_APART of its split."""


def column_of(measure: str, key: str) -> Column:
    """The column of one of the package's measures, with the key that the benchmark's rows use."""
    (column,) = named(measure)
    return replace(column, key=key)


@dataclass(frozen=True)
class Arm:
    """A row of the table: a method with its deviations from the tiny preset, or a reference."""

    name: str
    method: str | None
    """None for a reference, which is no method but a bound for the methods."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from the preset."""
    tiles: bool = False
    """Whether windows lie side by side instead of overlapping."""
    tuned_as: str | None = None
    """The arm whose tuned options it takes; None means its own."""


BANKS = (8, 16, 32, 64)
"""Numbers of pairs of a timestep and a noise, see `csd_nerf.core.bank`."""


def banked(
    name: str,
    method: str,
    options: Mapping[str, Any],
    *,
    tuned_as: str,
) -> tuple[Arm, ...]:
    """An arm with banks of several sizes, as `NAME-8` and so on, with the options tuned for it."""
    sizes = {f"{name}-{each}": {**options, "source_bank": each} for each in BANKS}
    return tuple(Arm(bank, method, given, tuned_as=tuned_as) for bank, given in sizes.items())


@dataclass(frozen=True)
class Job:
    """One run of an arm."""

    arm: Arm
    budget: float = 1.0
    """Number of U-Net evaluations, relative to that of csd with its preset."""
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """A result with its measures."""

    row: Row
    """Values by the keys of the domain's columns, with `evaluations` and `seconds`."""
    edited01: Float[Tensor, "n 3 h w"]
    truth01: Float[Tensor, "n 3 h w"]


@runtime_checkable
class TruthInput(Protocol):
    """An input of the benchmark."""

    @property
    def name(self) -> str:
        """Unique among the benchmark's inputs."""
        ...

    @property
    def edit(self) -> Edit | Choice:
        """The edit to make, or an instruction with several right answers."""
        ...


@runtime_checkable
class Domain(Protocol):
    """Scenes, panoramas, videos or choices.

    The constructor takes the prior, options that replace those of all arms, and the
    experiment's `Store`.
    """

    arms: ClassVar[tuple[Arm, ...]]
    """The arms that are compared by default, including references."""
    ablations: ClassVar[tuple[Arm, ...]]
    """Variants of csd and of other methods."""
    columns: ClassVar[tuple[Column, ...]]
    """Columns of the measures, without those of the cost."""
    consistency: ClassVar[str]
    """Key of the column that measures consistency between images."""
    baseline: ClassVar[str]
    """The arm to which the others are compared if the user names none."""

    def draw(self, position: int, split: Split) -> Any:
        """The input at a position of the benchmark, a `TruthInput`; must be deterministic."""
        ...

    def decides(self, job: Job, given: Any) -> dict[str, Any]:
        """Everything but the prior that decides a job's result on an input; see `Trial.decides`."""
        ...

    def measure(self, job: Job, given: Any, folder: Path) -> Outcome:
        """Run a job on an input, and measure the result; the run may write to `folder`."""
        ...


def edit_at(position: int, split: Split) -> Edit:
    """The edit of the input at a position: of `TUNING_EDITS` for validation, else of `EDITS`.

    Both are repeated.
    """
    names = TUNING_EDITS if split == "validation" else EDITS
    return all_edits()[names[position % len(names)]]


def chosen_arms(
    arms: Sequence[Arm], ablations: Sequence[Arm], names: Sequence[str], *, ablate: bool
) -> tuple[Arm, ...]:
    """Choose arms by name; the references are always included.

    Args:
        arms: The default arms.
        ablations: The variants.
        names: Names to choose; without names, all default arms, or with `ablate` csd and all
            variants.
        ablate: See `names`.

    Returns:
        The arms in the order of the table.

    Raises:
        ValueError: If there is no arm with one of the names.
    """
    known = {arm.name: arm for arm in (*arms, *ablations)}
    for name in names:
        if name not in known:
            raise ValueError(f"--arms needs some of {', '.join(known)}, got {name!r}.")
    if not names and not ablate:
        return tuple(arms)
    chosen = names or ("csd", *(arm.name for arm in ablations))
    return tuple(arm for arm in known.values() if arm.name in chosen or arm.method is None)
