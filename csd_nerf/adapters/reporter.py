"""What an adapter reports to while it works.

An adapter calls a `Reporter` and knows nothing of files or screens. It asks once for what an
interrupted run left, and reports after every unit of work. The command line's is
`file_reporter.FileReporter`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

State = dict[str, Any]
"""Tensors, numbers, strings, lists, tuples and dicts of them, as `torch.load(weights_only=True)`
reads them."""


@runtime_checkable
class Reporter(Protocol):
    """Shows the progress of one run, and keeps what it needs to go on after an interruption."""

    def restored(self) -> State | None:
        """The state that an interrupted run saved last, with "done" added; None if none."""
        ...

    def begin(self, label: str, total: int, *, done: int = 0) -> None:
        """Start a stage of `total` units of work, of which `done` are done already."""
        ...

    def tick(
        self,
        done: int,
        *,
        state: Callable[[], State] | None = None,
        preview: Callable[[], UInt8[Tensor, "h w 3"]] | None = None,
    ) -> None:
        """Report the units done, after each of them.

        Args:
            done: Units of the stage that are done.
            state: Returns what the run needs to go on from here; called only when it is saved.
                Only one stage of a run may give it.
            preview: Returns a picture of the result so far; called only when it is shown.
        """
        ...

    def note(self, text: str) -> None:
        """Tell the user something worth knowing, such as that the input was enlarged."""
        ...


class SilentReporter:
    """For use as a library: nothing is saved, shown or told."""

    def restored(self) -> State | None:
        """Nothing."""
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
