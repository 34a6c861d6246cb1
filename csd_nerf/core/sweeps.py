"""Draws each iteration's particles in sweeps, so that everything is updated equally often.

The paper draws every batch at random. Some frames, or some cells of a canvas, are then updated more
often than others. For example, at a stride of a quarter window sixteen windows cover a cell in the
middle of a canvas, but only one covers the corner (see the artifacts in the paper's Appendix E).
Here a sweep covers everything once: all frames in random order, or a random set of overlapping
windows that covers the canvas.
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
    """Check the name of a way of drawing.

    Raises:
        ValueError: If it is neither `balanced` nor `uniform`.
    """
    if drawing not in get_args(Drawing):
        raise ValueError(
            f"drawing needs to be one of {', '.join(get_args(Drawing))}, got {drawing!r}."
        )


class Deck:
    """Hands out one sweep after another, in batches of nearly equal size.

    `draw_timestep` and `draw_noise` draw once per sweep, so that all frames of a video get the same
    timesteps and noises, which reduces flicker. If `draw` is never called, they draw anew at every
    call.
    """

    def __init__(self, draw_sweep: Callable[[Randomness], Int[Tensor, "s"]]) -> None:
        """Take the function that draws a sweep: particle indices in random order, none twice."""
        self._draw_sweep = draw_sweep
        self._waiting: Int[Tensor, "w"] = torch.zeros(0, dtype=torch.long)
        self._left = 0
        self._begins_sweep = True
        self._timestep = 0
        self._noise = torch.zeros(0)

    def draw(self, count: int, randomness: Randomness, *, batches: int = 1) -> Int[Tensor, "n"]:
        """The next batch: at most `count` particles, nearly as many in each batch of a sweep.

        A sweep of fewer than `batches` batches is filled up with empty ones.
        """
        self._begins_sweep = len(self._waiting) == 0 and self._left <= 0
        if self._begins_sweep:
            self._waiting, self._left = self._draw_sweep(randomness), batches
        self._left -= 1
        needed = -(-len(self._waiting) // count)
        size = -(-len(self._waiting) // max(needed, 1))
        batch, self._waiting = self._waiting[:size], self._waiting[size:]
        return batch

    def draw_timestep(self, randomness: Randomness, low: int, high: int) -> int:
        """The sweep's timestep, from `low` to `high` of its first batch, both included."""
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
        left = torch.tensor(self._left)
        return {
            "waiting": self._waiting,
            "left": left,
            "timestep": timestep,
            "noise": self._noise,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from the state of a deck of the same particles."""
        self._waiting = state["waiting"].clone()
        self._left = int(state["left"])
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
        overlap: Smallest overlap of neighbours in cells. If the grid's stride is larger than
            window - overlap, windows that are neighbours on the grid may overlap by less.
        wrap: Whether the axis is a circle; covers may then begin at any window of the grid.
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
        """Largest distance in cells between the starts of neighbouring windows."""
        return max(self.window - self.overlap, self._stride)

    @property
    def count(self) -> int:
        """Windows in a cover."""
        m, stride = len(self.starts), self._stride
        # The largest distance within reach that is a multiple of the grid's stride.
        farthest = self._reach // stride * stride
        room = max(self.overlap, stride) // 2
        step = max(farthest - room, stride)
        if self.wrap:
            # The grid's last step, back to its first window, may be shorter than the stride.
            length = self.length + (stride if self.length % stride else 0)
            return min(-(-length // step), m)
        return min(-(-(self.length - self.window) // step) + 1, m)

    def draw(self, randomness: Randomness, *, rows: int = 1) -> Int[Tensor, "{rows} windows"]:
        """Draw `rows` covers as indices into `starts`.

        On a circle all of them begin with the same random window.
        """
        m = len(self.starts)
        first = int(randomness.choice(m, 1)) if self.wrap else 0
        starts = self.starts.roll(-first)
        if self.wrap:
            # Once round the circle: the first start is repeated at the end, at `length`.
            starts = torch.cat([starts, starts[:1]]) - starts[0]
            starts = starts + self.length * (starts < 0)
            starts[-1] = self.length
        steps = self.count if self.wrap else self.count - 1
        allowed, onward = self._ways(starts, steps)
        paths = [torch.zeros(rows, dtype=torch.long)]
        for ways in reversed(onward[:-1]):
            # Each step is weighted by the number of covers that it leads to: all are equally
            # likely.
            paths.append(randomness.pick(allowed[paths[-1]] * ways))
        return (torch.stack(paths, dim=1)[:, : self.count] + first) % m

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
    """Fade weights of windows along one axis: they rise linearly from both ends of a window.

    The ramp has `taper` cells, so that the weights of two windows that overlap by `taper` add up to
    one. A window's end that lies at the end of the axis has no ramp. A taper of 0 gives ones.
    """
    cells = torch.arange(window)
    ramp = ((cells + 0.5) / taper).clamp(max=1) if taper else torch.ones(window)
    ramp = ramp.expand(len(starts), window)
    low = (starts[:, None] == 0) & (not wrap)
    high = (starts[:, None] == length - window) & (not wrap)
    return torch.where(low, 1.0, ramp) * torch.where(high, 1.0, ramp.flip(1))
