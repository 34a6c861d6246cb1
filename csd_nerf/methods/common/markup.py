"""Texts and pictures for viser's markdown, which is MDX: braces in it are run as JavaScript.

All text of users, models and files goes in as a quoted string, which the browser shows as it is.
viser 0.2.7 has no element for pictures; they go in as data.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from csd_nerf.media.pixels import to_bytes

Tone = Literal["plain", "quiet", "warning", "error"]

_COLOURS: dict[Tone, str] = {
    "plain": "inherit",
    "quiet": "#909296",
    "warning": "#ffd43b",
    "error": "#ff8787",
}
_FULL_SCREEN = (
    "onClick={(event) => document.fullscreenElement ? document.exitFullscreen() : "
    "event.currentTarget.requestFullscreen()}"
)
"""A click shows a picture on the whole screen, and the next one ends that."""


def text(words: str, *, tone: Tone = "plain", bold: bool = False) -> str:
    """A line of text, with nothing in it that markdown would read as a command."""
    style = {"color": _COLOURS[tone], "fontSize": "0.875em", "lineHeight": 1.35}
    style |= {"overflowWrap": "anywhere"}
    if bold:
        style["fontWeight"] = 600
    return f"<div style={{{json.dumps(style)}}}>{{{json.dumps(words)}}}</div>"


def stacked(parts: Sequence[str]) -> str:
    """Parts below each other."""
    return f"<div>{''.join(parts)}</div>"


def pair(label: str, before: str, after: str) -> str:
    """A picture before and after, side by side, with a label above; see `picture_data`."""
    columns = {"display": "grid", "gridTemplateColumns": "1fr 1fr", "gap": "4px"}
    columns |= {"marginBottom": "8px"}
    heading = text(label, tone="quiet") if label else ""
    cells = _captioned("before", before) + _captioned("after", after)
    return f"<div>{heading}<div style={{{json.dumps(columns)}}}>{cells}</div></div>"


def whole_picture(alt: str, data: str) -> str:
    """A picture as wide as there is room."""
    return _picture(alt, data)


def wide_modal() -> str:
    """Makes the modal around it as wide as the window allows."""
    rule = ".mantine-Modal-content { flex: 0 0 min(92vw, 1100px) !important; }"
    return f"<style>{{{json.dumps(rule)}}}</style>"


def _captioned(caption: str, data: str) -> str:
    return f"<div>{_picture(caption, data)}{text(caption)}</div>"


def _picture(alt: str, data: str) -> str:
    style: dict[str, Any] = {"width": "100%", "display": "block", "borderRadius": "3px"}
    style |= {"objectFit": "contain", "cursor": "zoom-in"}
    words, css = json.dumps(alt), json.dumps(style)
    shown = f'alt={{{words}}} style={{{css}}} src="{data}"'
    return f'<img {shown} title="click: whole screen" {_FULL_SCREEN} />'


def picture_data(
    picture: Float[Tensor, "3 h w"] | UInt8[np.ndarray, "h w 3"], *, edge: int = 360
) -> str:
    """A small JPEG as a data URL.

    Args:
        picture: In [0, 1], or with 8 bits.
        edge: Largest width in pixels; larger pictures are made smaller.
    """
    if isinstance(picture, Tensor):
        picture = to_bytes(picture.detach().cpu()).numpy()
    image = Image.fromarray(picture)
    if image.width > edge:
        height = max(1, round(image.height * edge / image.width))
        image = image.resize((edge, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
