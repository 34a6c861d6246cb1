"""Tone mapping of high dynamic range (PQ, HLG) to the standard range, for films.

Light is in units of 203 cd/m², the reference white of BT.2408, and linear. The chain: the transfer
function of SMPTE ST 2084 (PQ), or of BT.2100 for a screen of 1000 cd/m² (HLG); BT.2020's primaries
to BT.709's by BT.2087's matrix, where negative light is clipped; the curve of BT.2390, Section 5.4,
on the largest of red, green and blue, so that hues stay; the display gamma 2.4 of BT.1886.

The curve leaves light below about a quarter of white as it is and brings 1000 cd/m² to white.
Brighter light is clipped: films are seldom graded for more.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

PQ, HLG = 16, 18
"""FFmpeg's numbers of the transfer functions, AVCOL_TRC_SMPTE2084 and AVCOL_TRC_ARIB_STD_B67."""
NAMES = {PQ: "PQ", HLG: "HLG"}

_BT709 = 1
"""AVCOL_PRI_BT709."""
_WHITE, _PEAK = 203.0, 1000.0
"""Reference white, and the brightest light that is not clipped, in cd/m²."""
_DISPLAY_GAMMA = 2.4
_LUMA = (0.2627, 0.6780, 0.0593)
"""Luminance of BT.2020's primaries."""
_TO_BT709 = (
    (1.6605, -0.5876, -0.0728),
    (-0.1246, 1.1329, -0.0083),
    (-0.0182, -0.1006, 1.1187),
)


def tone_map(
    rgb: UInt16[np.ndarray, "h w 3"], transfer: int, *, primaries: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Map a frame to BT.709.

    Args:
        rgb: Red, green and blue in the film's transfer function, 65535 for its largest code.
        transfer: `PQ` or `HLG`.
        primaries: FFmpeg's number of the primaries; all but BT.709's count as BT.2020's.
    """
    codes = torch.arange(65536) / 65535
    table = _pq_to_light(codes) if transfer == PQ else _hlg_to_scene(codes)
    light = table[torch.from_numpy(rgb.astype(np.int32))]
    if transfer == HLG:
        # BT.2100's opto-optical function: the screen's gamma of 1.2 on luminance.
        luminance = (light @ torch.tensor(_LUMA)).clamp(min=1e-6)
        light = light * (luminance**0.2 * _PEAK / _WHITE)[..., None]
    if primaries != _BT709:
        light = (light @ torch.tensor(_TO_BT709).T).clamp(min=0)
    largest = light.amax(-1, keepdim=True).clamp(min=1e-6)
    mapped = light * (_compressed(largest) / largest)
    return (255 * mapped.clamp(0, 1) ** (1 / _DISPLAY_GAMMA)).round().byte().numpy()


_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _pq_to_light(code: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    root = code.double() ** (1 / _M2)
    light = ((root - _C1).clamp(min=0) / (_C2 - _C3 * root)) ** (1 / _M1)
    return (light * 10_000 / _WHITE).float()


def _light_to_pq(light: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    root = (light * _WHITE / 10_000) ** _M1
    return ((_C1 + _C2 * root) / (1 + _C3 * root)) ** _M2


def _hlg_to_scene(code: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Scene light in [0, 1]."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * math.log(4 * a)
    return torch.where(code <= 0.5, code**2 / 3, (((code - c) / a).exp() + b) / 12)


def _compressed(light: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """BT.2390's curve: a cubic from the knee on, in PQ as a share of the peak's."""
    peak, white = (float(_light_to_pq(torch.tensor(of / _WHITE))) for of in (_PEAK, _WHITE))
    target = white / peak
    knee = 1.5 * target - 0.5
    code = (_light_to_pq(light) / peak).clamp(max=1)
    t = ((code - knee) / (1 - knee)).clamp(min=0)
    cubic = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (3 * t**2 - 2 * t**3) * target
    )
    return torch.where(code < knee, light, _pq_to_light(peak * cubic))
