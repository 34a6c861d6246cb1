"""A browser of viser without a screen: it keeps what it is told and sends what a user would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

VIEW = {
    "type": "ViewerCameraMessage",
    "wxyz": (1.0, 0.0, 0.0, 0.0),
    "position": (0.0, 0.0, -20.0),
    "fov": 0.9,
    "aspect": 1.5,
    "look_at": (0.0, 0.0, 0.0),
    "up_direction": (0.0, -1.0, 0.0),
}


class ViserClient:
    """One browser.

    Attributes:
        parts: The properties of the panel's elements by their ids.
        nodes: The last message of each kind about a node of the scene, by (kind, name).
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.parts: dict[str, dict[str, Any]] = {}
        self.nodes: dict[tuple[str, str], dict[str, Any]] = {}
        self.send(**VIEW)

    def send(self, **message: Any) -> None:
        self._socket.send(msgspec.msgpack.encode(message))

    def until(self, is_so: Callable[[], Any], *, seconds: float = 10) -> Any:
        """Take messages until something is so, and return it."""
        end = time.monotonic() + seconds
        while True:
            if found := is_so():
                return found
            assert time.monotonic() < end, "it did not become so"
            self.take(seconds=0.05)

    def take(self, *, seconds: float) -> None:
        """Take the messages that come within this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                data = self._socket.recv(timeout=left)
            except TimeoutError:
                return
            for message in msgspec.msgpack.decode(data):
                self._heed(message)

    def _heed(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind.startswith("GuiAdd") or kind == "GuiModalMessage":
            self.parts[message["id"]] = message
        elif kind == "GuiUpdateMessage":
            self.parts.get(message["id"], {}).update(message["updates"])
        elif kind in ("GuiRemoveMessage", "GuiCloseModalMessage"):
            self.parts.pop(message["id"], None)
        elif "name" in message:
            self.nodes[kind, message["name"]] = message

    def part(self, label: str) -> dict[str, Any]:
        """The element with this label."""
        (found,) = (part for part in self.parts.values() if part.get("label") == label)
        return found

    def press(self, label: str) -> None:
        self.send(type="GuiUpdateMessage", id=self.part(label)["id"], updates={"value": True})

    def set(self, label: str, value: Any) -> None:
        """Type or choose a value."""
        part = self.part(label)
        part["value"] = value
        self.send(type="GuiUpdateMessage", id=part["id"], updates={"value": value})

    def shows(self, words: str) -> bool:
        """Whether words are in a text that is visible."""
        texts = (part for part in self.parts.values() if "markdown" in part)
        return any(words in part["markdown"] for part in texts if part["visible"])


@contextmanager
def browser_at(port: int) -> Iterator[ViserClient]:
    """A browser that opens the page at a port of this machine."""
    client = pytest.importorskip("websockets.sync.client")
    address = f"ws://127.0.0.1:{port}"
    with client.connect(address, proxy=None, max_size=None, compression=None) as socket:
        yield ViserClient(socket)
