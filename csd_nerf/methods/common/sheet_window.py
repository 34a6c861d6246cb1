"""A window in one browser that shows the contact sheet of a round."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from viser import ClientHandle

from csd_nerf.methods.common import markup
from csd_nerf.methods.common.gui_elements import Element

WIDTH = 1060
"""Largest width in pixels at which the sheet is sent."""


def open_sheet(client: ClientHandle, path: Path) -> None:
    """Open the window in a browser; its button closes it."""
    import numpy as np

    with Image.open(path) as picture:
        data = markup.picture_data(np.asarray(picture.convert("RGB")), edge=WIDTH)
    window = client.gui.add_modal(f"All views of {path.stem.replace('_', ' ')}")
    with window:
        close = client.gui.add_button("Close")
        close.on_click(lambda _: window.close())
        sheet = Element(client.gui.add_markdown(""))
    sheet.show(markdown=markup.stacked([markup.wide_modal(), markup.whole_picture("sheet", data)]))
