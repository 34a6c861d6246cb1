"""Pictures of the benchmark of choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.engine.pictures import kept_frames
from benchmarks.engine.trials import Store, Trial
from benchmarks.truth.report import EDITED
from csd_nerf.media.pixels import to_01
from csd_nerf.media.sheets import enlarge, save_rows

ENLARGED = 2
"""Factor by which pictures are enlarged in a sheet."""


@runtime_checkable
class Answered(Protocol):
    """An input with all its answers: a set of images, or the held-out views of a scene."""

    @property
    def name(self) -> str:
        """Unique among the inputs."""
        ...

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of the answers."""
        ...

    @property
    def source(self) -> UInt8[Tensor, "n h w 3"]:
        """The images."""
        ...

    @property
    def source01(self) -> Float[Tensor, "n 3 h w"]:
        """The images in [0, 1]."""
        ...

    @property
    def truths01(self) -> Float[Tensor, "k n 3 h w"]:
        """The true result of each answer."""
        ...


def save_input_sheet(
    store: Store, given: Answered, names: Sequence[str], trials: Sequence[Trial]
) -> None:
    """Write a picture of an input and its edits to the folder `sheets`.

    It has a labelled row for the source, for each answer and for each arm with its first seed; its
    columns are the images.

    Args:
        store: Store of the trials.
        given: The input.
        names: The arms to show.
        trials: Trials of one budget.
    """
    pictures = {"source": given.source01}
    for answer, truth01 in zip(given.answers, given.truths01, strict=True):
        pictures[answer] = truth01
    for trial in trials:
        labels = trial.labels
        mine = labels["input"] == given.name and labels["seed"] == 0
        if mine and labels["arm"] in names and store.row(trial) is not None:
            pictures[labels["arm"]] = to_01(kept_frames(store.folder(trial) / EDITED))
    path = store.output / "sheets" / f"{given.name.replace(' ', '_')}.png"
    path.parent.mkdir(exist_ok=True)
    edge = ENLARGED * max(given.source.shape[1:3])
    save_rows(path, {name: enlarge(images, edge=edge) for name, images in pictures.items()})
