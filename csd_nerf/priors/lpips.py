"""The network of LPIPS (Zhang et al. 2018), which nobody wants to be built before it is needed.

This module imports neither lpips nor torchvision before a function needs them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch

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
