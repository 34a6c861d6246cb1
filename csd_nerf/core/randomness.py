"""The source of a run's random numbers.

Each iteration draws a batch, a timestep and noise, in this order and always on the CPU. So a seed
gives the same numbers on every device. Tests give the same source to two implementations of one
method, and compare them step by step.
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
        """`count` different integers from 0 to `total` - 1, in random order."""
        ...

    def pick(self, weights: Float[Tensor, "rows m"]) -> Int[Tensor, "rows"]:
        """An index from 0 to m - 1 for each row, with probability proportional to its weight."""
        ...

    def timestep(self, low: int, high: int) -> int:
        """A timestep, uniform from `low` to `high`, both included."""
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
        """`count` different integers from 0 to `total` - 1, in random order."""
        return torch.randperm(total, generator=self.generator)[:count]

    def pick(self, weights: Float[Tensor, "rows m"]) -> Int[Tensor, "rows"]:
        """An index from 0 to m - 1 for each row, with probability proportional to its weight."""
        return torch.multinomial(weights, 1, generator=self.generator)[:, 0]

    def timestep(self, low: int, high: int) -> int:
        """A timestep, uniform from `low` to `high`, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def normal(self, shape: tuple[int, ...]) -> Float[Tensor, "*shape"]:
        """Unit Gaussian noise, float32."""
        return torch.randn(shape, generator=self.generator)
