"""nerfstudio's trainer, with pictures of the objects during training and at its end."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackLocation,
)
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from csd_nerf.bundled import notices_of_unknown
from csd_nerf.methods.common.adoption import Adopted, Sides, preset_of, read_run_config
from csd_nerf.methods.common.checkpoints import (
    find_checkpoint,
    load_optimizers,
    read_checkpoint,
    save_whole,
    telling_of_faults,
)
from csd_nerf.methods.common.checks import asked_prompt, check_devices, check_folder, check_run
from csd_nerf.methods.common.errors import MethodError, one_line_errors
from csd_nerf.methods.common.finite_training import FiniteTraining
from csd_nerf.methods.common.interruption import Interruption
from csd_nerf.methods.csd_dreamfusion.pipeline import (
    CSDDreamFusionPipeline,
    CSDDreamFusionPipelineConfig,
)
from csd_nerf.methods.csd_dreamfusion.report import save_preview, save_result

RESULT_FOLDER = "result"
"""Folder of a run with turntables and contact sheets."""
_OF_CHECKPOINT = ("model", "num_particles")
"""Options of the pipeline that a checkpoint fits; a run that goes on with it takes them over."""
_TAKEN_OVER = (
    *("pipeline", "optimizers", "max_num_iterations"),
    *("steps_per_preview", "preview_size", "result_size"),
)
"""Options that are taken over if they were given to the loaded run."""


@dataclass
class CSDDreamFusionTrainerConfig(TrainerConfig):
    """nerfstudio's options of a run."""

    _target: type = field(default_factory=lambda: CSDDreamFusionTrainer)
    steps_per_preview: int = 500
    """Training steps between two preview pictures."""
    preview_size: int = 64
    """Edge in pixels of the views in previews."""
    result_size: int = 256
    """Edge in pixels of the views in turntables and contact sheets."""

    def save_config(self) -> None:
        """Write config.yml. Several devices, which can't work, and a full disk end in one line.

        nerfstudio calls this before it starts a process for each device.
        """
        with one_line_errors("csd-dreamfusion"):
            check_devices(
                self.machine.num_devices * self.machine.num_machines, method="csd-dreamfusion"
            )
            check_folder(self)
            super().save_config()

    def set_experiment_name(self) -> None:
        """Name a run by its prompt, since there is no data set to name it by.

        Names of different prompts differ: where the words don't tell all, a hash follows them.
        """
        if self.experiment_name is None:
            prompt = asked_prompt(self)
            words = "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:60]
            if words.replace("-", " ") != prompt:
                words = f"{words or 'unnamed'}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"
            self.experiment_name = words if prompt.strip() else "unnamed"


