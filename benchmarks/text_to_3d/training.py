"""Runs of a text-to-3D method inside this process, through its nerfstudio config."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.method_runs import method_config, quiet_trainer
from benchmarks.text_to_3d.object_truth import VIEW_SETTINGS
from benchmarks.text_to_3d.views import RunViews

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig

LOG = "log.txt"
"""What a run printed, in its folder."""


class RunFailedError(Exception):
    """A run came to nothing, as some do: its object vanished, say. The message is the reason."""


def object_config(
    method: str, *, prompt: str, arm: str, seed: int, steps: int, prior: str, device: str
) -> Any:
    """The config of one run.

    Equal seeds give all arms equal initial objects, cameras, timesteps and noise.

    Args:
        method: Of ns-train.
        prompt: What to make.
        arm: The distillation.
        seed: Of everything random.
        steps: Training steps; warm-up, decay and the unshaded beginning keep their shares.
        prior: Name or folder.
        device: cpu or cuda.
    """
    config = method_config(method)
    pipeline = config.pipeline
    pipeline.prompt, pipeline.distillation, pipeline.prior = prompt, arm, prior
    pipeline.seed = config.machine.seed = seed
    config.machine.device_type = device
    if device == "cpu":
        # Half precision is for GPUs.
        pipeline.prior_dtype, config.mixed_precision = "float32", False
    _set_steps(config, steps)
    return config


def _set_steps(config: Any, steps: int) -> None:
    """Set a run's length, with the phases in their shares of it."""
    share = steps / config.max_num_iterations
    for phase in ("albedo_steps", "entropy_warmup"):
        setattr(config.pipeline, phase, round(share * getattr(config.pipeline, phase)))
    for parts in config.optimizers.values():
        scheduler = parts["scheduler"]
        scheduler.max_steps = max(round(share * scheduler.max_steps), 1)
        scheduler.warmup_steps = max(round(share * scheduler.warmup_steps), 1)
    config.max_num_iterations = steps


def train_and_render(
    config: TrainerConfig, folder: Path, *, on_step: Callable[[], object]
) -> RunViews:
    """Train an object, and render it from all sides.

    Args:
        config: Of the run.
        folder: For the log.
        on_step: Called after every step.

    Raises:
        RunFailedError: If training failed: the object collapsed, or values weren't finite.
        ValueError: If the run can't begin.
    """
    try:
        with quiet_trainer(config, folder / LOG) as trainer:
            _call_after_steps(trainer, on_step)
            _train(trainer)
            views = _render(trainer)
    except SystemExit as error:
        raise ValueError(_reason(error)) from None
    finally:
        # Trainers refer to themselves, and the prior in one may fill a GPU.
        gc.collect()
    return views


def _call_after_steps(trainer: Any, on_step: Callable[[], object]) -> None:
    from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation

    def called(step: int) -> None:
        del step
        on_step()

    after = [TrainingCallbackLocation.AFTER_TRAIN_ITERATION]
    trainer.callbacks.append(
        TrainingCallback(where_to_run=after, update_every_num_iters=1, func=called)
    )


def _train(trainer: Any) -> None:
    """Train; tell a run that failed from a mistake, which would meet every run."""
    try:
        trainer.train()
    except FloatingPointError as error:
        raise RunFailedError(_reason(error)) from None
    except SystemExit as error:
        if isinstance(error.__context__, ValueError | OSError):
            raise
        raise RunFailedError(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """The method's own line, without the command's name before it."""
    return " ".join(str(error).split()).removeprefix("csd-dreamfusion: ")


def _render(trainer: Any) -> RunViews:
    model = trainer.pipeline.model
    # The method's own renderer lies beside its model; methods are known by their configs alone.
    package = type(model).__module__.rpartition(".")[0]
    report = importlib.import_module(f"{package}.report")
    views = report.render_around(model, size=trainer.config.result_size, **VIEW_SETTINGS)
    return RunViews(views.colour01, views.lit01, views.depth01, views.coverage)
