"""A bank of K pairs of a timestep and a noise, with which an edit is done.

A residual subtracts an estimate for the noisy source (`csd_nerf.core.residuals`). The source never
changes, so that with a fixed timestep and noise its estimate doesn't either: it is computed when an
image meets a pair for the first time, and kept. An edit of I iterations on all images then takes
I T + min(K, I) S evaluations an image in place of I (T + S), with T estimates of the target and S
of the source: for CSD Eq. 9 3 I + 2 K in place of 5 I. The price is that noise and timesteps
repeat. Neither the paper nor its release does so.

Kept is the error of the source's part, sum_j w_j (e_j - e), with the weights w_j of its estimates
e_j and the drawn noise e. The noise is drawn again from the pair's seed, so that half precision
rounds the small difference only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.canvas import Canvas
from csd_nerf.core.copies import sent
from csd_nerf.core.randomness import Randomness, SeededRandomness


@dataclass
class SourceBank:
    """The pairs of an edit, and what was computed with them for its particles."""

    timesteps: Int[Tensor, "pairs"]
    """Of each pair, ascending."""
    seeds: Int[Tensor, "pairs"]
    """From which each pair's noise is drawn."""
    size: int
    """Number of particles."""
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False)
    """By pair: the errors of all particles' sources, in half precision."""
    _known: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing kept."""
        self._known = torch.zeros(len(self.timesteps), self.size, dtype=torch.bool)

    @classmethod
    def drawn(cls, pairs: int, *, seed: int, bounds: tuple[int, int], size: int) -> SourceBank:
        """Draw pairs, one in each of `pairs` equal parts of the timesteps.

        Args:
            pairs: K.
            seed: Decides timesteps and noise.
            bounds: Lowest and highest timestep, both included.
            size: Number of particles.
        """
        generator = torch.Generator().manual_seed(seed)
        low, high = bounds
        place = (torch.arange(pairs) + torch.rand(pairs, generator=generator)) / pairs
        timesteps = (low + place * (high - low + 1)).long().clamp(low, high)
        seeds = torch.randint(2**62, (pairs,), generator=generator)
        return cls(timesteps, seeds, size)

    def within(self, low: int, high: int) -> tuple[int, int]:
        """First and last pair with a timestep from `low` to `high`; the nearest one if none has."""
        inside = ((self.timesteps >= low) & (self.timesteps <= high)).nonzero()[:, 0]
        if len(inside):
            return int(inside[0]), int(inside[-1])
        nearest = int((2 * self.timesteps - (low + high)).abs().argmin())
        return nearest, nearest

    def randomness(self, pair: int, particle: int = -1) -> SeededRandomness:
        """The source of a pair's shared noise, or of one particle's; every call begins it anew."""
        seed = int(self.seeds[pair]) + 1 + particle
        return SeededRandomness(torch.Generator().manual_seed(seed))

    def missing(self, pair: int, index: Int[Tensor, "n"]) -> Int[Tensor, "m"]:
        """Which of these particles, by their place in `index`, have nothing kept for a pair."""
        return (~self._known[pair, index]).nonzero()[:, 0]

    def keep(self, pair: int, index: Int[Tensor, "n"], errors: Float[Tensor, "n c h w"]) -> None:
        """Keep the errors of these particles' sources on the device on which they are."""
        if pair not in self._kept:
            shape = (self.size, *errors.shape[1:])
            self._kept[pair] = errors.new_zeros(shape, dtype=torch.float16)
        kept = self._kept[pair]
        kept[sent(index, kept.device)] = errors.to(kept)
        self._known[pair, index] = True

    def read(self, pair: int, index: Int[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
        """The errors that were kept, in float32."""
        kept = self._kept[pair]
        return kept[sent(index, kept.device)].float()


class Drawn(NamedTuple):
    """What an iteration draws."""

    timestep: int
    noise: Float[Tensor, "n c h w"]
    pair: int | None
    """Of the bank; None without one."""


def draw(
    canvas: Canvas,
    index: Int[Tensor, "n"],
    randomness: Randomness,
    bank: SourceBank | None,
    bounds: tuple[int, int],
    *,
    shared: bool,
) -> Drawn:
    """Draw the timestep and the noise of a batch, from a bank if there is one.

    Args:
        canvas: What is edited.
        index: The batch.
        randomness: Source of what isn't in the bank.
        bank: None draws all anew.
        bounds: Lowest and highest timestep, both included; see `SourceBank.within`.
        shared: As for `Canvas.draw_noise`.
    """
    if bank is None:
        timestep = canvas.draw_timestep(randomness, *bounds)
        return Drawn(timestep, canvas.draw_noise(index, randomness, shared=shared), None)
    pair = canvas.draw_timestep(randomness, *bank.within(*bounds))
    # Each particle draws by itself, so that it has the same noise in every batch.
    own = [bank.randomness(pair)] if shared else [bank.randomness(pair, i) for i in index.tolist()]
    parts = index.split(len(index) if shared else 1)
    noise = [
        canvas.draw_noise(part, source, shared=shared, whole=True)
        for part, source in zip(parts, own, strict=True)
    ]
    return Drawn(int(bank.timesteps[pair]), torch.cat(noise), pair)
