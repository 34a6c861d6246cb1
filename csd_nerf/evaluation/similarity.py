"""Similarity of images: PSNR, SSIM and LPIPS."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.priors.lpips import lpips_network

_SSIM_WINDOW = 11
_LPIPS_EDGE = 32


def psnr(image01: Float[Tensor, "n 3 h w"], truth01: Float[Tensor, "n 3 h w"]) -> float:
    """Peak signal-to-noise ratio, -10 log10(MSE) per image in dB, averaged over the images.

    Higher is better. Images that equal the truth, whose ratio is infinite, are left out of the
    mean; if all do, it is infinite.
    """
    error = (image01 - truth01).square().mean(dim=(1, 2, 3))
    return mean_of_finite((-10 * error.log10()).tolist())


def mean_of_finite(values: Sequence[float]) -> float:
    """Mean of the values that are not infinite; infinity if all are. NaN stays NaN."""
    return fmean([value for value in values if value != inf] or [inf])


def ssim(
    image01: Float[Tensor, "n 3 h w"], truth01: Float[Tensor, "n 3 h w"], *, wrap: bool = False
) -> float:
    """Structural similarity (Wang et al. 2004), averaged over the images, by scikit-image.

    Gaussian windows of 11 pixels with sigma 1.5 in each channel, K1 = 0.01, K2 = 0.03; only windows
    that lie completely in the image count. In [-1, 1]; higher is better, 1 for identical images.

    Args:
        image01: The images.
        truth01: What they are compared with.
        wrap: Whether the left and right edges meet, so that windows across them count, too.

    Raises:
        ValueError: If an edge of the images is shorter than a window.
    """
    # torchmetrics takes many seconds to import, and includes windows at mirrored edges.
    from skimage.metrics import structural_similarity

    if min(image01.shape[2:]) < _SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {_SSIM_WINDOW}x{_SSIM_WINDOW} pixels, got "
            f"{image01.shape[2]}x{image01.shape[3]}."
        )
    if wrap:
        image01, truth01 = (_continued(images, _SSIM_WINDOW // 2) for images in (image01, truth01))
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5}
    options |= {"channel_axis": 0, "data_range": 1.0, "use_sample_covariance": False}
    pairs = zip(image01.double().cpu().numpy(), truth01.double().cpu().numpy(), strict=True)
    values: list[Any] = [structural_similarity(*pair, **options) for pair in pairs]
    return fmean(float(value) for value in values)


def _continued(images: Float[Tensor, "n 3 h w"], columns: int) -> Float[Tensor, "n 3 h _"]:
    """Images with columns of their other edge added at the left and the right."""
    return torch.cat([images[..., -columns:], images, images[..., :columns]], dim=3)


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018); lower is better, 0 for equal images."""

    def __init__(self, network: Any, device: torch.device) -> None:
        """Take the lpips package's network; see `load_lpips`."""
        self._network = network.to(device)
        self._device = device

    @torch.no_grad()
    def __call__(
        self, image01: Float[Tensor, "n 3 h w"], other01: Float[Tensor, "n 3 h w"]
    ) -> Float[Tensor, "n"]:
        """Compute the distance of each pair of images in [0, 1]; returned on the CPU.

        Raises:
            ValueError: If an edge is shorter than 32 pixels.
        """
        if min(image01.shape[2:]) < _LPIPS_EDGE:
            raise ValueError(
                f"LPIPS needs images of at least {_LPIPS_EDGE}x{_LPIPS_EDGE} pixels, got "
                f"{image01.shape[2]}x{image01.shape[3]}."
            )
        pairs = (image01.to(self._device), other01.to(self._device))
        return self._network(*pairs, normalize=True).flatten().cpu()


def load_lpips(device: str | torch.device = "cpu") -> Lpips:
    """Build LPIPS on AlexNet; downloads torchvision's weights if needed.

    Raises:
        FileNotFoundError: If the weights are not there and can't be downloaded.
    """
    return Lpips(lpips_network("alex"), torch.device(device))


def frame_lpips(lpips: Lpips, frames01: Float[Tensor, "n 3 h w"]) -> float:
    """Mean LPIPS of consecutive frames or views; lower is smoother, 0 if all are equal.

    This is the LPIPS in the paper's Tables 1 to 4. It doesn't measure whether the edit is correct.

    Raises:
        ValueError: If there are fewer than two frames.
    """
    if len(frames01) < 2:
        raise ValueError(f"LPIPS between frames needs at least 2, got {len(frames01)}.")
    return float(lpips(frames01[1:], frames01[:-1]).mean())
