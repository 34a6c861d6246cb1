"""Converts the decoded frames of films to upright RGB, and the colours of frames by FFmpeg.

A film without a colour matrix in its metadata is read as BT.709 if it has 720 lines or more, else
as BT.601, as players do. PyAV is imported late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from csd_nerf.media import tone_mapping

if TYPE_CHECKING:
    from av import VideoFrame

_BICUBIC, _FULL_CHROMA, _ACCURATE_ROUNDING, _BIT_EXACT = 0x4, 0x2000 | 0x4000, 0x40000, 0x80000
"""Flags of swscale.h, not all of which have names in all releases of PyAV."""
_HD_LINES = 720
_UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED."""


def upright_rgb(frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of a frame, turned by its rotation; transparent parts are put over white.

    High dynamic range is tone-mapped; see `tone_map`.
    """
    if frame.color_trc in tone_mapping.NAMES:
        deep = frame.reformat(
            format="rgb48le", src_colorspace=_matrix(frame), interpolation=scaler_flags()
        )
        primaries = frame.color_primaries
        rgb = tone_mapping.tone_map(deep.to_ndarray(), frame.color_trc, primaries=primaries)
    else:
        rgb = _reformatted(frame, "rgb24")
    if has_alpha(frame):
        alpha = _reformatted(frame, "rgba")[..., 3:].astype(np.float32) / 255
        rgb = (alpha * rgb + (1 - alpha) * 255).round().astype(np.uint8)
    # Like NumPy's rot90, PyAV counts the rotation counter-clockwise.
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))


def has_alpha(frame: VideoFrame) -> bool:
    """Whether the format of the frame has transparency."""
    return any(component.is_alpha for component in frame.format.components)


def is_transparent(frame: VideoFrame) -> bool:
    """Whether a pixel of the frame is not opaque."""
    return has_alpha(frame) and bool((_reformatted(frame, "rgba")[..., 3] < 255).any())


def scaler_flags() -> int:
    """FFmpeg's flags for converting colours; a round trip loses 2 dB less than by default."""
    return _BICUBIC | _FULL_CHROMA | _ACCURATE_ROUNDING | _BIT_EXACT


def _reformatted(frame: VideoFrame, layout: str) -> np.ndarray:
    return frame.reformat(
        format=layout, src_colorspace=_matrix(frame), interpolation=scaler_flags()
    ).to_ndarray()


def _matrix(frame: VideoFrame) -> int | None:
    """The matrix of a frame that doesn't name one."""
    from av.video.reformatter import Colorspace

    if frame.colorspace != _UNSPECIFIED:
        return None
    if frame.color_trc in tone_mapping.NAMES:
        return Colorspace.BT2020
    return Colorspace.ITU709 if frame.height >= _HD_LINES else Colorspace.ITU601
