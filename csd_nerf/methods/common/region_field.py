"""The region of the Edit tab: a text and a box in the scene that follow each other."""

from __future__ import annotations

import numpy as np
from viser import ClientHandle, GuiEvent, SceneApi

from csd_nerf.media.places import parse_region
from csd_nerf.methods.common.gui_elements import Element
from csd_nerf.methods.common.region_box import (
    SCALE,
    Corners,
    RegionBox,
    box_around,
    box_of_text,
    box_text,
)

_FIRST = 0.25
"""Edge of a new box, as a share of the distance between the camera and what it looks at."""


def problems_of_region(text: str) -> list[str]:
    """What is wrong with a region's text, if anything is; empty is everywhere."""
    if not text.strip():
        return []
    try:
        parse_region(text, of="scene")
    except ValueError as error:
        return [str(error)]
    return []


class RegionField:
    """Connects the region's text with the box in the scene.

    Taking the box away leaves the text, which is what counts.
    """

    def __init__(self, text: Element, is_shown: Element, scene: SceneApi) -> None:
        """Take the text, the checkbox of the box, and viser's scene."""
        self._text, self._is_shown = text, is_shown
        self._box = RegionBox(scene, on_drag=self._take)
        text.on(lambda _: self._follow_text())
        is_shown.on(self._show)

    def _show(self, event: GuiEvent) -> None:
        """Show the region as a box, or a new one in front of the user, or none."""
        if not self._is_shown.value:
            self._box.hide()
            return
        client, corners = event.client, box_of_text(self._text.value)
        if corners is None:
            corners = _box_in_sight(client)
            self._take(corners)
        seen_from = None if client is None else np.asarray(client.camera.position) / SCALE
        self._box.show(corners, seen_from=seen_from)

    def _follow_text(self) -> None:
        corners = box_of_text(self._text.value)
        if corners is not None and self._is_shown.value:
            self._box.show(corners)

    def _take(self, corners: Corners) -> None:
        self._text.show(value=box_text(corners))


def _box_in_sight(client: ClientHandle | None) -> Corners:
    """A box around what a browser's camera looks at."""
    if client is None:
        return box_around(np.zeros(3), edge=0.5)
    target = np.asarray(client.camera.look_at) / SCALE
    distance = float(np.linalg.norm(np.asarray(client.camera.position) / SCALE - target))
    return box_around(target, edge=_FIRST * distance)
