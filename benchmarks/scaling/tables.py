"""The share of an iteration that ranks spend with communication, from bytes and a link's rate.

Per iteration each rank evaluates at most ceil(n / N) of n particles, and the residuals of all are
gathered once (`csd_nerf.priors.estimates.weighted_sum`). Shares are padded to the longest, of
ceil(n / N) residuals. A ring sends N - 1 of these to each rank, one after the other; so

    compute = ceil(n / N) e t,    gather = (N - 1) ceil(n / N) b / rate,

with e evaluations of t seconds and a residual of b bytes. Left out: latency, the exchange of a
single number before it, the mixing, which each rank does for all, and encoding and decoding, whose
images are gathered once a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.scaling.settings import ScalingSettings

LINKS = {"NVLink 4": 900e9, "PCIe 4 x16": 32e9, "100 Gbit/s Ethernet": 12.5e9}
"""Nominal rates of links in bytes a second."""


@dataclass(frozen=True)
class Iteration:
    """The time of an iteration in seconds."""

    compute: float
    gather: float

    @property
    def share(self) -> float:
        """The share of the time in which ranks communicate."""
        return self.gather / (self.compute + self.gather)


def iteration(
    particles: int, gpus: int, rate: float, *, evaluations: int, seconds: float, size: float
) -> Iteration:
    """Compute the time of an iteration.

    Args:
        particles: Number of images, n.
        gpus: Number of ranks, N.
        rate: Bytes a second of the link.
        evaluations: Evaluations of an image, e.
        seconds: Time of one, t.
        size: Bytes of a residual, b.
    """
    longest = math.ceil(particles / gpus)
    return Iteration(longest * evaluations * seconds, (gpus - 1) * longest * size / rate)


def scaling_tables(settings: ScalingSettings) -> str:
    """Tables in markdown: the speed-up over one GPU, and the share of communication."""
    how = {
        "evaluations": settings.evaluations,
        "seconds": settings.milliseconds / 1000,
        "size": settings.kib * 1024,
    }
    parts = []
    for link, rate in LINKS.items():
        parts += [f"{link}, {rate / 1e9:g} GB/s:", ""]
        parts += [
            "| GPUs | " + " | ".join(f"{n:,} images" for n in settings.particles) + " |",
            "| ---: |" + " ---: |" * len(settings.particles),
        ]
        for gpus in settings.gpus:
            cells = []
            for particles in settings.particles:
                alone = iteration(particles, 1, rate, **how)
                found = iteration(particles, gpus, rate, **how)
                faster = alone.compute / (found.compute + found.gather)
                cells.append(f"{faster:.1f} ({found.share:.2%})")
            parts.append(f"| {gpus} | " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)
