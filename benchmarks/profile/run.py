"""Runs `python -m benchmarks profile`: the cost of an edit, compared with a naive loop.

The two loops run in turns, so that other load on the machine affects both alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from benchmarks.profile.clock import SECTIONS, Loop, TimedEdit, timed_run
from benchmarks.profile.hardware import machine, matmul_rate, unet_flop
from benchmarks.profile.naive_loop import as_released, lay_out, naive_edit
from benchmarks.profile.random_weights import random_prior
from benchmarks.profile.settings import ProfileSettings
from csd_nerf import priors
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import EditSettings
from csd_nerf.editor import edit
from csd_nerf.evaluation.plots import save_bars
from csd_nerf.evaluation.tables import Column, Row, Table
from csd_nerf.media.files import check_writable, write_json, write_text
from csd_nerf.priors.base import Prior
from csd_nerf.priors.devices import find_device
from csd_nerf.priors.instruct_pix2pix import InstructPix2Pix

PROMPT = "make it night"
OURS, NAIVE = "csd_nerf", "naive loop"

_COLUMNS = (
    Column("evaluations_per_particle", "evaluations a particle and iteration", digits=0),
    Column("iterations_per_second", "iterations/s", digits=2),
    Column("ms_per_evaluation", "ms an evaluation", digits=2),
    *(Column(f"{name}_share", f"{name} %", scale=100) for name in SECTIONS),
    Column("matmul_share", "% of the matrix-product rate", scale=100),
    Column("peak_mib", "peak MiB", digits=0),
)


def run_profile(settings: ProfileSettings) -> str:
    """Measure, and write a JSON file with a table (.md) and a plot (.png) beside it.

    Args:
        settings: The settings.

    Returns:
        The table and a description of the machine, in markdown.

    Raises:
        ValueError: If there is no such device, or the size doesn't fit the prior.
        WeightsNotFoundError: If the prior's weights are not there and can't be downloaded.
    """
    output = settings.output
    check_writable(output)
    prior = _load(settings)
    size = _checked_size(prior, settings.size)
    flop = unet_flop(prior, size)
    rate = matmul_rate(prior.device, prior.unet.dtype)
    if settings.channels_last:
        lay_out(prior.unet, torch.channels_last)
    if settings.compile:
        # One graph per batch size; a dynamic graph for all sizes would be slower.
        prior.unet.compile(dynamic=False)
    batches = []
    for n in settings.particles:
        ours, naive = measure(prior, n, size, settings)
        batches.append(_batch(n, ours, naive, settings.iterations, flop, rate))
        print(_speed_line(batches[-1]), file=sys.stderr, flush=True)
    record = {
        "settings": {**asdict(settings), "output": str(output), "prior": prior.name, "size": size},
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
) -> tuple[list[TimedEdit], list[TimedEdit]]:
    """Run both loops in turns on the same random images, after a warm-up of one iteration each.

    Returns:
        The runs of the editor's loop, and those of the naive loop.
    """
    image01 = torch.rand(particles, 3, size, size, generator=torch.Generator().manual_seed(0))
    image01 = image01.to(prior.device)
    arms: tuple[tuple[Loop, Callable[[], AbstractContextManager[None]]], ...] = (
        (our_loop, nullcontext),
        (naive_loop, lambda: as_released(prior.unet, channels_last=settings.channels_last)),
    )
    runs: tuple[list[TimedEdit], list[TimedEdit]] = ([], [])
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


def our_loop(prior: Prior, stack: ImageStack, settings: EditSettings) -> None:
    """The editor's loop."""
    edit(prior, stack, prompts=[PROMPT], settings=settings, randomness=_randomness())


def naive_loop(prior: Prior, stack: ImageStack, settings: EditSettings) -> None:
    """The naive loop."""
    naive_edit(prior, stack, prompt=PROMPT, settings=settings, randomness=_randomness())


def _randomness() -> SeededRandomness:
    return SeededRandomness(torch.Generator().manual_seed(0))


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
    # All priors of the kind `edit` are of this class so far.
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
    ours: Sequence[TimedEdit],
    naive: Sequence[TimedEdit],
    iterations: int,
    flop: float,
    rate: float,
) -> dict[str, Any]:
    """The results for a number of particles; times are medians over the runs."""
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


def _arm(
    runs: Sequence[TimedEdit], particles: int, iterations: int, flop: float, rate: float
) -> Row:
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


def _speed_line(batch: dict[str, Any]) -> str:
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
        f"{table}\n{chr(10).join(_speed_line(batch) for batch in record['batches'])}\n\n"
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
