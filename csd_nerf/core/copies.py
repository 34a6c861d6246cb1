"""Copies from the CPU to a device for which the CPU doesn't wait."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, which the CPU doesn't wait for.

    `non_blocking` alone is not enough for CUDA: a copy out of memory that the system may move waits
    until the device has done what it was asked before. So the memory is pinned first; torch keeps
    such memory, and reuses it once the copy is done.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
