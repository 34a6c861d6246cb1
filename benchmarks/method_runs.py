"""Runs nerfstudio methods in this process, through their configs."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.engine.identity import plain

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import Trainer, TrainerConfig

NEVER = 10**9
"""A number of steps that no run reaches, for periodic actions; runs still save at their end."""
_NOT_DECISIVE = (
    *("output_dir", "experiment_name", "timestamp", "project_name", "load_dir", "data", "prior"),
    *("logging", "viewer", "vis", "device_type", "relative_model_dir"),
)
"""Fields of configs that don't change a result. Data and weights are identified by digests."""


def method_config(method: str) -> Any:
    """A copy of a method's config, without viewer, profiler, output and periodic saving."""
    from nerfstudio.configs.method_configs import all_methods

    config: Any = copy.deepcopy(all_methods[method])
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.logging.profiler, config.steps_per_save = "none", NEVER
    return config


def place(config: TrainerConfig, folder: Path) -> None:
    """Make a run write all its files to a folder."""
    config.output_dir, config.experiment_name, config.timestamp = folder.parent, folder.name, "run"


def config_content(config: TrainerConfig) -> Any:
    """The part of a config that decides a run's result, beside data and weights of the prior."""
    return plain(config, leave_out=_NOT_DECISIVE)


@contextmanager
def quiet_trainer(config: TrainerConfig, log: Path) -> Iterator[Trainer]:
    """Yield a trainer that is set up; afterwards, restore this process's global state.

    nerfstudio's writers and profilers are global and accumulate, and it uses the global random
    generators. Its output goes to the log.

    Args:
        config: Configuration of the run. `machine.seed` seeds all randomness except the rounds'.
        log: File for the output, which is replaced.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(config.machine.seed)
    np.random.seed(config.machine.seed)
    torch.manual_seed(config.machine.seed)
    try:
        with (
            log.open("w") as file,
            redirect_stdout(file),
            redirect_stderr(file),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            trainer: Any = config.setup(local_rank=0, world_size=1)
            trainer.setup()
            yield trainer
    finally:
        _clear_writers()
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _clear_writers() -> None:
    from nerfstudio.utils import profiler, writer

    for one in writer.EVENT_WRITERS:
        if isinstance(one, writer.TensorboardWriter):
            one.tb_writer.close()
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    writer.GLOBAL_BUFFER.clear()
    profiler.PROFILER.clear()
