"""A small real data set, and runs of a few steps on it."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from csd_nerf.core.settings import EditSettings
from csd_nerf.methods.csd_edit.config import csd_edit_tiny
from csd_nerf.methods.csd_edit.trainer import CSDEditTrainerConfig

VIEWS = 12
SIZE = 48


def write_dataset(
    folder: Path,
    *,
    sizes: Sequence[tuple[int, int]] = ((SIZE, SIZE),) * VIEWS,
    masks: bool = False,
) -> Path:
    """Write photographs, taken from a ring, of a far backdrop coloured by direction."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for view, (height, width) in enumerate(sizes):
        angle = 2 * math.pi * view / len(sizes)
        pose = np.eye(4)
        pose[:3, :3] = [
            [math.cos(angle), 0, math.sin(angle)],
            [0, 1, 0],
            [-math.sin(angle), 0, math.cos(angle)],
        ]
        pose[:3, 3] = pose[:3, 2]
        y, x = np.mgrid[:height, :width] + 0.5
        rays = np.stack([(x - width / 2) / SIZE, (height / 2 - y) / SIZE, -np.ones_like(x)], -1)
        world = rays @ pose[:3, :3].T
        world /= np.linalg.norm(world, axis=-1, keepdims=True)
        rgb = np.stack([0.75 + 0.2 * world[..., 0], 0.5 + 0.2 * world[..., 1], 0.2 + 0 * y], -1)
        name = f"images/frame_{view:05d}.png"
        Image.fromarray((rgb * 255).astype(np.uint8)).save(folder / name)
        frame = {"file_path": name, "transform_matrix": pose.tolist()}
        frame |= {"fl_x": SIZE, "fl_y": SIZE, "cx": width / 2, "cy": height / 2}
        frame |= {"w": width, "h": height}
        if masks:
            mask = np.zeros((height, width), np.uint8)
            mask[8:32, 10:40] = 255
            frame["mask_path"] = f"images/mask_{view:05d}.png"
            Image.fromarray(mask).save(folder / frame["mask_path"])
        frames.append(frame)
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return folder


def small_config(data: Path, output: Path) -> CSDEditTrainerConfig:
    """csd-edit-tiny, smaller still: a run takes a second."""
    config = copy.deepcopy(csd_edit_tiny.config)
    assert isinstance(config, CSDEditTrainerConfig)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir = output
    config.timestamp = "run"
    config.steps_per_save = config.steps_per_eval_batch = config.steps_per_eval_image = 10**9
    config.logging.profiler = "none"
    shrink_model(config.pipeline.model)
    pipeline = config.pipeline
    pipeline.prompt = "swap red and blue"
    pipeline.source_steps, pipeline.edit_steps, pipeline.edit_every = 4, 8, 3
    pipeline.edit_views = 4
    pipeline.edit = EditSettings(iterations=2, text_scale=1.0)
    pipeline.datamanager.train_num_rays_per_batch = 64
    pipeline.datamanager.edit_num_rays_per_batch = 64
    return config


def shrink_model(model) -> None:
    model.num_levels, model.log2_hashmap_size, model.max_res = 4, 8, 64
    model.hidden_dim = model.hidden_dim_color = 16
    model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = (8, 8), 8
    net = {"hidden_dim": 8, "log2_hashmap_size": 6, "num_levels": 2, "use_linear": False}
    model.proposal_net_args_list = [{**net, "max_res": 16}, {**net, "max_res": 32}]


def start(config, *, seed: int = 0):
    """What ns-train does with a config, up to the first training step."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def message_of(config) -> str:
    """The one line with which a mistake ends a run before its first step."""
    with pytest.raises(SystemExit) as stopped:
        start(config)
    message = str(stopped.value)
    assert message.startswith("csd-edit: ")
    assert "\n" not in message
    return message


def checkpoint_of(trainer) -> dict:
    """The only checkpoint of a run."""
    (path,) = trainer.checkpoint_dir.iterdir()
    state = torch.load(path, weights_only=True)
    # The type checker of these tests draws from Python's generator itself.
    ours = state["pipeline"]["_extra_state"]
    del ours["random"]["python"]
    for past in ours["stage"]["history"]:
        del past["seconds"]
    return state


def differences(first, second, path="") -> list[str]:
    """Paths at which two nested states are not equal to the last bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return [d for k in first for d in differences(first[k], second[k], f"{path}/{k}")]
    if isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}/{i}")]
    return [] if first == second else [path]
