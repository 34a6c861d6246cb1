"""What the Edit tab asks of the viewer around it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from viser import ClientHandle


@runtime_checkable
class Desk(Protocol):
    """The viewer around the tab."""

    def camera(self, client: ClientHandle) -> Any:
        """What a browser sees, as a camera of nerfstudio."""
        ...

    def show_output(self, name: str | None) -> None:
        """Show an output of the model; None shows the edited beside the unedited scene."""
        ...

    def waits_for(self) -> str:
        """Why no training step will read a press; empty if one will."""
        ...
