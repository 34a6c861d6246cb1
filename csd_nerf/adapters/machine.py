"""What this machine has: packages, GPUs, memory, disk, and the rate at which it computes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import torch

from csd_nerf.priors.memory import free_bytes

_PACKAGES = {
    "torch": "torch",
    "nerfstudio": "nerfstudio",
    "tiny-cuda-nn": "tinycudann",
    "gsplat": "gsplat",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "bitsandbytes": "bitsandbytes",
}
"""Distributions whose release is told, by the names that users know."""
_EDGE = {"cuda": 8192, "cpu": 1024}
"""Edge of the matrices whose product is timed."""
_SECONDS = 0.3
"""How long the product is repeated."""


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Machine:
    """Facts of this machine."""

    versions: dict[str, str | None]
    """Releases of packages, which aren't imported for it; None for one that isn't installed."""
    cuda: str | None
    """Release of CUDA that torch was built for."""
    gpus: tuple[Gpu, ...]
    has_driver: bool
    """Whether there is a device of NVIDIA's driver."""
    has_compiler: bool
    """Whether there is a compiler for CUDA, with which gsplat compiles itself at its first use, or
    gsplat is compiled already."""
    cpu_free_bytes: int
    cache: str
    """Folder of the hub's cache."""
    cache_free_bytes: int
    """Free space of its volume."""

    @property
    def device(self) -> torch.device:
        """Where a prior runs if nothing else is asked for."""
        return torch.device("cuda" if self.gpus else "cpu")

    @property
    def free_bytes(self) -> int:
        """Free memory of this device."""
        return self.gpus[0].free_bytes if self.gpus else self.cpu_free_bytes


def look() -> Machine:
    """Look at this machine; takes no time, and uses no network."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return Machine(
        versions={name: _release(package) for name, package in _PACKAGES.items()},
        cuda=torch.version.cuda,
        gpus=tuple(_gpu(number) for number in range(torch.cuda.device_count())),
        has_driver=Path("/dev/nvidiactl").exists(),
        has_compiler=shutil.which("nvcc") is not None or _gsplat_is_compiled(),
        cpu_free_bytes=free_bytes(torch.device("cpu")),
        cache=str(folder),
        cache_free_bytes=shutil.disk_usage(there).free,
    )


@torch.no_grad()
def measured_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product, in a third of a second."""
    edge = _EDGE[device.type]
    matrix = torch.ones(edge, edge, device=device, dtype=dtype)

    def product() -> None:
        torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    # The first one loads libraries.
    product()
    began, products = perf_counter(), 0
    while perf_counter() - began < _SECONDS:
        product()
        products += 1
    return products * 2 * edge**3 / (perf_counter() - began)


def _release(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpu(number: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(number)
    return Gpu(torch.cuda.get_device_name(number), total, free)


def _gsplat_is_compiled() -> bool:
    found = find_spec("gsplat")
    folders = found.submodule_search_locations if found is not None else None
    return any(list(Path(folder).glob("csrc*.so")) for folder in folders or ())
