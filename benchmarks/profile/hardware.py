"""Reference figures of the profile: the cost of the model and the speed of the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.profile.clock import median_seconds
from csd_nerf.priors.base import Branch
from csd_nerf.priors.instruct_pix2pix import InstructPix2Pix


def unet_flop(prior: InstructPix2Pix, size: int) -> float:
    """Number of floating-point operations of one U-Net evaluation, counted by torch.

    It includes matrix products, convolutions and attention; a multiply-add counts as two.
    """
    from torch.utils.flop_counter import FlopCounterMode

    edge = size // prior.cell_size
    noisy = torch.zeros(1, prior.latent_channels, edge, edge, device=prior.device)
    branch = Branch(noisy, prior.encode_text([""]))
    with FlopCounterMode(display=False) as counter:
        prior.predict([branch], torch.zeros(1, dtype=torch.long, device=prior.device))
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype, *, repetitions: int = 7) -> float:
    """Floating-point operations per second of a large square matrix product, by median time."""
    edge = 8192 if device.type == "cuda" else 1024
    a = torch.randn(edge, edge, device=device).to(dtype)
    b = torch.randn(edge, edge, device=device).to(dtype)
    return 2 * edge**3 / median_seconds(lambda: torch.mm(a, b), device, repetitions=repetitions)


def machine(device: torch.device) -> dict[str, Any]:
    """Description of the machine and of torch."""
    described: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
