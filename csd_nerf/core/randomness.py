"""Where a run's random numbers come from.

A run draws in a fixed order (batch, timestep, noise; once an iteration), always on the CPU, so
that a seed gives the same numbers whatever the device. Two implementations of one method are
compared step by step by handing both the same source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Randomness(Protocol):
    """A source of random numbers; everything it returns lies on the CPU."""

    def choice(self, total: int, count: int) -> Int[Tensor, "{count}"]:
        """`count` of the numbers 0 to `total` - 1, without replacement."""
        ...

    def pick(self, weights: Float[Tensor, "rows m"]) -> Int[Tensor, "rows"]:
        """One of m things for each row, with probabilities in proportion to the weights."""
        ...

    def timestep(self, low: int, high: int) -> int:
        """A timestep from `low` to `high`, both included, uniformly."""
        ...

    def normal(self, shape: tuple[int, ...]) -> Float[Tensor, "*shape"]:
        """Unit Gaussian noise, float32."""
        ...


@dataclass(frozen=True)
class SeededRandomness:
    """Randomness from one generator on the CPU."""

    generator: torch.Generator

    def __post_init__(self) -> None:
        if self.generator.device.type != "cpu":
            raise ValueError(
                "The generator has to be on the CPU, so that a seed means the same on every "
                f"device, got one on {self.generator.device}; use torch.Generator()."
            )

    def choice(self, total: int, count: int) -> Int[Tensor, "{count}"]:
        """`count` of the numbers 0 to `total` - 1, without replacement."""
        return torch.randperm(total, generator=self.generator)[:count]

    def pick(self, weights: Float[Tensor, "rows m"]) -> Int[Tensor, "rows"]:
        """One of m things for each row, with probabilities in proportion to the weights."""
        return torch.multinomial(weights, 1, generator=self.generator)[:, 0]

    def timestep(self, low: int, high: int) -> int:
        """A timestep from `low` to `high`, both included, uniformly."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def normal(self, shape: tuple[int, ...]) -> Float[Tensor, "*shape"]:
        """Unit Gaussian noise, float32."""
        return torch.randn(shape, generator=self.generator)
