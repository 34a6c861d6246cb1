"""Stages that measure priors: evaluations, whole iterations, the autoencoder, and memory."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Record
from benchmarks.gpu.sizes import Mode
from benchmarks.profile.clock import TimedEdit, median_seconds, timed_run
from benchmarks.profile.naive_loop import as_released
from benchmarks.profile.run import PROMPT, naive_loop, our_loop
from csd_nerf.core.residuals import EDIT_RESIDUALS
from csd_nerf.core.settings import EditSettings
from csd_nerf.editor import edit_images
from csd_nerf.priors.base import Branch
from csd_nerf.priors.costs import LiveBytes
from csd_nerf.priors.predictions import OVERHEAD_BYTES, Edit, peak_bytes
from csd_nerf.priors.prior_costs import prior_costs

LEAST_BATCH = 16
"""Evaluations in a call from which on the goal of an evaluation holds."""


def evaluation_sd15(bench: Bench) -> Record:
    """Milliseconds an evaluation of a U-Net of Stable Diffusion 1.5's size."""
    sizes = bench.sizes
    rows = _evaluations(bench, "sd15", edge=sizes.sd15_edge, calls=sizes.sd15_calls)
    usual = "on" if sizes.compile else "eager"
    large = [row for row in rows if row["calls of"] >= LEAST_BATCH and row["denoiser"] == usual]
    return {"rows": rows, "goals": {"evaluation": max(row["ms an evaluation"] for row in large)}}


def evaluation_klein(bench: Bench) -> Record:
    """Milliseconds an evaluation of FLUX.2 [klein]'s size, with the source as reference."""
    sizes = bench.sizes
    rows = _evaluations(bench, "klein", edge=sizes.klein_edge, calls=sizes.klein_calls)
    bench.keep_only("sd15")
    return {"rows": rows}


def _evaluations(
    bench: Bench, model: str, *, edge: int, calls: tuple[tuple[Mode, int], ...]
) -> list[dict[str, Any]]:
    rows = []
    for mode, batch in calls:
        # Compiled anew, since it would pad smaller batches to a larger one before.
        prior = bench.called(model, mode)
        seconds = _evaluation_seconds(bench, prior, edge=edge, batch=batch)
        row = {"denoiser": mode, "calls of": batch, "ms an evaluation": 1e3 * seconds / batch}
        rows.append(row)
    return rows


def _evaluation_seconds(bench: Bench, prior: Any, *, edge: int, batch: int) -> float:
    cells = edge // prior.cell_size
    noisy = torch.randn(batch, prior.latent_channels, cells, cells).to(bench.device)
    # Of every family that is measured, the source is a latent.
    source = dict.fromkeys(prior.source_rows, noisy)
    branch = Branch(noisy, {**prior.encode_text([PROMPT]), **source})
    timestep = torch.full((batch,), 400, device=bench.device)
    ask = partial(prior.predict, [branch], timestep)
    return median_seconds(ask, bench.device, repetitions=bench.sizes.repetitions)


def iteration(bench: Bench) -> Record:
    """The whole iteration against the naive loop, in turns."""
    rows = []
    for particles in bench.sizes.particles:
        ours, naive = _in_turns(bench, particles)
        each = [median(run.loop_seconds for run in runs) for runs in (ours, naive)]
        pairs = [b.loop_seconds / a.loop_seconds for a, b in zip(ours, naive, strict=True)]
        iterations = bench.sizes.iterations
        rows.append(
            {
                "particles": particles,
                "ms an iteration": 1e3 * each[0] / iterations,
                "ms, naive loop": 1e3 * each[1] / iterations,
                "times as fast": each[1] / each[0],
                "from": min(pairs),
                "to": max(pairs),
                "peak MiB": max(run.peak_mib for run in ours),
                "peak MiB, naive loop": max(run.peak_mib for run in naive),
            }
        )
    return {"rows": rows, "goals": {"iteration": min(row["times as fast"] for row in rows)}}


