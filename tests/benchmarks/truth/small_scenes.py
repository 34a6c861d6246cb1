"""Scenes that train and are edited in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.truth.scene_runs import NERFACTO, tiny_config

VIEWS, SIZE = 16, 32
FEW = {"edit_steps": 6, "updates": 1, "edit_size": 32}
"""Options that make a run short."""


def shrunk(data: Path, *, prompt: str, method: str = NERFACTO) -> Any:
    """A tiny method with a scene model that is smaller still."""
    config: Any = tiny_config(data, prompt=prompt, method=method)
    if method != NERFACTO:
        return config
    model, manager = config.pipeline.model, config.pipeline.datamanager
    model.num_levels, model.log2_hashmap_size, model.max_res = 4, 8, 64
    model.hidden_dim = model.hidden_dim_color = 16
    model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = (8, 8), 8
    net = {"hidden_dim": 8, "log2_hashmap_size": 6, "num_levels": 2, "use_linear": False}
    model.proposal_net_args_list = [{**net, "max_res": 16}, {**net, "max_res": 32}]
    manager.train_num_rays_per_batch = manager.edit_num_rays_per_batch = 64
    return config
