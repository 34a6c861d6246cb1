"""Pages in Chromium, driven by the DevTools protocol as a user's hands would."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless=new --no-sandbox --remote-debugging-port=0 --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
WEBGL = "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"
"""WebGL on the CPU."""


class Browser:
    """A page of Chromium."""

    def __init__(self, socket):
        self.socket = socket
        self.count = 0

    def send(self, method, **values):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": values}))
        while (reply := json.loads(self.socket.recv(timeout=60))).get("id") != self.count:
            pass
        assert "error" not in reply, reply
        return reply["result"]

    def js(self, text):
        result = self.send("Runtime.evaluate", expression=text, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, text, *, seconds=20):
        end = time.monotonic() + seconds
        while not (value := self.js(text)):
            assert time.monotonic() < end, text
            time.sleep(0.05)
        return value

    def click(self, selector):
        self.click_element(f"document.querySelector({json.dumps(selector)})")

    def click_element(self, element):
        """Click the middle of what a JavaScript expression finds, once it lies still."""
        find = (
            f"(() => {{ const e = {element};"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return {x: b.x + b.width / 2, y: b.y + b.height / 2}; })()"
        )
        place, before = self.js(find), None
        while place != before:
            time.sleep(0.15)
            place, before = self.js(find), place
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def drag(self, begin, end, *, moves=8):
        """Drag with the left button from one point of the page to another, each (x, y).

        It is as slow as a hand: what is under the mouse is drawn as such before it is pressed.
        """
        path = [
            {axis: a + (b - a) * n / moves for axis, a, b in zip("xy", begin, end, strict=True)}
            for n in range(moves + 1)
        ]
        beside = {axis: place + 3 for axis, place in path[0].items()}
        for point in (beside, path[0]):
            self.send("Input.dispatchMouseEvent", type="mouseMoved", **point)
            time.sleep(1)
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type="mousePressed", **held, **path[0])
        for point in path:
            time.sleep(0.5)
            self.send("Input.dispatchMouseEvent", type="mouseMoved", **held, **point)
        self.send("Input.dispatchMouseEvent", type="mouseReleased", **held, **path[-1])

    def press(self, key, code, text="", **more):
        values = {"key": key, "code": key, "windowsVirtualKeyCode": code, **more}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **values)
        self.send("Input.dispatchKeyEvent", type="keyUp", **values)

    def type(self, text):
        """Type into what has the focus."""
        for letter in text:
            self.send("Input.dispatchKeyEvent", type="char", text=letter)

    def size(self, width, height):
        values = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **values)

    def picture(self, path=None):
        """The page as PNG, also written to a file if one is named."""
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data


@contextmanager
def open_page(address: str, folder: Path, *, flags: str = "--disable-gpu") -> Iterator[Browser]:
    """A page with this address; skips the test where there is no browser.

    Args:
        address: Of a file or server.
        folder: An empty folder, for the browser's profile and for downloads.
        flags: Further flags of the browser.
    """
    if CHROMIUM is None:
        pytest.skip("needs Chromium or Chrome")
    client = pytest.importorskip("websockets.sync.client")
    profile = folder / "profile"
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS.split(), *flags.split(), f"--user-data-dir={profile}", address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = profile / "DevToolsActivePort"
        end = time.monotonic() + 40
        while not (port.exists() and len(port.read_text().split()) == 2):
            assert time.monotonic() < end
            time.sleep(0.1)
        number, path = port.read_text().split()
        with client.connect(f"ws://127.0.0.1:{number}{path}", proxy=None, max_size=None) as root:
            targets = Browser(root).send("Target.getTargets")["targetInfos"]
        target = next(target["targetId"] for target in targets if target["type"] == "page")
        address = f"ws://127.0.0.1:{number}/devtools/page/{target}"
        with client.connect(address, proxy=None, max_size=None) as socket:
            page = Browser(socket)
            page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
            yield page
    finally:
        process.terminate()
        process.wait(20)