class CSDDreamFusionTrainer(Trainer):
    """Trains objects; a user's mistake, or a collapsed object, ends the process with one line."""

    pipeline: CSDDreamFusionPipeline
    config: CSDDreamFusionTrainerConfig

    def __init__(
        self, config: CSDDreamFusionTrainerConfig, local_rank: int = 0, world_size: int = 1
    ) -> None:
        with one_line_errors("csd-dreamfusion"):
            self._checkpoint = find_checkpoint(
                load_dir=config.load_dir,
                load_step=config.load_step,
                load_checkpoint=config.load_checkpoint,
            )
            self._take_over_settings(config)
            _check(config, world_size)
        # ns-train saved the config before this change; other commands read the file.
        config.save_config()
        super().__init__(config, local_rank, world_size)
        self._finite = FiniteTraining()
        pipeline = _pipeline_config(config)
        prompts = (pipeline.prompt, pipeline.negative_prompt)
        self._notices = [
            *self._adopted.notices(),
            *notices_of_unknown(pipeline.prior, prompts),
        ]
        self._interruption = Interruption(
            "csd-dreamfusion", self.save_checkpoint, finish=self._finish
        )

    def _take_over_settings(self, config: CSDDreamFusionTrainerConfig) -> None:
        """Complete the config from nerfstudio's --prompt and from the loaded run."""
        pipeline = _pipeline_config(config)
        pipeline.prompt = asked_prompt(config)
        self._adopted = Adopted()
        run = read_run_config(self._checkpoint) if self._checkpoint else None
        if run is None:
            return
        if not isinstance(run.pipeline, CSDDreamFusionPipelineConfig):
            raise MethodError(
                f"csd-dreamfusion goes on from its own runs, got one of {run.method_name}."
            )
        usual, their_usual = preset_of(config.method_name), preset_of(run.method_name)
        sides = Sides(config, run, usual or config, their_usual or run)
        self._adopted.take(sides.at("pipeline"), _OF_CHECKPOINT, "pipeline")
        self._adopted.take_given(sides, _TAKEN_OVER, "")
        pipeline = _pipeline_config(config)
        pipeline.prompt = pipeline.prompt or run.pipeline.prompt

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Set everything up; a user's mistake ends in one line."""
        with one_line_errors("csd-dreamfusion"):
            super().setup(test_mode)
        for notice in self._notices:
            CONSOLE.print(f"csd-dreamfusion: {notice}.")
        preview = TrainingCallback(
            where_to_run=[TrainingCallbackLocation.AFTER_TRAIN_ITERATION],
            update_every_num_iters=self.config.steps_per_preview,
            func=self._preview,
        )
        self.callbacks += [preview, self._interruption.callback()]
        # For the printed time left, which nerfstudio would compute as for a new run.
        writer.GLOBAL_BUFFER["max_iter"] = self._start_step + self.config.max_num_iterations

    def train(self) -> None:
        """Train; a failure ends in one line, after pictures of the objects are saved.

        Ctrl-C and SIGTERM end the run after its present step, saved; see `Interruption`.
        """
        with one_line_errors("csd-dreamfusion"), self._interruption.heeded(self):
            super().train()

    def _load_checkpoint(self) -> None:
        """Load the checkpoint that the options name; --max-num-iterations includes its steps."""
        path = self._checkpoint
        if path is not None:
            loaded = read_checkpoint(path)
            with telling_of_faults(path):
                self._start_step = loaded["step"] + 1
                self.pipeline.load_pipeline(loaded["pipeline"], loaded["step"])
                load_optimizers(self, loaded)
            CONSOLE.print(f"Loaded csd-dreamfusion's {path}.")
        left = self.config.max_num_iterations - self._start_step
        if left < 1:
            raise MethodError(
                f"The run that is loaded has done {self._start_step} steps, and "
                f"--max-num-iterations asks for {self.config.max_num_iterations}; ask for more."
            )
        self.config = dataclasses.replace(self.config, max_num_iterations=left)

    def save_checkpoint(self, step: int) -> None:
        """Save a checkpoint; it replaces the earlier one only when it is complete."""
        self._finite.before_saving(step, self.pipeline.model)
        save = super().save_checkpoint
        save_whole(self, self.checkpoint_dir, save=lambda: save(step))

    def train_iteration(self, step: int) -> Any:
        """Train one step; if it fails, save the result's pictures, but no checkpoint."""
        try:
            outcome = super().train_iteration(step)
            self._finite.after_step(step, outcome[0], self.grad_scaler)
        except FloatingPointError:
            self._finish(failed=True)
            raise
        return outcome

    def _after_train(self) -> None:
        """Save the result's pictures first: nerfstudio's part never ends if a viewer runs."""
        self._finish()
        super()._after_train()

    def _preview(self, step: int) -> None:
        if step > 0:
            path = self.base_dir / "previews" / f"step_{step:06d}.png"
            save_preview(path, self.pipeline.model, size=self.config.preview_size)

    def _finish(self, *, failed: bool = False) -> None:
        notices = [*self._notices, *self.pipeline.notices]
        settings = dataclasses.asdict(_pipeline_config(self.config)) | {"notices": notices}
        folder = self.base_dir / RESULT_FOLDER
        CONSOLE.print("csd-dreamfusion: rendering the result's pictures and turntable ...")
        files = save_result(
            folder, self.pipeline.model, settings, size=self.config.result_size, failed=failed
        )
        CONSOLE.print(f"Wrote {', '.join(path.name for path in files)} to {folder}.")


def _pipeline_config(config: TrainerConfig) -> CSDDreamFusionPipelineConfig:
    assert isinstance(config.pipeline, CSDDreamFusionPipelineConfig)
    return config.pipeline


def _check(config: CSDDreamFusionTrainerConfig, world_size: int) -> None:
    """Find mistakes before anything expensive begins."""
    check_run(
        config,
        method="csd-dreamfusion",
        world_size=world_size,
        prompt=asked_prompt(config),
        wanted='what to make: --pipeline.prompt "a red cube"',
    )
