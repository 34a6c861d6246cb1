"""Mixing by patches by definition: loops over pairs of cells in float64."""

from __future__ import annotations

import math

import torch


def slow_median(features: list[list[float]]) -> float:
    found = []
    for a in range(len(features)):
        for b in range(a + 1, len(features)):
            found.append(sum((x - y) ** 2 for x, y in zip(features[a], features[b], strict=True)))
    found.sort()
    middle = len(found) // 2
    return found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2


def slow_mix(source: torch.Tensor, residual: torch.Tensor, bandwidth: float) -> torch.Tensor:
    n, channels, height, width = source.shape
    places = [(i, y, x) for i in range(n) for y in range(height) for x in range(width)]

    def features(i: int, y: int, x: int) -> list[float]:
        return [
            float(source[i, c, min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)])
            for c in range(channels)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]

    table = [features(*place) for place in places]
    h = bandwidth * slow_median(table)
    out = torch.zeros_like(residual)
    for a, (i, y, x) in enumerate(places):
        total = 0.0
        for b, (j, v, u) in enumerate(places):
            apart = sum((s - t) ** 2 for s, t in zip(table[a], table[b], strict=True))
            k = math.exp(-apart / h)
            total += k
            # The image's own other places keep out; their weight is that of the place itself.
            taken = residual[i, :, y, x] if j == i else residual[j, :, v, u]
            out[i, :, y, x] += k * taken
        out[i, :, y, x] /= total
    return out
