"""The editing stage's panel in nerfstudio's viewer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerCheckbox,
    ViewerControl,
    ViewerNumber,
    ViewerText,
)
from torch import nn

from csd_nerf.scene.controls import EditRequest


class ViewerControls(nn.Module):
    """`Controls` of the editing stage that the user changes in the viewer.

    It is a module because nerfstudio looks for viewer elements among the attributes of modules.
    Without a viewer the values never change. The viewer changes them from its own threads, so a
    training step reads them only once, in `read`.
    """

    def __init__(self, request: EditRequest) -> None:
        """Take the initial request; the panel shows its prompt and its scales."""
        super().__init__()
        self._request = request
        self._edit_now = False
        self._reset = False
        self._last_round = None
        self.prompt = ViewerText("Prompt", request.prompt)
        self.text_scale = ViewerNumber("Text scale", float(request.settings.text_scale))
        self.image_scale = ViewerNumber("Image scale", float(request.settings.image_scale))
        self.edit_button = ViewerButton("Edit now", cb_hook=self._on_edit_now)
        self.pause = ViewerCheckbox("Pause editing", False)
        self.reset_button = ViewerButton("Reset to originals", cb_hook=self._on_reset)
        self.viewer_control = ViewerControl()

    def _on_edit_now(self, _: ViewerButton) -> None:
        self._edit_now = True

    def _on_reset(self, _: ViewerButton) -> None:
        self._reset = True

    def read(self, *, editing: bool) -> EditRequest:
        """Read all values, and forget the presses of buttons; see `Controls`."""
        scales = {"text_scale": self.text_scale.value, "image_scale": self.image_scale.value}
        request = dataclasses.replace(
            self._request,
            prompt=self.prompt.value,
            settings=dataclasses.replace(self._request.settings, **scales),
            edit_now=editing and self._edit_now,
            paused=self.pause.value,
            reset=self._reset,
        )
        self._reset = False
        if editing:
            self._edit_now = False
        return request

    def show_picture(self, sheet: Path) -> None:
        """Show the contact sheet of the last round, if a viewer is running."""
        server = getattr(self.viewer_control, "viser_server", None)
        if server is None:
            return
        # This release of viser has no image element; markdown embeds one.
        if self._last_round is not None:
            self._last_round.remove()
        self._last_round = server.gui.add_markdown(
            f"Source, start, edit:\n\n![last round]({sheet.name})", image_root=sheet.parent
        )
