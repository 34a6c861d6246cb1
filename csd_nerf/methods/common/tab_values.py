"""What the user typed and pressed in the Edit tab, as a request."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

from csd_nerf.methods.common.edit_tab import ON_TOP, EditTab, Numbers, bounds
from csd_nerf.scene.controls import EditRequest

SETTLED_AFTER = 1.5
"""Seconds without a keystroke after which a text counts if no button is pressed."""

_TEXTS = ("prompt", "negative_prompt", "region")


@dataclass(frozen=True)
class Presses:
    """Buttons that were pressed and not read yet; see `EditRequest`."""

    edit_now: bool = False
    return_to: int | None = None
    preview: Any = None
    save: bool = False

    def split(self, *, editing: bool) -> tuple[Presses, Presses]:
        """What can be done now, and what waits for the editing stage."""
        if editing:
            return self, Presses()
        now = dataclasses.replace(self, edit_now=False, return_to=None)
        return now, dataclasses.replace(self, preview=None, save=False)


class TabValues:
    """Reads the inputs of a tab; whatever is typed, the numbers are in their bounds."""

    def __init__(self, tab: EditTab, request: EditRequest, numbers: Numbers) -> None:
        """Take a tab that shows a request and numbers."""
        self._tab, self._request, self._numbers = tab, request, numbers
        self._texts = {name: getattr(request, name) for name in _TEXTS}
        self._first = {name: element.value for name, element in tab.numbers.items()}

    def read(self, *, at_once: bool) -> EditRequest:
        """The request that the inputs make.

        Args:
            at_once: Whether the user is done with typing. Otherwise a text that is being typed
                counts only when it has been still for a while, so that no round begins with half
                of a prompt.
        """
        now = time.time()
        for name in _TEXTS:
            element = getattr(self._tab, name)
            if at_once or now - element.changed_at >= SETTLED_AFTER:
                self._texts[name] = element.value
        values = {name: self._number(name) for name in self._first}
        settings = {name: values.pop(name) for name in ("text_scale", "image_scale", "iterations")}
        return dataclasses.replace(
            self._request,
            **self._texts,
            **values,
            chain=self._tab.source.value == ON_TOP,
            settings=dataclasses.replace(self._request.settings, **settings),
        )

    def _number(self, name: str) -> Any:
        value, first = self._tab.numbers[name].value, self._first[name]
        if not math.isfinite(value):
            return first
        least, most = bounds(name, first, self._numbers)
        return type(first)(min(max(value, least), most))