def _in_turns(bench: Bench, particles: int) -> tuple[list[TimedEdit], list[TimedEdit]]:
    """Runs of both loops on the same pictures, after a warm-up of one iteration each."""
    sizes = bench.sizes
    # Compiled anew for each number of particles; see `_evaluations`.
    ours, plain = bench.edited(), bench.model("sd15")
    image01 = _pictures(bench, particles, sizes.sd15_edge)
    runs: tuple[list[TimedEdit], list[TimedEdit]] = ([], [])
    for repetition in range(sizes.repetitions + 1):
        iterations = sizes.iterations if repetition else 1
        settings = EditSettings(
            iterations=iterations, noise="independent", max_batch=sizes.max_batch
        )
        found = timed_run(our_loop, ours, image01, settings)
        last = sizes.compile and bench.device.type == "cuda"
        with as_released(plain.unet, channels_last=last):
            other = timed_run(naive_loop, plain, image01, settings)
        if repetition:
            runs[0].append(found)
            runs[1].append(other)
    return runs


def vae(bench: Bench) -> Record:
    """Milliseconds a picture of the autoencoder."""
    prior, sizes = bench.model("sd15"), bench.sizes
    image01 = _pictures(bench, sizes.images, sizes.sd15_edge)
    latent = prior.encode(image01)
    rows = []
    for name, function in (("encode", prior.encode), ("decode", prior.decode)):
        ask = partial(function, image01 if name == "encode" else latent)
        seconds = median_seconds(ask, bench.device, repetitions=sizes.repetitions)
        rows.append({"autoencoder": name, "ms a picture": 1e3 * seconds / sizes.images})
    return {"rows": rows}


def memory_sd15(bench: Bench) -> Record:
    """Peak memory of an edit against what `csd-nerf doctor` predicts."""
    return _memory(bench, "sd15", views=max(bench.sizes.particles), edge=bench.sizes.sd15_edge)


def memory_klein(bench: Bench) -> Record:
    """The same for FLUX.2 [klein]."""
    found = _memory(bench, "klein", views=bench.sizes.klein_views, edge=bench.sizes.klein_edge)
    bench.keep_only(None)
    return found


def _memory(bench: Bench, model: str, *, views: int, edge: int) -> Record:
    most = bench.sizes.max_batch
    settings = EditSettings(iterations=1, max_batch=most)
    scales = {"image_scale": settings.image_scale, "text_scale": settings.text_scale}
    terms = EDIT_RESIDUALS[settings.residual](**scales, source_share=settings.source_share)
    costs = prior_costs(bench.name(model), bench.dtype(model))
    predicted = peak_bytes(costs, Edit(views, terms, (edge, edge)), max_batch=most)
    predicted -= OVERHEAD_BYTES
    measured = _peak_bytes(bench, model, _pictures(bench, views, edge), settings)
    row = {
        "model": model,
        "views": views,
        "evaluations a call": most,
        "predicted, GB": predicted / 1e9,
        "measured, GB": measured / 1e9,
        "deviation, %": 100 * (predicted / measured - 1),
    }
    return {"rows": [row], "goals": {f"memory-{model}": abs(row["deviation, %"])}}


def _peak_bytes(bench: Bench, model: str, image01: torch.Tensor, settings: EditSettings) -> int:
    """Most bytes of tensors at one time, from making the weights to decoding the result."""
    bench.keep_only(None)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    prior = bench.model(model)
    run = partial(
        edit_images, prior, image01, prompt=PROMPT, settings=settings, generator=torch.Generator()
    )
    if bench.device.type == "cuda":
        run()
        return torch.cuda.max_memory_allocated(bench.device)
    networks = [one for one in vars(prior).values() if isinstance(one, torch.nn.Module)]
    weights = [one for network in networks for one in network.state_dict().values()]
    with LiveBytes(weights) as live:
        run()
    costs = prior_costs(prior.name, prior.dtype)
    return live.peak + sum(part.kept_bytes for part in costs.parts.values())


def _pictures(bench: Bench, count: int, edge: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, edge, edge, generator=chance).to(bench.device)
