"""How near images are to one another: PSNR, SSIM, LPIPS."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def psnr(image01: Float[Tensor, "n 3 h w"], truth01: Float[Tensor, "n 3 h w"]) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10(MSE) an image, averaged over the images.

    Higher is nearer; identical images give infinity.
    """
    error = (image01 - truth01).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())
