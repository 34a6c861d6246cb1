"""What an edit costs and where its time goes, beside a naive loop: `python -m benchmarks profile`.

A run is the encoding of the images, the iterations, and the decoding. The clock cuts it into
sections without a gap, so that their shares sum to one:
    unet: calls of the prior's `predict`.
    vae: encoding of the images and decoding of the results.
    mixing: from the last estimate to the step: residuals, bandwidth, kernel and Stein direction.
    rest: everything else, such as text encoding, random numbers and the step itself.
On a GPU the cuts are events in the queue of work, which are read after the run, so that the clock
never makes the host wait; a run starts and ends with an idle GPU.

The two loops take turns, so that whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from benchmarks.profile.naive_loop import naive_edit, sliced_attention
from benchmarks.profile.random_weights import Shape, random_prior
from csd_nerf import priors
from csd_nerf.adapters.costs import CountedPrior, peak_memory
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import EditSettings
from csd_nerf.editor import edit
from csd_nerf.evaluation.plots import save_bars
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import check_writable, write_json, write_text
from csd_nerf.priors.base import Branch, Prior
from csd_nerf.priors.devices import find_device
from csd_nerf.priors.estimates import encode_sources
from csd_nerf.priors.instruct_pix2pix import InstructPix2Pix

PROMPT = "make it night"
SECTIONS: tuple[str, ...] = ("unet", "vae", "mixing", "rest")
OURS, NAIVE = "csd_nerf", "naive loop"

_COLUMNS = (
    Column("evaluations_per_particle", "evaluations a particle and iteration", digits=0),
    Column("iterations_per_second", "iterations/s", digits=2),
    Column("ms_per_evaluation", "ms an evaluation", digits=2),
    *(Column(f"{name}_share", f"{name} %", scale=100) for name in SECTIONS),
    Column("matmul_share", "% of the matrix-product rate", scale=100),
    Column("peak_mib", "peak MiB", digits=0),
)


@dataclass(frozen=True)
class ProfileSettings:
    """What is measured."""

    prior: str | None = None
    """Name or folder; None means the bundled `tiny`, unless `random_weights` says what."""
    random_weights: Shape | None = None
    """Shape of a model with random weights in the prior's place."""
    particles: tuple[int, ...] = (4, 16)
    size: int | None = None
    """Edge of the images in pixels; None means the prior's own."""
    iterations: int = 10
    """Of a run; few of them give the VAE a larger share than a whole edit has."""
    repetitions: int = 5
    """Runs of each loop, in turns."""
    dtype: str = "float32"
    device: str | None = None
    """None means a GPU if there is one; the CPU for the bundled prior."""
    channels_last: bool = False
    """Memory layout of our U-Net's weights; the naive loop keeps the usual one."""
    compile: bool = False
    """Whether our U-Net is compiled; the naive loop runs without."""
    max_batch: int | None = None
    """Most evaluations in one of our calls."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.prior is not None and self.random_weights is not None:
            raise ValueError(
                f"--random-weights {self.random_weights} takes the prior's place, got --prior "
                f"{self.prior} as well; give one of them."
            )
        if not self.particles or min(self.particles) < 1:
            raise ValueError(f"--particles must be at least 1 each, got {self.particles}.")
        for name in ("iterations", "repetitions", "max_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")


@dataclass(frozen=True)
class Run:
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


def run_profile(output: Path, settings: ProfileSettings) -> str:
    """Measure, and write the JSON file with a table (.md) and a plot (.png) beside it.

    Args:
        output: The JSON file.
        settings: What to measure.

    Returns:
        The table in markdown, and what it was measured on.

    Raises:
        ValueError: If the device isn't there, or the size doesn't fit the prior.
        WeightsNotFoundError: If the prior's weights can't be had.
    """
    check_writable(output)
    prior = _load(settings)
    size = _checked_size(prior, settings.size)
    flop = unet_flop(prior, size)
    rate = matmul_rate(prior.device, prior.unet.dtype)
    if settings.channels_last:
        _lay_out(prior.unet, torch.channels_last)
    if settings.compile:
        # A graph for each batch size: one for all sizes would be slower.
        prior.unet.compile(dynamic=False)
    batches = []
    for n in settings.particles:
        ours, naive = measure(prior, n, size, settings)
        batches.append(_batch(n, ours, naive, settings.iterations, flop, rate))
        print(_told(batches[-1]), file=sys.stderr, flush=True)
    record = {
        "settings": {**asdict(settings), "prior": prior.name, "size": size},
        "machine": machine(prior.device),
        "unet_tflop": flop / 1e12,
        "matmul_tflop_per_second": rate / 1e12,
        "batches": batches,
    }
    text = _report(record)
    write_json(output, record)
    write_text(output.with_suffix(".md"), text)
    _plot(output.with_suffix(".png"), batches)
    return text


def measure(
    prior: InstructPix2Pix, particles: int, size: int, settings: ProfileSettings
) -> tuple[list[Run], list[Run]]:
    """Run both loops in turns on the same random images, after one iteration each to warm up.

    Returns:
        Our runs and those of the naive loop.
    """
    image01 = torch.rand(particles, 3, size, size, generator=torch.Generator().manual_seed(0))
    image01 = image01.to(prior.device)
    arms: tuple[tuple[Loop, Callable[[], AbstractContextManager[None]]], ...] = (
        (_our_loop, nullcontext),
        (_naive_loop, lambda: _as_released(prior, channels_last=settings.channels_last)),
    )
    runs: tuple[list[Run], list[Run]] = ([], [])
    for repetition in range(settings.repetitions + 1):
        iterations = settings.iterations if repetition else 1
        options = EditSettings(
            iterations=iterations, noise="independent", max_batch=settings.max_batch
        )
        for (loop, surroundings), kept in zip(arms, runs, strict=True):
            with surroundings():
                run = timed_run(loop, prior, image01, options)
            if repetition:
                kept.append(run)
    return runs


Loop = Callable[[Prior, ImageStack, EditSettings], None]
"""Edits the stack in place."""


def _our_loop(prior: Prior, stack: ImageStack, settings: EditSettings) -> None:
    edit(prior, stack, prompts=[PROMPT], settings=settings, randomness=_randomness())


def _naive_loop(prior: Prior, stack: ImageStack, settings: EditSettings) -> None:
    naive_edit(prior, stack, prompt=PROMPT, settings=settings, randomness=_randomness())


def _randomness() -> SeededRandomness:
    return SeededRandomness(torch.Generator().manual_seed(0))


@torch.no_grad()
def timed_run(
    loop: Loop, prior: Prior, image01: Float[Tensor, "n 3 H W"], settings: EditSettings
) -> Run:
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
    return Run(seconds, clocked.evaluations, peak.get("gpu", peak["process"]), stack.latent)


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


@contextmanager
def _as_released(prior: InstructPix2Pix, *, channels_last: bool) -> Iterator[None]:
    """Within it the U-Net is neither compiled nor laid out anew, and its attention is sliced."""
    if channels_last:
        _lay_out(prior.unet, torch.contiguous_format)
    try:
        with torch.compiler.set_stance("force_eager"), sliced_attention(prior.unet):
            yield
    finally:
        if channels_last:
            _lay_out(prior.unet, torch.channels_last)


def _lay_out(unet: torch.nn.Module, memory_format: torch.memory_format) -> None:
    unet.to(memory_format=memory_format)


def unet_flop(prior: InstructPix2Pix, size: int) -> float:
    """Floating-point operations of one U-Net evaluation, counted by torch as it runs.

    Matrix products, convolutions and attention; a multiplication with its addition counts as two.
    """
    from torch.utils.flop_counter import FlopCounterMode

    edge = size // prior.cell_size
    noisy = torch.zeros(1, prior.latent_channels, edge, edge, device=prior.device)
    branch = Branch(noisy, prior.encode_text([""]))
    with FlopCounterMode(display=False) as counter:
        prior.predict([branch], torch.zeros(1, dtype=torch.long, device=prior.device))
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype, *, repetitions: int = 7) -> float:
    """Floating-point operations a second of a large square matrix product; the median's."""
    edge = 8192 if device.type == "cuda" else 1024
    a = torch.randn(edge, edge, device=device).to(dtype)
    b = torch.randn(edge, edge, device=device).to(dtype)
    seconds = []
    for repetition in range(repetitions + 1):
        clock = SectionClock(device)
        clock.enter("rest")
        torch.mm(a, b)
        elapsed = clock.stop()["rest"]
        # The first product picks and loads the kernel.
        if repetition:
            seconds.append(elapsed)
    return 2 * edge**3 / median(seconds)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures belong to."""
    described: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


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


def _load(settings: ProfileSettings) -> InstructPix2Pix:
    bundled = settings.random_weights is None and settings.prior in (None, "tiny")
    device = find_device(settings.device, bundled=bundled)
    precision = priors.DTYPES.get(settings.dtype)
    if precision is None:
        raise ValueError(
            f"--dtype needs one of {', '.join(priors.DTYPES)}, got {settings.dtype!r}."
        )
    if settings.random_weights:
        return random_prior(settings.random_weights, device=device, dtype=precision)
    # All that can be loaded so far is of this class.
    return cast(
        InstructPix2Pix, priors.load(settings.prior or "tiny", device=device, dtype=precision)
    )


def _checked_size(prior: InstructPix2Pix, size: int | None) -> int:
    if size is None:
        return prior.preferred_size
    if size < 1 or size % prior.size_multiple:
        raise ValueError(
            f"--size needs a multiple of {prior.size_multiple} for {prior.name}, got {size}."
        )
    return size


def _batch(
    particles: int,
    ours: Sequence[Run],
    naive: Sequence[Run],
    iterations: int,
    flop: float,
    rate: float,
) -> dict[str, Any]:
    """What is reported of a number of particles; times are medians over the runs."""
    pairs = [b.loop_seconds / a.loop_seconds for a, b in zip(ours, naive, strict=True)]
    medians = [median(run.loop_seconds for run in runs) for runs in (ours, naive)]
    return {
        "particles": particles,
        "ratio": medians[1] / medians[0],
        "ratio_range": [min(pairs), max(pairs)],
        "arms": [
            {
                "arm": f"{name}, {particles}",
                "particles": particles,
                **_arm(runs, particles, iterations, flop, rate),
            }
            for name, runs in ((OURS, ours), (NAIVE, naive))
        ],
    }


def _arm(runs: Sequence[Run], particles: int, iterations: int, flop: float, rate: float) -> Row:
    per_evaluation = median(run.seconds["unet"] / run.evaluations for run in runs)
    shares = {
        f"{name}_share": median(run.seconds[name] / sum(run.seconds.values()) for run in runs)
        for name in SECTIONS
    }
    return {
        "evaluations_per_particle": runs[0].evaluations / (particles * iterations),
        "iterations_per_second": iterations / median(run.loop_seconds for run in runs),
        "ms_per_evaluation": 1e3 * per_evaluation,
        **shares,
        "matmul_share": flop / per_evaluation / rate,
        "peak_mib": max(run.peak_mib for run in runs),
        "seconds": [run.seconds for run in runs],
    }


def _told(batch: dict[str, Any]) -> str:
    low, high = batch["ratio_range"]
    return (
        f"{batch['particles']} particles: {batch['ratio']:.2f} times as fast as the naive loop "
        f"({low:.2f} to {high:.2f} from pair to pair)."
    )


def _report(record: dict[str, Any]) -> str:
    """The table, the ratios and the machine, in markdown."""
    rows = [arm for batch in record["batches"] for arm in batch["arms"]]
    table = Table(rows, [row["arm"] for row in rows], _COLUMNS, count=None).markdown()
    settings, on = record["settings"], record["machine"]
    where = on.get("gpu", f"{on['cpu']}, {on['threads']} of {on['cores']} cores")
    options = "".join(f", {name}" for name in ("channels_last", "compile") if settings[name])
    return (
        f"{table}\n{chr(10).join(_told(batch) for batch in record['batches'])}\n\n"
        f"{settings['prior']} at {settings['size']} pixels, {settings['dtype']}{options}: "
        f"medians of {settings['repetitions']} runs, iterations a run: {settings['iterations']}. "
        f"An evaluation has {record['unet_tflop']:.3g} TFLOP; a large matrix product runs at "
        f"{record['matmul_tflop_per_second']:.3g} TFLOP/s. {where}, torch {on['torch']}."
    )


def _plot(path: Path, batches: Sequence[dict[str, Any]]) -> None:
    arms = [arm for batch in batches for arm in batch["arms"]]
    panels = [
        (head, [(arm[key], 0.0) for arm in arms])
        for key, head in (
            ("iterations_per_second", "iterations/s"),
            ("ms_per_evaluation", "ms a U-Net evaluation"),
            ("peak_mib", "peak memory, MiB"),
        )
    ]
    save_bars(path, [arm["arm"] for arm in arms], panels)
