"""By what a run is known to be the same: contents of its inputs and its state, and versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd_nerf.media.frames import is_picture


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The versions of Python and of packages; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def fingerprint(*paths: Path) -> str:
    """SHA-256 of the contents of files, and of the names and contents of pictures in folders."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(filter(is_picture, path.iterdir())) if path.is_dir() else [path]
        for file in files:
            if path.is_dir():
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def content_digest(value: Any) -> str:
    """SHA-256 of what torch saves: tensors, numbers, texts, and collections of them."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            digest.update(b"{")
            for key in sorted(value):
                add(key)
                add(value[key])
            digest.update(b"}")
        elif isinstance(value, (list, tuple)):
            digest.update(b"[")
            for item in value:
                add(item)
            digest.update(b"]")
        else:
            digest.update(f"{type(value).__name__} {value!r}".encode())

    add(value)
    return digest.hexdigest()


def other_versions(earlier: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """The packages of which an earlier run had another version, for a message."""
    return [f"{n} {now[n]} instead of {earlier.get(n)}" for n in now if now[n] != earlier.get(n)]
