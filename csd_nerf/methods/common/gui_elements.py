"""Elements of viser's panel whose whole state reaches every browser.

viser 0.2.7 keeps one pending update of an element. A later one of another property replaces it, in
the queue to browsers that are connected and for those that come later: of "visible" and then
"value", only "value" arrives. Here each update repeats all that was changed so far.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from viser import GuiButtonHandle, GuiEvent
from viser._messages import GuiUpdateMessage


class Element:
    """An element of the panel: a folder, a text, a bar, a button or an input.

    Its methods can be called from any thread.
    """

    def __init__(self, handle: Any) -> None:
        """Take a handle of viser that was not changed yet, and that nobody else changes."""
        self._handle = handle
        self._changed: dict[str, Any] = {}
        self._lock = threading.RLock()
        # Buttons and inputs keep their state in an object of its own.
        self._state: Any = getattr(handle, "_impl", None)
        self._id: str = handle._id if self._state is None else self._state.id
        gui = handle._gui_api if self._state is None else self._state.gui_api
        self._socket = gui._websock_interface
        if self._state is not None and not isinstance(handle, GuiButtonHandle):
            self._state.sync_cb = self._pass_on

    @property
    def value(self) -> Any:
        """What the user typed or chose last."""
        return self._handle.value

    @property
    def changed_at(self) -> float:
        """When the user typed or chose last, in seconds since the epoch."""
        return self._handle.update_timestamp

    def show(self, **properties: Any) -> None:
        """Change properties, by the names of viser's messages, such as value or visible."""
        with self._lock:
            new = {name: new for name, new in properties.items() if self._known(name) != new}
            if not new:
                return
            self._changed |= new
            for name in new.keys() & {"value", "visible", "disabled"}:
                if self._state is not None:
                    setattr(self._state, name, new[name])
            self._send()

    def on(self, heed: Callable[[GuiEvent], None]) -> None:
        """Call a function when the user presses, types or chooses; in a thread of viser."""
        if isinstance(self._handle, GuiButtonHandle):
            self._handle.on_click(heed)
        else:
            self._handle.on_update(heed)

    def _known(self, name: str) -> Any:
        if name == "value" and self._state is not None:
            return self._state.value
        return self._changed.get(name, _UNKNOWN)

    def _pass_on(self, client: int, updates: dict[str, Any]) -> None:
        """Tell the other browsers what the user did in one."""
        with self._lock:
            self._changed["value"] = self._state.value
            # A callback may have changed it since.
            is_users = updates.get("value") == self._state.value
            self._send(excluded=client if is_users else None)

    def _send(self, excluded: int | None = None) -> None:
        message = GuiUpdateMessage(self._id, dict(self._changed))
        message.excluded_self_client = excluded  # pyright: ignore[reportAttributeAccessIssue]
        self._socket.queue_message(message)


_UNKNOWN = object()
