"""Draws the particles of each iteration so that every place is updated equally often.

The paper draws a batch by chance. A frame, or a cell of a canvas, then has more updates than
another; cells at a canvas's corners, which one window covers where many cover the middle, have a
sixteenth of them at a stride of a quarter window (the artifacts of the paper's Appendix E).
Here particles come in sweeps, each of which covers everything: a shuffled deck of frames, or
overlapping windows laid over the canvas at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.randomness import Randomness

Drawing = Literal["balanced", "uniform"]


def check_drawing(drawing: str) -> None:
    """Raises ValueError if there is no such way to draw."""
    if drawing not in get_args(Drawing):
        raise ValueError(
            f"drawing needs to be one of {', '.join(get_args(Drawing))}, got {drawing!r}."
        )


class Deck:
    """Deals the particles of one sweep after another, in batches of nearly equal size.

    All batches of a sweep can share a timestep and a noise: then all frames of a video go through
    the same ones, and don't flicker for having been drawn at different times. A deck that deals
    no batch counts every call as a new sweep.
    """

    def __init__(self, draw_sweep: Callable[[Randomness], Int[Tensor, "s"]]) -> None:
        """Deal the sweeps that `draw_sweep` returns: particles in random order, none twice."""
        self._draw_sweep = draw_sweep
        self._waiting: Int[Tensor, "w"] = torch.zeros(0, dtype=torch.long)
        self._begins_sweep = True
        self._timestep = 0
        self._noise = torch.zeros(0)

    def draw(self, count: int, randomness: Randomness) -> Int[Tensor, "n"]:
        """The next batch: `count` particles, or fewer where sweeps don't divide by it."""
        self._begins_sweep = len(self._waiting) == 0
        if self._begins_sweep:
            self._waiting = self._draw_sweep(randomness)
        batches = -(-len(self._waiting) // count)
        size = -(-len(self._waiting) // batches)
        batch, self._waiting = self._waiting[:size], self._waiting[size:]
        return batch

    def draw_timestep(self, randomness: Randomness, low: int, high: int) -> int:
        """The sweep's timestep, from `low` to `high`, both included."""
        if self._begins_sweep:
            self._timestep = randomness.timestep(low, high)
        return self._timestep

    def draw_noise(self, randomness: Randomness, shape: tuple[int, ...]) -> Float[Tensor, "*shape"]:
        """The sweep's unit Gaussian noise, on the CPU."""
        if self._begins_sweep:
            self._noise = randomness.normal(shape)
        return self._noise

    def state(self) -> dict[str, Tensor]:
        """The state that `restore` takes; the tensors are the deck's own, not copies."""
        timestep = torch.tensor(self._timestep)
        return {"waiting": self._waiting, "timestep": timestep, "noise": self._noise}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of a deck of the same particles."""
        self._waiting = state["waiting"].clone()
        self._timestep = int(state["timestep"])
        self._noise = state["noise"].clone()


@dataclass(frozen=True)
class AxisCover:
    """Draws random sets of windows, each of which covers one axis of a canvas.

    The windows come from a fixed grid. In a cover the first window starts at cell 0, the last ends
    at the end of the axis, and neighbours overlap by at least `overlap` cells. All covers of
    `count` windows are equally likely. `count` is slightly more than the axis needs, so that
    windows can lie in different places from cover to cover.

    Attributes:
        starts: First cells of the grid's windows, ascending from 0.
        length: Cells of the axis.
        window: Cells of a window.
        overlap: Smallest overlap of neighbours in cells. A grid that is too coarse for it lets
            neighbours of the grid overlap by less.
        wrap: Whether the axis is a circle; covers then may begin anywhere.
    """

    starts: Int[Tensor, "m"]
    length: int
    window: int
    overlap: int
    wrap: bool = False

    @property
    def _stride(self) -> int:
        return int(self.starts[1]) if len(self.starts) > 1 else self.window

    @property
    def _reach(self) -> int:
        """Most cells from a window's start to its neighbour's."""
        return max(self.window - self.overlap, self._stride)

    @property
    def count(self) -> int:
        """Windows in a cover."""
        m, stride = len(self.starts), self._stride
        # From one start of the grid to the farthest other one within reach.
        farthest = self._reach // stride * stride
        room = max(self.overlap, stride) // 2
        step = max(farthest - room, stride)
        if self.wrap:
            # Where the grid meets itself again a step may come out shorter.
            length = self.length + (stride if self.length % stride else 0)
            return min(-(-length // step), m)
        return min(-(-(self.length - self.window) // step) + 1, m)

    def draw(self, randomness: Randomness, *, rows: int = 1) -> Int[Tensor, "{rows} windows"]:
        """Draw `rows` covers; returns indices into `starts`.

        On a circle all of them begin with the same, randomly drawn window.
        """
        m = len(self.starts)
        first = int(randomness.choice(m, 1)) if self.wrap else 0
        starts = self.starts.roll(-first)
        if self.wrap:
            # Once round, and back to where it began.
            starts = torch.cat([starts, starts[:1]]) - starts[0]
            starts = starts + self.length * (starts < 0)
            starts[-1] = self.length
        steps = self.count if self.wrap else self.count - 1
        allowed, onward = self._ways(starts, steps)
        paths = [torch.zeros(rows, dtype=torch.long)]
        for ways in reversed(onward[:-1]):
            # In proportion to the number of ways that lead on: all covers are equally likely.
            paths.append(randomness.pick(allowed[paths[-1]] * ways))
        return (torch.stack(paths, dim=1)[:, : self.count] + first) % m

    def expected(self, weights: Float[Tensor, "m window"]) -> Float[Tensor, "length"]:
        """The expected weight of each cell: its sum over a cover's windows, averaged over covers.

        Args:
            weights: Weights of each window's own cells.
        """
        m = len(self.starts)
        if self.wrap:
            chances = torch.full((m,), self.count / m, dtype=torch.float64)
        else:
            allowed, onward = self._ways(self.starts, self.count - 1)
            chances, reached = torch.zeros(m, dtype=torch.float64), torch.zeros(m).double()
            reached[0] = 1
            for ways in reversed(onward):
                through = reached * ways
                chances += through / through.sum()
                reached = allowed.T @ reached
                reached = reached / reached.max().clamp(min=1e-300)
        cells = (self.starts[:, None] + torch.arange(self.window)) % self.length
        total = torch.zeros(self.length, dtype=torch.float64)
        total.index_add_(0, cells.flatten(), (chances[:, None] * weights).flatten())
        return total.float()

    def _ways(
        self, starts: Int[Tensor, "p"], steps: int
    ) -> tuple[Float[Tensor, "p p"], list[Float[Tensor, "p"]]]:
        """Which steps are allowed, and how many ways lead to the end in 0, 1, ... `steps` steps."""
        gap = starts[None] - starts[:, None]
        allowed = ((gap > 0) & (gap <= self._reach)).double()
        ways = torch.zeros(len(starts), dtype=torch.float64)
        ways[-1] = 1
        onward = [ways]
        for _ in range(steps):
            ways = allowed @ ways
            # Numbers of ways grow beyond any float; only their proportions matter.
            ways = ways / ways.max()
            onward.append(ways)
        return allowed, onward


def fade(
    starts: Int[Tensor, "b"], *, length: int, window: int, taper: int, wrap: bool = False
) -> Float[Tensor, "b {window}"]:
    """Weights of a window's cells along one axis: a linear ramp up from each end.

    The ramp has `taper` cells, so that the weights of two windows that overlap by `taper` add up to
    one. There is no ramp at an end that lies at the end of the axis. A taper of 0 gives ones.
    """
    cells = torch.arange(window)
    ramp = ((cells + 0.5) / taper).clamp(max=1) if taper else torch.ones(window)
    ramp = ramp.expand(len(starts), window)
    low = (starts[:, None] == 0) & (not wrap)
    high = (starts[:, None] == length - window) & (not wrap)
    return torch.where(low, 1.0, ramp) * torch.where(high, 1.0, ramp.flip(1))
