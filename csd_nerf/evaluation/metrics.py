"""How near images are to one another: PSNR, SSIM, LPIPS."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

_SSIM_WINDOW = 11


def psnr(image01: Float[Tensor, "n 3 h w"], truth01: Float[Tensor, "n 3 h w"]) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10(MSE) an image, averaged over the images.

    Higher is nearer; identical images give infinity.
    """
    error = (image01 - truth01).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


def ssim(image01: Float[Tensor, "n 3 h w"], truth01: Float[Tensor, "n 3 h w"]) -> float:
    """Structural similarity (Wang et al. 2004), averaged over the images.

    Gaussian windows of 11 pixels with sigma 1.5 in each channel, K1 = 0.01, K2 = 0.03; in
    [-1, 1], higher is nearer, 1 for identical images.

    Raises:
        ValueError: If the images are smaller than a window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(image01.shape[2:]) < _SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {_SSIM_WINDOW}x{_SSIM_WINDOW} pixels, got "
            f"{image01.shape[2]}x{image01.shape[3]}."
        )
    similarity = structural_similarity_index_measure(image01, truth01, data_range=1.0)
    assert isinstance(similarity, Tensor)
    return float(similarity)
