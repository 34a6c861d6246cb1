"""Looks: closed-form edits of images, which apply to renders and photographs alike.

Each look takes and returns images in [0, 1] of shape (n, 3, h, w). All looks except `sketch` act on
each pixel independently, so that their results are consistent across views.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Look = Callable[[Tensor], Tensor]

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 luma weights."""


def luma(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Brightness of each pixel, ITU-R BT.601."""
    weights = torch.tensor(LUMA, dtype=image01.dtype, device=image01.device)
    return (image01 * weights[:, None, None]).sum(dim=1, keepdim=True)


def saturate(image01: Float[Tensor, "n 3 h w"], amount: float) -> Float[Tensor, "n 3 h w"]:
    """Scale the difference from grey by `amount`: 0 gives grey, 1 the identity. Not clamped."""
    return torch.lerp(luma(image01).expand_as(image01), image01, amount)


def _scale(image01: Tensor, rgb: tuple[float, float, float]) -> Tensor:
    return image01 * image01.new_tensor(rgb)[:, None, None]


def _duotone(image01: Tensor, dark: tuple[float, ...], light: tuple[float, ...]) -> Tensor:
    low, high = (image01.new_tensor(c)[:, None, None] for c in (dark, light))
    return low + (high - low) * luma(image01)


def black_and_white(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Grey: all channels are the luma."""
    return luma(image01).expand_as(image01)


def sepia(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Brown duotone of an old photograph."""
    return _duotone(image01, (0.10, 0.05, 0.02), (1.0, 0.90, 0.70))


def night(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Dark and bluish, with low saturation."""
    return _scale(saturate(image01, 0.45), (0.22, 0.28, 0.46)).clamp(0, 1)


def sunset(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Warm light of a low sun."""
    return (_scale(saturate(image01, 0.75), (1.06, 0.66, 0.42)) + 0.02).clamp(0, 1)


def negative(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Photographic negative."""
    return 1 - image01


def vivid(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Higher saturation and contrast."""
    return (0.5 + 1.15 * (saturate(image01, 1.9) - 0.5)).clamp(0, 1)


def faded(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Low contrast and saturation, with lifted blacks."""
    return 0.38 + 0.5 * saturate(image01, 0.5)


def brighter(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Gamma 0.55."""
    return image01.clamp(min=0).pow(0.55)


def darker(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Gamma 2."""
    return image01.square()


def blueprint(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Cyanotype: a duotone from Prussian blue to white."""
    return _duotone(image01, (0.02, 0.10, 0.36), (0.88, 0.95, 1.0))


def infrared(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """False colours of a thermal camera, from dark to bright: blue, purple, red, orange, white."""
    stops = image01.new_tensor(
        [
            (0.05, 0.03, 0.35),
            (0.50, 0.05, 0.55),
            (0.90, 0.25, 0.25),
            (1.0, 0.70, 0.15),
            (1, 1, 0.85),
        ]
    )
    place = luma(image01)[:, 0].clamp(0, 1) * (len(stops) - 1)
    below = place.floor().clamp(max=len(stops) - 2)
    index, fraction = below.long(), (place - below)[..., None]
    return torch.lerp(stops[index], stops[index + 1], fraction).movedim(-1, 1)


def sketch(image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Pencil drawing: dark lines at edges of brightness, on light paper with weak tones."""
    grey = luma(image01)
    padded = torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    lines = (2.5 * (across.square() + down.square() + 1e-8).sqrt()).clamp(0, 1)
    return ((0.80 + 0.18 * grey) * (1 - 0.9 * lines)).expand_as(image01)


LOOKS: dict[str, Look] = {
    "black and white": black_and_white,
    "sepia": sepia,
    "night": night,
    "sunset": sunset,
    "negative": negative,
    "vivid": vivid,
    "faded": faded,
    "brighter": brighter,
    "darker": darker,
    "blueprint": blueprint,
    "infrared": infrared,
    "sketch": sketch,
}
