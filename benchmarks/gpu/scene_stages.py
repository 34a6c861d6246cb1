"""Stages that run scenes: rendering of splats, and whole edits from random weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Record
from benchmarks.method_runs import NEVER, method_config, place, quiet_trainer
from benchmarks.profile.clock import median_seconds
from benchmarks.profile.run import PROMPT
from csd_nerf.core.settings import EditSettings
from csd_nerf.synthetic.dataset import write_dataset
from csd_nerf.synthetic.options import SceneSettings


def splats(bench: Bench) -> Record:
    """Rendering of Gaussians with their gradients: gsplat's kernels against ours."""
    from csd_nerf.methods.csd_edit_splat.rasterization import rasterization

    edge, given = bench.sizes.splat_edge, _gaussians(bench)
    arms: dict[str, Callable[..., Any]] = {"ours": rasterization}
    if bench.device.type == "cuda":
        import gsplat

        arms["gsplat"] = gsplat.rasterization
    rows, pictures = [], []
    for name, render in arms.items():
        forward = partial(render, **given, width=edge, height=edge, packed=False)
        pictures.append(forward()[0].detach())
        seconds = median_seconds(
            lambda forward=forward: forward()[0].sum().backward(),
            bench.device,
            repetitions=bench.sizes.repetitions,
        )
        rows.append({"renderer": name, "ms, with gradients": 1e3 * seconds})
    difference = float((pictures[0] - pictures[-1]).abs().mean())
    return {"rows": rows, "mean_difference": difference, "facts": ["mean_difference"]}


def _gaussians(bench: Bench) -> dict[str, Any]:
    """Gaussians in front of one camera, with gradients."""
    count, edge = bench.sizes.gaussians, bench.sizes.splat_edge
    chance = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=chance).to(bench.device)

    lens = torch.tensor([[edge, 0, edge / 2], [0, edge, edge / 2], [0, 0, 1.0]])
    given = {
        "means": 2 * uniform(count, 3) - 1 + uniform(1).new_tensor([0.0, 0.0, 3.0]),
        "quats": uniform(count, 4) - 0.5,
        "scales": 0.005 + 0.01 * uniform(count, 3),
        "opacities": uniform(count),
        "colors": uniform(count, 3),
    }
    for tensor in given.values():
        tensor.requires_grad_()
    viewmats = torch.eye(4, device=bench.device)[None]
    return {**given, "viewmats": viewmats, "Ks": lens[None].to(bench.device)}


def scene_edit(bench: Bench, *, method: str) -> Record:
    """A short run of `ns-train` on a procedural scene, with a random prior, from end to end.

    Without LPIPS, whose network would have to be downloaded.
    """
    sizes = bench.sizes
    data = bench.folder / "scene"
    if not data.exists():
        write_dataset(data, SceneSettings(views=sizes.scene_views, size=sizes.scene_edge))
    config = _scene_config(bench, f"{method}-tiny" if bench.is_tiny else method)
    config.data = config.pipeline.datamanager.data = data
    place(config, bench.folder / method)
    with quiet_trainer(config, bench.folder / method / "log.txt") as trainer:
        pipeline: Any = trainer.pipeline
        pipeline.lend_prior(bench.edited())
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        state = pipeline.stage.state
    row = {
        "method": config.method_name,
        "training steps": sizes.source_steps + sizes.edit_steps,
        "rounds": state.rounds,
        "evaluations": state.evaluations,
        "seconds": seconds,
    }
    if bench.device.type == "cuda":
        row["peak MiB"] = torch.cuda.max_memory_allocated(bench.device) / 2**20
    return {"rows": [row]}


def _scene_config(bench: Bench, method: str) -> Any:
    sizes, config = bench.sizes, method_config(method)
    config.machine.device_type = bench.device.type
    config.steps_per_eval_batch = config.steps_per_eval_image = NEVER
    config.steps_per_eval_all_images = NEVER
    config.pipeline.model.lpips_weight = 0.0
    pipeline = config.pipeline
    # Its weights are at hand; the random prior is lent in its place.
    pipeline.prior, pipeline.prior_compile = "tiny", "off"
    pipeline.prompt = PROMPT
    pipeline.source_steps, pipeline.edit_steps = sizes.source_steps, sizes.edit_steps
    pipeline.edit_every, pipeline.edit_views = sizes.edit_steps // 2, sizes.edit_views
    pipeline.edit_size = sizes.sd15_edge
    pipeline.edit = EditSettings(iterations=sizes.edit_iterations, max_batch=sizes.max_batch)
    return config
