"""Measures how the time of a run is divided among its parts.

A run consists of the encoding of the images, the iterations, and the decoding. The clock divides it
into sections without gaps, so that their shares sum to one:
    unet: calls of the prior's `predict`.
    vae: encoding of the images and decoding of the results.
    mixing: everything between the estimates and the step: residuals, kernel and Stein direction.
    rest: everything else, such as text encoding, random numbers and the step itself.
On a GPU the sections are separated by CUDA events, which are read after the run. So the clock never
makes the host wait. A run starts and ends with an idle GPU. On a CPU, seconds of one thread are its
own, without those in which other programs had the core; of several threads they are the wall's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
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
"""Function that edits the stack in place."""


@dataclass(frozen=True)
class TimedEdit:
    """One run of one loop."""

    seconds: dict[str, float]
    """Seconds by section."""
    evaluations: int
    """Number of U-Net evaluations."""
    peak_mib: float
    """Peak memory in MiB: on a GPU that of all tensors, on a CPU that of the process."""
    latent: Float[Tensor, "n c h w"]
    """The edited latents."""

    @property
    def loop_seconds(self) -> float:
        """Seconds of the iterations, without the VAE."""
        return sum(self.seconds.values()) - self.seconds["vae"]


@torch.no_grad()
def timed_run(
    loop: Loop, prior: Prior, image01: Float[Tensor, "n 3 H W"], settings: EditSettings
) -> TimedEdit:
    """Encode, edit and decode, with the time of each section.

    Images are encoded and decoded one at a time, so that the peak memory is that of the loop and
    not of the VAE.
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
    """Measures the time of sections; each begins where the one before it ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, Any]] = []
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def enter(self, section: str) -> None:
        """End the current section and begin this one."""
        self._marks.append((section, self._now()))

    def stop(self) -> dict[str, float]:
        """End the last section and wait for the device; returns seconds for all `SECTIONS`."""
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
            return _cpu_seconds()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, began: Any, ended: Any) -> float:
        """Seconds between two marks."""
        if self._device.type != "cuda":
            return ended - began
        return began.elapsed_time(ended) / 1e3


def _cpu_seconds() -> float:
    return process_time() if torch.get_num_threads() == 1 else perf_counter()


def median_seconds(
    function: Callable[[], object], device: torch.device, *, repetitions: int
) -> float:
    """The median time of a function, without its first call, which chooses and loads kernels."""
    seconds = []
    for _ in range(repetitions + 1):
        clock = SectionClock(device)
        clock.enter("rest")
        function()
        seconds.append(clock.stop()["rest"])
    return median(seconds[1:])


class _ClockedPrior(CountedPrior):
    """Counts evaluations, and marks them on the clock."""

    def __init__(self, prior: Prior, clock: SectionClock) -> None:
        super().__init__(prior)
        self._clock = clock

    def predict(
        self, branches: Sequence[Branch], timestep: Real[Tensor, "n"], **options: Any
    ) -> Float[Tensor, "k n c h w"]:
        """As the prior does; the time after it counts as mixing."""
        self._clock.enter("unet")
        estimates = super().predict(branches, timestep, **options)
        self._clock.enter("mixing")
        return estimates


@dataclass
class _ClockedStack(ImageStack):
    """An image stack that marks the end of mixing on the clock."""

    clock: SectionClock = field(kw_only=True)

    def descend(self, index: Int[Tensor, "n"], step: Float[Tensor, "n c h w"]) -> None:
        """Subtract a step."""
        self.clock.enter("rest")
        super().descend(index, step)


def _forget_peak(device: torch.device) -> None:
    """Reset the peak memory.

    On a CPU this works on Linux only; elsewhere the peak is that since the process began.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
