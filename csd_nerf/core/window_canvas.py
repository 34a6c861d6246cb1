"""One large latent that is edited through the windows cut out of it.

Where the windows of a batch overlap, their steps are averaged (Section 3.3 of the paper). Two
things go beyond the paper. A window's step fades in from its edges, because a model that pads with
zeros errs most there; without fading every window leaves its outline. And steps are scaled by cell,
so that all cells move equally far on average, however often windows cover them. `taper=0` and
`drawing="uniform"` give the paper's way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.canvas import Particles
from csd_nerf.core.randomness import Randomness
from csd_nerf.core.rows import Rows
from csd_nerf.core.sweeps import AxisCover, Deck, Drawing, check_drawing, fade
from csd_nerf.core.windows import cut_windows, window_cells, window_positions


@dataclass
class WindowCanvas:
    """A `Canvas` of overlapping windows.

    Raises:
        ValueError: If windows don't fit, or the taper is not from 0 to half a window.
    """

    latent: Float[Tensor, "c H W"]
    """Clean latent; `descend` changes it in place. It may lie on another device than the prior."""
    source: Float[Tensor, "c H W"]
    """Clean latent of the source."""
    image_rows: Rows
    """Rows by which the model sees the source, each (k H W); a window gets its part."""
    window: tuple[int, int]
    """Height and width of a window in cells."""
    stride: int
    """Cells between neighbouring windows of the grid that windows are drawn from."""
    batch_size: int
    """Most windows an iteration."""
    wrap: bool = False
    """Whether the left and right edges meet."""
    drawing: Drawing = "balanced"
    """balanced: in sweeps of windows that cover the canvas; a sweep has one timestep and, if noise
    is shared, one field of noise. uniform: windows by chance, as in the paper."""
    taper: int | None = None
    """Cells over which a window's step fades in; None means the stride, half a window at most."""
    editable: Float[Tensor, "H W"] | None = None
    """Factor of each cell's step; None means one."""
    device: torch.device | None = None
    """Device of the particles that `read` returns; None means the latent's."""
    positions: Int[Tensor, "m 2"] = field(init=False)
    """Every window's (row, column)."""
    updates: Float[Tensor, "H W"] = field(init=False)
    """How often each cell was updated, each update counted by the weight of its step."""

    def __post_init__(self) -> None:
        """Lay out the windows."""
        check_drawing(self.drawing)
        size = self._canvas
        self.positions = window_positions(size, self.window, stride=self.stride, wrap=self.wrap)
        most = min(self.window) // 2
        self.taper = min(self.stride, most) if self.taper is None else self.taper
        if not 0 <= self.taper <= most:
            raise ValueError(f"taper needs 0 <= taper <= {most} cells, got {self.taper}.")
        self.updates = torch.zeros(size)
        self.device = self.latent.device if self.device is None else self.device
        self._axes = [
            AxisCover(self.positions[:, axis].unique(), c, w, self.taper, self.wrap and axis == 1)
            for axis, (c, w) in enumerate(zip(size, self.window, strict=True))
        ]
        self._deck = Deck(self._draw_sweep)
        self._evenness, self._updates_per_sweep = torch.ones(size), 0.0
        if self.drawing == "balanced":
            down, across = (a.expected(self._fade(a.starts, k)) for k, a in enumerate(self._axes))
            self._updates_per_sweep = float(down.mean() * across.mean())
            self._evenness = self._updates_per_sweep / (down[:, None] * across)

    @property
    def _canvas(self) -> tuple[int, int]:
        return (self.latent.shape[1], self.latent.shape[2])

    @property
    def size(self) -> int:
        """Number of windows that may be drawn."""
        return len(self.positions)

    @property
    def batches_per_sweep(self) -> int:
        """Iterations that go over everything once; 1 where windows are drawn by chance."""
        if self.drawing == "uniform":
            return 1
        return -(-self._axes[0].count * self._axes[1].count // self.batch_size)

    def iterations_for(self, updates: int) -> int:
        """Iterations, in whole sweeps, that update a cell this often on average."""
        if self.drawing == "balanced":
            return self.batches_per_sweep * max(1, round(updates / self._updates_per_sweep))
        windows = min(self.batch_size, self.size)
        cells = float(self._weights(torch.arange(self.size)).sum((1, 2)).mean())
        return math.ceil(updates * self.updates.numel() / (windows * cells))

    def draw_batch(self, randomness: Randomness) -> Int[Tensor, "n"]:
        """The next windows of the sweep, or any by chance."""
        if self.drawing == "uniform":
            return randomness.choice(self.size, min(self.batch_size, self.size))
        return self._deck.draw(self.batch_size, randomness)

    def _draw_sweep(self, randomness: Randomness) -> Int[Tensor, "s"]:
        """Windows that cover the canvas: rows of them, each row cut in its own places."""
        rows = self._axes[0].draw(randomness)[0]
        columns = self._axes[1].draw(randomness, rows=len(rows))
        sweep = (rows[:, None] * len(self._axes[1].starts) + columns).flatten()
        return sweep[randomness.choice(len(sweep), len(sweep))]

    def draw_timestep(self, randomness: Randomness, low: int, high: int) -> int:
        """A timestep for each batch, or for each sweep."""
        return self._deck.draw_timestep(randomness, low, high)

    def read(self, index: Int[Tensor, "n"]) -> Particles:
        """These windows of the latent, the source and the condition."""

        def cut(whole: Float[Tensor, "k H W"]) -> Float[Tensor, "n k h w"]:
            windows = cut_windows(whole, self.positions[index], self.window)
            return windows.to(self.device, non_blocking=True)

        image_rows = {name: cut(whole) for name, whole in self.image_rows.items()}
        return Particles(cut(self.latent), cut(self.source), image_rows)

    def draw_noise(
        self, index: Int[Tensor, "n"], randomness: Randomness, *, shared: bool
    ) -> Float[Tensor, "n c h w"]:
        """One field of noise, of which overlapping windows see the same, or one for each."""
        channels = len(self.latent)
        if not shared:
            noise = randomness.normal((len(index), channels, *self.window))
            return noise.to(self.device, non_blocking=True)
        cells, place = self._cells(index)
        if self.drawing == "uniform":
            # The field is new at every batch, and needed where the windows lie only.
            noise = randomness.normal((channels, len(cells)))
        else:
            noise = self._deck.draw_noise(randomness, (channels, self.updates.numel()))[:, cells]
        return noise[:, place].transpose(0, 1).to(self.device, non_blocking=True)

    def descend(self, index: Int[Tensor, "n"], step: Float[Tensor, "n c h w"]) -> None:
        """Subtract a step; a cell under several windows takes their weighted mean."""
        cells, place = self._cells(index)
        weights = self._weights(index)
        count = torch.zeros(len(cells)).index_add_(0, place.flatten(), weights.flatten())
        evenness = self._evenness.flatten()[cells]
        self.updates.view(-1)[cells] += count.clamp(max=1) * evenness
        factor = evenness / count.clamp(min=1)
        if self.editable is not None:
            factor = factor * self.editable.flatten()[cells]
        at = self.latent.device
        cells, place, weights, factor = (
            t.to(at, non_blocking=True) for t in (cells, place, weights, factor)
        )
        faded = (step.to(at) * weights[:, None]).transpose(0, 1).flatten(1)
        total = faded.new_zeros(len(self.latent), len(cells))
        total.index_add_(1, place.flatten(), faded)
        self.latent.view(len(self.latent), -1).index_add_(1, cells, total * factor, alpha=-1)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to go on; the tensors are the canvas's own, not copies."""
        return {"latent": self.latent, "updates": self.updates, **self._deck.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state of a canvas of the same layout."""
        self.latent.copy_(state["latent"])
        self.updates.copy_(state["updates"])
        self._deck.restore(state)

    def _cells(self, index: Int[Tensor, "n"]) -> tuple[Int[Tensor, "cells"], Int[Tensor, "n h w"]]:
        """The cells that these windows cover, and which of them each window's are."""
        cells = window_cells(self.positions[index], self.window, self._canvas[1])
        return torch.unique(cells, return_inverse=True)

    def _weights(self, index: Int[Tensor, "n"]) -> Float[Tensor, "n h w"]:
        """How much of its step a window takes at each of its cells."""
        down, across = (self._fade(self.positions[index, axis], axis) for axis in range(2))
        return down[:, :, None] * across[:, None, :]

    def _fade(self, starts: Int[Tensor, "b"], axis: int) -> Float[Tensor, "b size"]:
        assert self.taper is not None
        return fade(
            starts,
            length=self._canvas[axis],
            window=self.window[axis],
            taper=self.taper,
            wrap=self.wrap and axis == 1,
        )
