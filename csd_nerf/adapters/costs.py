"""Measures of a run: evaluations of the prior, memory, and how evenly updates are spread."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor

from csd_nerf.priors.base import Branch, Prior


class CountedPrior:
    """Wraps a prior and counts its evaluations: one per particle and guidance branch."""

    def __init__(self, prior: Prior, evaluations: int = 0) -> None:
        self._prior = prior
        self.evaluations = evaluations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def predict(
        self, branches: Sequence[Branch], timestep: Real[Tensor, "n"], **options: Any
    ) -> Float[Tensor, "k n c h w"]:
        """As the prior does; counts the evaluations."""
        self.evaluations += sum(branch.evaluations for branch in branches)
        return self._prior.predict(branches, timestep, **options)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak memory of this process so far, in MiB: `process` and, on CUDA, `gpu`."""
    # Linux counts KiB, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if device.type == "cuda":
        peak["gpu"] = torch.cuda.max_memory_allocated(device) / 2**20
    return {name: round(mib, 1) for name, mib in peak.items()}


def update_statistics(updates: Float[Tensor, "*places"]) -> dict[str, Any]:
    """Statistics of the number of updates over the cells of a canvas or the frames of a video.

    Empty if there are none.
    """
    if updates.numel() == 0:
        return {}
    counts, edges = torch.histogram(updates.double(), bins=10)
    return {
        "mean": float(updates.mean()),
        "min": float(updates.min()),
        "max": float(updates.max()),
        "sd": float(updates.std(correction=0)),
        "histogram": {"counts": counts.long().tolist(), "edges": edges.tolist()},
    }
