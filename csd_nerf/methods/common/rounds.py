"""Shows an editing round in nerfstudio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from csd_nerf.media.sheets import contact_sheet
from csd_nerf.methods.common.controls import ViewerControls
from csd_nerf.scene.report import RoundReport, sheet_columns

SHOWN_VIEWS = 4
"""Number of views of a round in the tab."""

Pair = tuple[str, Tensor, Tensor]
"""Name of a view, its photograph and its edit in [0, 1]."""


def show_round(
    done: RoundReport, folder: Path, controls: ViewerControls, *, notices: Sequence[str] = ()
) -> None:
    """Send a round's metrics and contact sheet to nerfstudio's writers, the viewer and a folder.

    Args:
        done: The round.
        folder: The folder of all rounds.
        controls: The viewer's tab.
        notices: What was put right or could not be honoured in the whole run. Prompts that the
            prior doesn't know are added.
    """
    writer.put_dict(name="Edit Round", scalar_dict=done.metrics, step=done.step)
    if not done.wants_picture:
        return
    path = done.save(folder, notices=[*notices, *controls.notices(done.request)])
    sheet01 = contact_sheet(sheet_columns(done.edits)) / 255
    writer.put_image(name="Edit Round/sheet", image=sheet01, step=done.step)
    title = f"Round {done.index}: {done.request.prompt}"
    controls.show_round(done.index, some_pairs(done), path, title=title)


def some_pairs(done: RoundReport) -> list[Pair]:
    """Views of a round, spread over all of it."""
    named = list(zip(done.names, done.edits.values(), strict=True))
    count = min(SHOWN_VIEWS, len(named))
    chosen = [named[index * len(named) // count] for index in range(count)]
    return [(Path(name).stem, edit.source01, edit.trained01) for name, edit in chosen]


class FailedRounds:
    """Tells the user of rounds that failed, each error once, and pauses editing.

    Args:
        command: Name of the command, which begins messages.
        controls: The viewer's tab.
    """

    def __init__(self, command: str, controls: ViewerControls) -> None:
        self._command, self._controls = command, controls
        self._told = ""

    def tell(self, error: str) -> None:
        """Tell of an error at the terminal and in the tab, and pause editing."""
        self._controls.paused = True
        text = f"A round failed, and editing is paused: {error}"
        self._controls.show_failure(text)
        if error == self._told:
            return
        self._told = error
        CONSOLE.print(f"{self._command}: {text}", markup=False)

    def forget(self) -> None:
        """Take the message back, once a step has had no error."""
        if self._told and not self._controls.paused:
            self._told = ""
            self._controls.show_failure("")
