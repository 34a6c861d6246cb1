"""The network of LPIPS (Zhang et al. 2018), built when it is first needed.

This module imports neither lpips nor torchvision before a function needs them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Net = Literal["alex", "vgg"]


def weights_path(net: Net = "alex") -> Path:
    """Where torch keeps torchvision's weights once they were fetched."""
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    url = (AlexNet_Weights if net == "alex" else VGG16_Weights).IMAGENET1K_V1.url
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def lpips_network(net: Net = "alex") -> Any:
    """Build the lpips package's network without gradients, fetching its weights if needed.

    Raises:
        FileNotFoundError: If they can't be had.
    """
    import lpips

    try:
        with warnings.catch_warnings():
            # lpips uses an argument of torchvision that is deprecated.
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net=net, verbose=False)
    except (OSError, RuntimeError) as error:
        name = {"alex": "AlexNet", "vgg": "VGG-16"}[net]
        raise FileNotFoundError(
            f"LPIPS needs {name}'s weights at {weights_path(net)}, and they can't be fetched "
            f"({type(error).__name__}); run `python -c \"import lpips; lpips.LPIPS(net='{net}')\"` "
            "with a network"
        ) from None
    return network.requires_grad_(False)


def lpips_features(network: Any) -> Callable[[Float[Tensor, "n d"]], Float[Tensor, "n f"]]:
    """LPIPS as the squared distance of weighted features, so that a view's are computed once.

    LPIPS sums, over layers, the mean over pixels of weighted squared differences between features
    that have unit length; with the roots of the weights in the features it is their squared
    distance.

    Args:
        network: From `lpips_network`.

    Returns:
        A differentiable map of flattened square RGB images in [0, 1] to features.
    """
    from lpips import normalize_tensor

    def embed(flat01: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        edge = round((flat01.shape[1] / 3) ** 0.5)
        scaled = network.scaling_layer(2 * flat01.view(-1, 3, edge, edge) - 1)
        layers = network.net.forward(scaled)
        parts = []
        for layer, linear in zip(layers, network.lins, strict=True):
            # The published weights are not negative.
            weight = linear.model[-1].weight.clamp(min=0)[0, :, 0, 0]
            pixels = layer.shape[-2] * layer.shape[-1]
            scale = (weight / pixels).sqrt()[:, None, None]
            parts.append((scale * normalize_tensor(layer)).flatten(1))
        return torch.cat(parts, dim=1)

    return embed
