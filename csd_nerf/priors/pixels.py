"""Images as other libraries take them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor


def pixels_of(image01: Float[Tensor, "n c h w"]) -> UInt8[np.ndarray, "n h w c"]:
    """Images in [0, 1] with 8 bits, rounded, channels last; values outside are clipped."""
    return (255 * image01.clamp(0, 1)).round().byte().movedim(1, -1).cpu().numpy()
