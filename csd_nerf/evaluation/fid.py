"""Frechet inception distance between two sets of images (Heusel et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.media.pixels import to_bytes

Features = Callable[[Tensor], Tensor]
"""Function from images in [0, 1], (n, 3, h, w), to features, (n, d)."""


def frechet_distance(features: Float[Tensor, "n d"], other: Float[Tensor, "m d"]) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the features' means and covariances.

    It is 0 for equal sets; lower is better. With few images the covariances have low rank, and the
    distance is biased upwards, so compare only distances for the same number of images.

    Args:
        features: Features of one set of images.
        other: Features of the other set.

    Raises:
        ValueError: If a set has fewer than two images.
    """
    if min(len(features), len(other)) < 2:
        raise ValueError(
            f"FID needs at least 2 images on either side, got {len(features)} and {len(other)}."
        )
    first, second = features.double(), other.double()
    shift = (first.mean(0) - second.mean(0)).square().sum()
    # With centred, scaled rows X and Y, C1 = X'X and C2 = Y'Y. Then tr (C1 C2)^(1/2) is the sum of
    # the singular values of X Y', which is a small matrix if there are few images.
    x = (first - first.mean(0)) / (len(first) - 1) ** 0.5
    y = (second - second.mean(0)) / (len(second) - 1) ** 0.5
    mixed = torch.linalg.svdvals(x @ y.T).sum()
    return float(shift + x.square().sum() + y.square().sum() - 2 * mixed)


def load_inception(weights: Path | None = None, device: str | torch.device = "cpu") -> Features:
    """Load Inception-v3 with its 2048 pooled features, in torch-fidelity's port.

    Args:
        weights: File with the weights; None takes torch's cache, or downloads them.
        device: Device of the network.

    Raises:
        FileNotFoundError: If the weights are not there and can't be downloaded.
        ValueError: If the file holds other weights.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import (
        URL_INCEPTION_V3,
        FeatureExtractorInceptionV3,
    )

    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"FID needs Inception's weights, but there is no {weights}.")
    if weights is None and not cached.is_file():
        try:
            torch.hub.load_state_dict_from_url(URL_INCEPTION_V3, map_location="cpu", progress=True)
        except OSError as error:
            raise FileNotFoundError(
                f"FID needs Inception's weights at {cached}, and they can't be fetched "
                f"({type(error).__name__}); fetch {URL_INCEPTION_V3} with a network."
            ) from None
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights or cached))
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(
            f"FID needs the weights of torch-fidelity's Inception, got {weights or cached}, which "
            f"can't be read as such ({type(error).__name__}); fetch {URL_INCEPTION_V3} anew."
        ) from None
    network = network.to(device)

    @torch.no_grad()
    def features(image01: Tensor) -> Tensor:
        pixels = to_bytes(image01).movedim(-1, 1).to(device)
        return torch.cat([network(part)[0].cpu() for part in pixels.split(16)])

    return features
