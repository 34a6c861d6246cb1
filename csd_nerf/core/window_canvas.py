"""One large latent that is edited through overlapping windows.

Where the windows of a batch overlap, their steps are averaged (Section 3.3 of the paper). Two
things are added. First, a window's step fades in from its edges: the model pads with zeros, so its
errors are largest there, and without fading the windows' outlines become visible. Second, the
average is over all windows of a sweep, in whichever batches they come, so that a sweep is one
update of every cell, although some are covered by more windows than others. `taper=0` and
`drawing="uniform"` restore the paper's method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.canvas import Particles
from csd_nerf.core.copies import sent
from csd_nerf.core.randomness import Randomness
from csd_nerf.core.rows import PICTURE, Rows, without_picture
from csd_nerf.core.sweeps import AxisCover, Deck, Drawing, check_drawing, fade
from csd_nerf.core.windows import cut_windows, window_cells, window_means, window_positions


@dataclass
class WindowCanvas:
    """A `Canvas` of overlapping windows.

    Raises:
        ValueError: If the windows don't fit in the canvas, the stride leaves gaps, the taper is not
            from 0 to half a window, or the way of drawing is unknown.
    """

    latent: Float[Tensor, "c H W"]
    """Clean latent being edited; `descend` changes it in place. It may be on another device than
    the prior."""
    source: Float[Tensor, "c H W"]
    """Clean latent of the source."""
    image_rows: Rows
    """Conditions from the source image by name, each of shape (k, H, W). A window gets its crop."""
    window: tuple[int, int]
    """Height and width of a window in cells."""
    stride: int
    """Cells between neighbouring windows of the grid that windows are drawn from."""
    batch_size: int
    """Largest number of windows per iteration."""
    wrap: bool = False
    """Whether the left and right edges meet."""
    drawing: Drawing = "balanced"
    """balanced: sweep after sweep of windows that cover the canvas; a sweep has one timestep and,
    if noise is shared, one noise field. uniform: random windows in every batch, as in the paper."""
    taper: int | None = None
    """Cells over which a window's step fades in; None means the stride, but at most half the
    window's shorter edge."""
    editable: Float[Tensor, "H W"] | None = None
    """Factor of each cell's step, such as 0 for cells to keep; None means 1 everywhere. Windows
    whose factors are all 0 are left out of the sweeps."""
    device: torch.device | None = None
    """Device of the particles that `read` returns; None means the latent's."""
    positions: Int[Tensor, "m 2"] = field(init=False)
    """(row, column) of every window that may be drawn."""
    updates: Float[Tensor, "H W"] = field(init=False)
    """Number of updates of each cell. An update counts by its share of the average, so that a sweep
    adds 1 wherever cells may change; with uniform drawing an update near a window's edge may
    count less."""

    def __post_init__(self) -> None:
        """Lay out the windows."""
        check_drawing(self.drawing)
        size = self._canvas
        grid = window_positions(size, self.window, stride=self.stride, wrap=self.wrap)
        reached = torch.ones(len(grid), dtype=torch.bool)
        if self.editable is not None:
            reached = window_means((self.editable > 0).float()[None], grid, self.window)[:, 0] > 0
            reached = reached.cpu()
        self.positions, self._grid = grid[reached], grid
        # -1 for windows that are left out.
        self._numbers = torch.where(reached, reached.cumsum(0) - 1, -1)
        most = min(self.window) // 2
        self.taper = min(self.stride, most) if self.taper is None else self.taper
        if not 0 <= self.taper <= most:
            raise ValueError(f"taper needs 0 <= taper <= {most} cells, got {self.taper}.")
        self.updates = torch.zeros(size)
        self.device = self.latent.device if self.device is None else self.device
        self._axes = [
            AxisCover(grid[:, axis].unique(), c, w, self.taper, self.wrap and axis == 1)
            for axis, (c, w) in enumerate(zip(size, self.window, strict=True))
        ]
        self._windows_per_sweep = self._count_sweep()
        self._deck = Deck(self._draw_sweep)
        self._cover = torch.ones(size)

    @property
    def _canvas(self) -> tuple[int, int]:
        return (self.latent.shape[1], self.latent.shape[2])

    @property
    def size(self) -> int:
        """Number of windows that may be drawn."""
        return len(self.positions)

    @property
    def batches_per_sweep(self) -> int:
        """Iterations per sweep; 1 for uniform drawing."""
        if self.drawing == "uniform":
            return 1
        return -(-self._windows_per_sweep // self.batch_size)

    @property
    def windows_per_iteration(self) -> float:
        """Mean number of windows of a batch; with balanced drawing and `editable` the most."""
        if self.drawing == "uniform":
            return float(min(self.batch_size, self.size))
        return self._windows_per_sweep / self.batches_per_sweep

    def _count_sweep(self) -> int:
        """Number of windows of a sweep; the most that it may be if some are left out."""
        rows, columns = self._axes
        reached = (self._numbers >= 0).view(len(rows.starts), len(columns.starts)).sum(1)
        return max(1, int(reached.clamp(max=columns.count).topk(rows.count).values.sum()))

    def _moved(self, positions: Int[Tensor, "b 2"]) -> Float[Tensor, "b h w"]:
        """1 for each cell of these windows that may change, else 0."""
        if self.editable is None:
            return torch.ones(len(positions), *self.window)
        return cut_windows((self.editable > 0).float()[None], positions, self.window)[:, 0].cpu()

    @property
    def iterations_per_update(self) -> float:
        """See `Canvas.iterations_per_update`."""
        if self.drawing == "balanced":
            return float(self.batches_per_sweep)
        if self.size == 0:
            return 1.0
        weights = self._weights(self.positions) * self._moved(self.positions)
        moved = self.updates.numel() if self.editable is None else int((self.editable > 0).sum())
        return moved / (self.windows_per_iteration * float(weights.sum((1, 2)).mean()))

    def iterations_for(self, updates: int) -> int:
        """Iterations that update a cell `updates` times on average, in whole sweeps."""
        return math.ceil(updates * self.iterations_per_update)

    def draw_batch(self, randomness: Randomness) -> Int[Tensor, "n"]:
        """The next windows of the sweep, or random ones; at most `batch_size`."""
        if self.drawing == "uniform":
            return randomness.choice(self.size, min(self.batch_size, self.size))
        return self._deck.draw(self.batch_size, randomness, batches=self.batches_per_sweep)

    def _draw_sweep(self, randomness: Randomness) -> Int[Tensor, "s"]:
        """Windows that cover the canvas: in rows, each of which has columns of its own.

        Of these, those that are left out are dropped; their number differs from sweep to sweep.
        """
        rows = self._axes[0].draw(randomness)[0]
        columns = self._axes[1].draw(randomness, rows=len(rows))
        sweep = (rows[:, None] * len(self._axes[1].starts) + columns).flatten()
        self._cover = self._total_weight(self._grid[sweep])
        sweep = self._numbers[sweep]
        sweep = sweep[sweep >= 0]
        return sweep[randomness.choice(len(sweep), len(sweep))]

    def draw_timestep(self, randomness: Randomness, low: int, high: int) -> int:
        """A new timestep for every batch, or with balanced drawing for every sweep."""
        return self._deck.draw_timestep(randomness, low, high)

    def read(self, index: Int[Tensor, "n"]) -> Particles:
        """These windows of the latent, of the source and of the conditions."""
        shown = without_picture(self.image_rows)
        image_rows = {name: self._cut(whole, index) for name, whole in shown.items()}
        return Particles(self._cut(self.latent, index), self._cut(self.source, index), image_rows)

    def pictures(self, index: Int[Tensor, "n"]) -> Rows:
        """See `Canvas.pictures`."""
        if PICTURE not in self.image_rows:
            return {}
        return {PICTURE: self._cut(self.image_rows[PICTURE], index)}

    def _cut(
        self, whole: Float[Tensor, "k H W"], index: Int[Tensor, "n"]
    ) -> Float[Tensor, "n k h w"]:
        windows = cut_windows(whole, self.positions[index], self.window)
        assert self.device is not None
        return sent(windows, self.device)

    def draw_noise(
        self, index: Int[Tensor, "n"], randomness: Randomness, *, shared: bool, whole: bool = False
    ) -> Float[Tensor, "n c h w"]:
        """Crops of one noise field, so that overlapping windows agree, or independent noise."""
        assert self.device is not None
        channels = len(self.latent)
        if not shared:
            noise = randomness.normal((len(index), channels, *self.window))
            return sent(noise, self.device)
        cells, place = self._cells(index)
        if self.drawing == "uniform" and not whole:
            # The field is new for every batch, so only the cells under the windows need noise.
            noise = randomness.normal((channels, len(cells)))
        else:
            noise = self._deck.draw_noise(randomness, (channels, self.updates.numel()))[:, cells]
        return sent(noise[:, place].transpose(0, 1), self.device)

    def descend(self, index: Int[Tensor, "n"], step: Float[Tensor, "n c h w"]) -> None:
        """Subtract the windows' steps, averaged where windows overlap.

        With the fade weights w of the windows over a cell, the cell moves by sum(w step) / W, times
        `editable`. W is the sum of w over the whole sweep; with uniform drawing over the batch, but
        at least 1.
        """
        cells, place = self._cells(index)
        positions = self.positions[index]
        weights, total = self._weights(positions), self._total_weight(positions)
        whole = total.clamp(min=1) if self.drawing == "uniform" else self._cover
        self.updates += total / whole
        factor = 1 / whole.flatten()[cells]
        if self.editable is not None:
            factor = factor * self.editable.flatten()[cells]
        at = self.latent.device
        cells, place, weights, factor = (sent(t, at) for t in (cells, place, weights, factor))
        faded = (step.to(at) * weights[:, None]).transpose(0, 1).flatten(1)
        move = faded.new_zeros(len(self.latent), len(cells))
        move.index_add_(1, place.flatten(), faded)
        self.latent.view(len(self.latent), -1).index_add_(1, cells, move * factor, alpha=-1)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to resume; the tensors are the canvas's own, not copies."""
        own = {"latent": self.latent, "updates": self.updates, "cover": self._cover}
        return {**own, **self._deck.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from the state of a canvas of the same layout."""
        self.latent.copy_(state["latent"])
        self.updates.copy_(state["updates"])
        self._cover = state["cover"].clone()
        self._deck.restore(state)

    def _cells(self, index: Int[Tensor, "n"]) -> tuple[Int[Tensor, "cells"], Int[Tensor, "n h w"]]:
        """The cells under these windows, and the place of each window's cells among them."""
        cells = window_cells(self.positions[index], self.window, self._canvas[1])
        return torch.unique(cells, return_inverse=True)

    def _weights(self, positions: Int[Tensor, "n 2"]) -> Float[Tensor, "n h w"]:
        """The fade weight of each window at each of its cells."""
        down, across = (self._fade(positions[:, axis], axis) for axis in range(2))
        return down[:, :, None] * across[:, None, :]

    def _total_weight(self, positions: Int[Tensor, "n 2"]) -> Float[Tensor, "H W"]:
        """The sum of these windows' weights at each cell of the canvas."""
        cells = window_cells(positions, self.window, self._canvas[1])
        total = torch.zeros(self.updates.numel())
        total.index_add_(0, cells.flatten(), self._weights(positions).flatten())
        return total.view(self._canvas)

    def _fade(self, starts: Int[Tensor, "b"], axis: int) -> Float[Tensor, "b size"]:
        assert self.taper is not None
        return fade(
            starts,
            length=self._canvas[axis],
            window=self.window[axis],
            taper=self.taper,
            wrap=self.wrap and axis == 1,
        )
