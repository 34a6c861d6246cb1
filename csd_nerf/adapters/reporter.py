"""The interface by which an adapter reports progress and saves its state.

An adapter reports to a `Reporter` after every unit of work (such as an iteration), and asks it once
for the state of an interrupted run. The reporter decides about files and screens. The command line
uses `file_reporter.FileReporter`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

State = dict[str, Any]
"""Tensors, numbers, strings, and lists, tuples and dicts of these: what
`torch.load(weights_only=True)` reads."""


@runtime_checkable
class Reporter(Protocol):
    """Shows the progress of one run, and saves the state from which it can be resumed."""

    def restored(self) -> State | None:
        """The last state of an interrupted run, plus "done" (units done); None if there is none."""
        ...

    def begin(self, label: str, total: int, *, done: int = 0) -> None:
        """Start a stage of `total` units of work, of which `done` were done by an earlier run."""
        ...

    def tick(
        self,
        done: int,
        *,
        state: Callable[[], State] | None = None,
        preview: Callable[[], UInt8[Tensor, "h w 3"]] | None = None,
    ) -> None:
        """Report progress; called after each unit of work.

        Args:
            done: Number of units of the stage that are done.
            state: Returns the state to resume from; called only when it is saved, in all ranks that
                share the work. Only one stage of a run may pass it.
            preview: Returns a picture of the current result; called only when it is shown, in all
                ranks.
        """
        ...

    def note(self, text: str) -> None:
        """Give the user a notice, such as that the input was enlarged."""
        ...


class SilentReporter:
    """A `Reporter` that does nothing, for use as a library."""

    def restored(self) -> State | None:
        """There is no state."""
        return None

    def begin(self, label: str, total: int, *, done: int = 0) -> None:
        """Do nothing."""

    def tick(
        self,
        done: int,
        *,
        state: Callable[[], State] | None = None,
        preview: Callable[[], UInt8[Tensor, "h w 3"]] | None = None,
    ) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


SILENT = SilentReporter()


def told_to(reporter: Reporter, label: str) -> Callable[[int, int], None]:
    """Returns a callback that is a stage of the reporter: it gets the units done, and their total.

    The stage begins with the first call, which should come before any work, with 0 done.
    """
    begun = False

    def told(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            reporter.begin(label, total)
            begun = True
        reporter.tick(done)

    return told
