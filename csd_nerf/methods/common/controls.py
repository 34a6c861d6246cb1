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

from csd_nerf.bundled import notices_of_unknown
from csd_nerf.scene.controls import Controls, EditRequest


class ViewerControls(nn.Module, Controls):
    """`Controls` of the editing stage that the user changes in the viewer.

    It is a module because nerfstudio looks for viewer elements among the attributes of modules.
    Without a viewer the values never change. The viewer changes them from its own threads, so a
    training step reads them only once, in `read`.
    """

    def __init__(self, request: EditRequest, *, prior: str = "") -> None:
        """Take the initial request; the panel shows its prompt and its scales.

        Args:
            request: The initial request.
            prior: Name of the prior. The panel says if it is a bundled one that doesn't know the
                prompt.
        """
        super().__init__()
        self._request = request
        self._prior = prior
        self._notices: dict[str, list[str]] = {}
        self._shown_notices: list[str] = []
        self._notice = None
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
            return_to=-1 if editing and self._reset else None,
        )
        if editing:
            self._edit_now = self._reset = False
        self._show_notices(self.notices(request))
        return request

    def notices(self, request: EditRequest) -> list[str]:
        """One line for each prompt of a request that the prior is known not to know."""
        prompts = (request.prompt, request.negative_prompt)
        for prompt in prompts:
            if prompt not in self._notices:
                self._notices[prompt] = notices_of_unknown(self._prior, [prompt])
        return [notice for prompt in prompts for notice in self._notices[prompt]]

    def _show_notices(self, notices: list[str]) -> None:
        """Show these notices in place of those before, if a viewer is running."""
        server = getattr(self.viewer_control, "viser_server", None)
        if server is None or notices == self._shown_notices:
            return
        if self._notice is not None:
            self._notice.remove()
        text = "\n\n".join(f"**Note:** {notice}." for notice in notices)
        self._notice = server.gui.add_markdown(text) if notices else None
        self._shown_notices = notices

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
