"""The LPIPS network (Zhang et al. 2018), and its features for the kernel of text-to-3D.

lpips and torchvision are imported late.
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
    """Path at which torch caches the backbone's weights (torchvision's, of ImageNet)."""
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    url = (AlexNet_Weights if net == "alex" else VGG16_Weights).IMAGENET1K_V1.url
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def lpips_network(net: Net = "alex") -> Any:
    """Build the lpips package's network with frozen weights, which are downloaded if needed.

    Raises:
        FileNotFoundError: If the weights are not there and can't be downloaded.
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
    """Features whose squared L2 distance is LPIPS, so that each view is embedded only once.

    LPIPS(x, y) = sum over layers and channels of w mean over pixels of (f(x) - f(y))^2, where f are
    the backbone's features with unit length at each pixel. The features returned are
    sqrt(w / pixels) f of all layers, flattened and concatenated.

    Args:
        network: From `lpips_network`.

    Returns:
        A differentiable function from flattened, square RGB images in [0, 1] to features.
    """
    from lpips import normalize_tensor

    def embed(flat01: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        edge = round((flat01.shape[1] / 3) ** 0.5)
        scaled = network.scaling_layer(2 * flat01.view(-1, 3, edge, edge) - 1)
        layers = network.net.forward(scaled)
        parts = []
        for layer, linear in zip(layers, network.lins, strict=True):
            # The published weights are not negative; clamping makes the root safe.
            weight = linear.model[-1].weight.clamp(min=0)[0, :, 0, 0]
            pixels = layer.shape[-2] * layer.shape[-1]
            scale = (weight / pixels).sqrt()[:, None, None]
            parts.append((scale * normalize_tensor(layer)).flatten(1))
        return torch.cat(parts, dim=1)

    return embed
