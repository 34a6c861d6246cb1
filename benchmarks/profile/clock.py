"""Where the time of a run goes.

A run is the encoding of the images, the iterations, and the decoding. The clock cuts it into
sections without a gap, so that their shares sum to one:
    unet: calls of the prior's `predict`.
    vae: encoding of the images and decoding of the results.
    mixing: from the last estimate to the step: residuals, bandwidth, kernel and Stein direction.
    rest: everything else, such as text encoding, random numbers and the step itself.
On a GPU the cuts are events in the queue of work, which are read after the run, so that the clock
never makes the host wait; a run starts and ends with an idle GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.adapters.costs import CountedPrior, peak_memory
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.settings import EditSettings
from csd_nerf.priors.base import Branch, Prior
from csd_nerf.priors.estimates import encode_sources

SECTIONS: tuple[str, ...] = ("unet", "vae", "mixing", "rest")

Loop = Callable[[Prior, ImageStack, EditSettings], None]
"""Edits the stack in place."""


@dataclass(frozen=True)
class TimedEdit:
    """One run of one loop."""

    seconds: dict[str, float]
    """By section."""
    evaluations: int
    """Of the U-Net, counted where it is called."""
    peak_mib: float
    """GPU: most that tensors took. CPU: most that the process held, weights and all."""
    latent: Float[Tensor, "n c h w"]
    """The edited latents."""

    @property
    def loop_seconds(self) -> float:
        """Time of the iterations, without the VAE."""
        return sum(self.seconds.values()) - self.seconds["vae"]


@torch.no_grad()
def timed_run(
    loop: Loop, prior: Prior, image01: Float[Tensor, "n 3 H W"], settings: EditSettings
) -> TimedEdit:
    """Encode, edit and decode, with the time of each section.

    Images are encoded and decoded one at a time, so that what the VAE needs for a whole batch
    doesn't hide the peak memory of the loop.
    """
    _forget_peak(prior.device)
    clock = SectionClock(prior.device)
    clock.enter("vae")
    source, image_rows = encode_sources(prior, image01, max_batch=1)
    clock.enter("rest")
    stack = _ClockedStack(source.clone(), source, image_rows, clock=clock)
    clocked = _ClockedPrior(prior, clock)
    loop(cast(Prior, clocked), stack, settings)
    clock.enter("vae")
    for latent in stack.latent.split(1):
        prior.decode(latent)
    seconds = clock.stop()
    peak = peak_memory(prior.device)
    return TimedEdit(seconds, clocked.evaluations, peak.get("gpu", peak["process"]), stack.latent)


class SectionClock:
    """Time by section; each begins where the one before it ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, Any]] = []
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def enter(self, section: str) -> None:
        """End the section before and begin this one."""
        self._marks.append((section, self._now()))

    def stop(self) -> dict[str, float]:
        """Wait for the device; seconds by section, those that were never entered being zero."""
        end = self._now()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = dict.fromkeys(SECTIONS, 0.0)
        nexts = [*(stamp for _, stamp in self._marks[1:]), end]
        for (section, began), ended in zip(self._marks, nexts, strict=True):
            seconds[section] += self._between(began, ended)
        return seconds

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, began: Any, ended: Any) -> float:
        """Seconds; events count milliseconds."""
        if self._device.type != "cuda":
            return ended - began
        return began.elapsed_time(ended) / 1e3


class _ClockedPrior(CountedPrior):
    """Counts evaluations and tells the clock of them."""

    def __init__(self, prior: Prior, clock: SectionClock) -> None:
        super().__init__(prior)
        self._clock = clock

    def predict(
        self, branches: Sequence[Branch], timestep: Real[Tensor, "n"], **options: Any
    ) -> Float[Tensor, "k n c h w"]:
        """Noise estimates of the prior; what follows is taken for mixing."""
        self._clock.enter("unet")
        estimates = super().predict(branches, timestep, **options)
        self._clock.enter("mixing")
        return estimates


@dataclass
class _ClockedStack(ImageStack):
    """Tells the clock where mixing has ended."""

    clock: SectionClock = field(kw_only=True)

    def descend(self, index: Int[Tensor, "n"], step: Float[Tensor, "n c h w"]) -> None:
        """Subtract a step."""
        self.clock.enter("rest")
        super().descend(index, step)


def _forget_peak(device: torch.device) -> None:
    """Start to measure peaks anew.

    Linux alone lets a process do so for its own memory; elsewhere a peak is that of the process
    so far.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
