"""Shows an editing round in nerfstudio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from csd_nerf.media.sheets import contact_sheet
from csd_nerf.methods.common.controls import ViewerControls
from csd_nerf.scene.report import RoundReport, sheet_columns


def show_round(
    done: RoundReport, folder: Path, controls: ViewerControls, *, notices: Sequence[str] = ()
) -> None:
    """Send a round's metrics and contact sheet to nerfstudio's writers, the viewer and a folder.

    Args:
        done: The round.
        folder: The folder of all rounds.
        controls: The viewer's panel.
        notices: What was put right or could not be honoured in the whole run. Prompts that the
            prior doesn't know are added.
    """
    writer.put_dict(name="Edit Round", scalar_dict=done.metrics, step=done.step)
    if not done.wants_picture:
        return
    path = done.save(folder, notices=[*notices, *controls.notices(done.request)])
    sheet01 = contact_sheet(sheet_columns(done.edits)) / 255
    writer.put_image(name="Edit Round/sheet", image=sheet01, step=done.step)
    controls.show_picture(path)


class FailedRounds:
    """Tells the user of rounds that failed, each error once, and pauses editing.

    Args:
        command: Name of the command, which begins messages.
        controls: The viewer's panel.
    """

    def __init__(self, command: str, controls: ViewerControls) -> None:
        self._command, self._controls = command, controls
        self._told = ""
        self._shown: Any = None

    def tell(self, error: str) -> None:
        """Tell of an error at the terminal and in the panel, and pause editing."""
        self._controls.pause.value = True
        if error == self._told:
            return
        self._told = error
        text = f"A round failed, and editing is paused: {error}"
        CONSOLE.print(f"{self._command}: {text}", markup=False)
        self._show(text)

    def forget(self) -> None:
        """Take the message back, once a step has had no error."""
        if self._told and not self._controls.pause.value:
            self._told = ""
            self._show("")

    def _show(self, text: str) -> None:
        server = getattr(self._controls.viewer_control, "viser_server", None)
        if server is None:
            return
        if self._shown is not None:
            self._shown.remove()
        self._shown = server.gui.add_markdown(f"**{text}**") if text else None
