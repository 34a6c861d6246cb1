"""Copies between the CPU and a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, which the CPU doesn't wait for unless the tensor comes to it.

    `non_blocking` alone is not enough for CUDA: a copy out of memory that the system may move waits
    until the device has done what it was asked before. So the memory is pinned first; torch keeps
    such memory, and reuses it once the copy is done.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "cpu")


def on_cpu(value: Any) -> Any:
    """A copy in the CPU's memory, which nothing else changes, of tensors in mappings and lists."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: on_cpu(part) for key, part in value.items()}
    return [on_cpu(part) for part in value] if isinstance(value, list) else value
