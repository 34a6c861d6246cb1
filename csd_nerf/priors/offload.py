"""Keeps the weights of a model on the CPU, from where each layer's come for its own call.

diffusers has this too, as group offloading, but it calls accelerate, and what it does can't be
seen without a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def offload_layers(model: nn.Module, device: torch.device) -> None:
    """Let a model run on a device that holds no more than one layer's weights at a time.

    Weights are copied in the order of the computation, on the same stream, so that nothing waits
    for them but the layer itself. They can't be trained: a backward pass would miss them.

    Args:
        model: Lies on the CPU, and takes inputs on the device. Its layers are the modules that have
            parameters or buffers of their own.
        device: Where it runs.
    """
    for layer in model.modules():
        named = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        if named:
            _offload(layer, dict(named), device)


def _offload(layer: nn.Module, homes: dict[str, Tensor], device: torch.device) -> None:
    if device.type == "cuda":
        # Memory that the system may swap out would be copied twice, and the CPU would wait.
        homes = {name: _like(home, home.detach().pin_memory()) for name, home in homes.items()}

    def fetch(*_: Any) -> None:
        for name, home in homes.items():
            setattr(layer, name, _like(home, home.detach().to(device, non_blocking=True)))

    def give_back(*_: Any) -> None:
        for name, home in homes.items():
            setattr(layer, name, home)

    give_back()
    layer.register_forward_pre_hook(fetch)
    # Also after an error, since a batch that didn't fit is evaluated again in halves.
    layer.register_forward_hook(give_back, always_call=True)


def _like(home: Tensor, moved: Tensor) -> Tensor:
    """A parameter where the other is one, else a buffer."""
    return nn.Parameter(moved, requires_grad=False) if isinstance(home, nn.Parameter) else moved
