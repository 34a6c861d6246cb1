"""Shows an editing round in nerfstudio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nerfstudio.utils import writer

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
