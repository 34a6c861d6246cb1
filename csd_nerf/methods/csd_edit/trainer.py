"""nerfstudio's trainer for the two stages of csd-edit."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE

from csd_nerf.core.settings import EditSettings
from csd_nerf.media.files import folder_written_whole
from csd_nerf.methods.common.adoption import Adopted, preset_of
from csd_nerf.methods.common.checkpoints import (
    OUR_STATE,
    find_checkpoint,
    load_optimizers,
    read_checkpoint,
    save_whole,
    telling_of_faults,
)
from csd_nerf.methods.common.checks import asked_prompt, check_devices, check_run
from csd_nerf.methods.common.errors import MethodError, one_line_errors
from csd_nerf.methods.common.finite_training import FiniteTraining
from csd_nerf.methods.common.interruption import Interruption
from csd_nerf.methods.common.terminal import count_steps
from csd_nerf.methods.csd_edit import loading
from csd_nerf.methods.csd_edit.edits import EDITS_FOLDER
from csd_nerf.methods.csd_edit.pipeline import CSDEditPipeline, CSDEditPipelineConfig

LPIPS_PATCH = 32
"""Smallest edge in pixels for LPIPS; AlexNet's pooling leaves nothing of smaller patches."""
IN2N_CAMERA_OPT: dict[str, Any] = {
    "optimizer": AdamOptimizerConfig(lr=6e-4, eps=1e-8, weight_decay=1e-2),
    "scheduler": ExponentialDecaySchedulerConfig(lr_final=6e-6, max_steps=5000),
}
"""Instruct-NeRF2NeRF's optimizer of camera poses, from `in2n_config.py` of
github.com/ayaanzhaque/instruct-nerf2nerf at 2c0d385. Its loss has no penalty on the poses; here
nerfacto's stays."""
SOURCE_FOLDER = "source_models"
"""Folder of a run with the checkpoint of its unedited scene."""


@dataclass
class CSDEditTrainerConfig(TrainerConfig):
    """nerfstudio's options of a run.

    `--pipeline.source-steps` and `--pipeline.edit-steps` set the length of a run, including the
    steps of a loaded run; `--max-num-iterations` can end it earlier.
    """

    _target: type = field(default_factory=lambda: CSDEditTrainer)

    def save_config(self) -> None:
        """Write config.yml. Several devices, which can't work, and a full disk end in one line.

        nerfstudio calls this before it starts a process for each device.
        """
        with one_line_errors("csd-edit"):
            check_devices(self.machine.num_devices * self.machine.num_machines, method="csd-edit")
            super().save_config()


class CSDEditTrainer(Trainer):
    """Trains a scene and then edits it, from scratch or from a checkpoint.

    A user's mistake ends the process with one line, see `one_line_errors`.
    """

    pipeline: CSDEditPipeline

    def __init__(
        self, config: CSDEditTrainerConfig, local_rank: int = 0, world_size: int = 1
    ) -> None:
        with one_line_errors("csd-edit"):
            self._checkpoint = find_checkpoint(
                load_dir=config.load_dir,
                load_step=config.load_step,
                load_checkpoint=config.load_checkpoint,
            )
            self._take_over_settings(config)
            _check(config, world_size)
        super().__init__(config, local_rank, world_size)
        self._finite = FiniteTraining()
        self._interruption = Interruption("csd-edit", self.save_checkpoint)

    def _take_over_settings(self, config: CSDEditTrainerConfig) -> None:
        """Complete the config from nerfstudio's --prompt and from the loaded run."""
        pipeline = _pipeline_config(config)
        pipeline.prompt = asked_prompt(config)
        self._adopted = Adopted()
        run = loading.read_run_config(self._checkpoint) if self._checkpoint else None
        if run is not None and self._checkpoint is not None:
            self._adopted = loading.adopt_settings(config, run, self._checkpoint)
            if isinstance(run.pipeline, CSDEditPipelineConfig):
                pipeline.prompt = pipeline.prompt or run.pipeline.prompt
            CONSOLE.log(f"Took over the settings of model and dataparser from {self._checkpoint}.")
        # ns-train saved the config before this change; ns-eval and other commands read the file.
        config.save_config()

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Set everything up; a user's mistake ends in one line."""
        with one_line_errors("csd-edit"):
            super().setup(test_mode)
        # The last one is the editing stage's, before a step; these follow nerfacto's after a step.
        self.callbacks.insert(-1, self._interruption.callback())
        asked = self.pipeline.controls.notices(self.pipeline.config.request())
        for notice in (*self.pipeline.notices, *asked):
            CONSOLE.print(f"csd-edit: {notice}.", markup=False)
        plan = self.pipeline.stage.plan
        self._count_steps(begin=plan.first_edit if self._start_step > plan.first_edit else 0)

    def train(self) -> None:
        """Train; a user's mistake that is found only now also ends in one line.

        Ctrl-C and SIGTERM end the run after its present step, saved; see `Interruption`.
        """
        with one_line_errors("csd-edit"), self._interruption.heeded(self):
            super().train()

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Save a checkpoint of the unedited scene, and reset the optimizers.

        Args:
            is_resumed: Whether an earlier run did this already; see `Scene.begin_editing`.
        """
        first_edit = self.pipeline.stage.plan.first_edit
        if not is_resumed:
            self._save_into(self.base_dir / SOURCE_FOLDER, first_edit - 1)
            self.optimizers = self._setup_editing_optimizers()
        self._count_steps(begin=first_edit)

    def _setup_editing_optimizers(self) -> Optimizers:
        """New optimizers for the editing stage, in which poses have one of their own or none."""
        groups = self.pipeline.get_param_groups()
        poses = groups.get("camera_opt", [])
        config = dict(self.config.optimizers)
        if _pipeline_config(self.config).model.editing_poses == "in2n":
            config["camera_opt"] = IN2N_CAMERA_OPT
        else:
            # The source stage's gradients must not linger in a group that no optimizer clears.
            for parameter in poses:
                parameter.requires_grad_(False).grad = None
            groups.pop("camera_opt", None)
        return Optimizers(config, groups)

    def _count_steps(self, *, begin: int) -> None:
        """Print steps counted from `begin`, and the time left until this run's end."""
        count_steps(begin=begin, end=self._start_step + self.config.max_num_iterations)

    def _load_checkpoint(self) -> None:
        """Load the checkpoint that the options name, if any, and plan the steps of this run."""
        is_stock = False
        path = self._checkpoint
        self.pipeline.keep_edits(
            self.base_dir / EDITS_FOLDER,
            loaded=path.parent.parent / EDITS_FOLDER if path is not None else None,
        )
        if path is not None:
            loaded = read_checkpoint(path)
            is_stock = OUR_STATE not in loaded["pipeline"]
            with telling_of_faults(path):
                self._restore(loaded)
            if not is_stock:
                self._keep_source(path.parent.parent / SOURCE_FOLDER)
            CONSOLE.print(f"Loaded {'nerfacto' if is_stock else 'csd-edit'}'s {path}.")
        plan = self.pipeline.stage.plan_run(first_step=self._start_step, source_is_trained=is_stock)
        left = plan.end - self._start_step
        if left < 1:
            raise MethodError(
                f"The run that is loaded has done its {self.pipeline.config.edit_steps} editing "
                "steps; ask for more with --pipeline.edit-steps."
            )
        steps = min(left, self.config.max_num_iterations)
        self.config = dataclasses.replace(self.config, max_num_iterations=steps)

    def _restore(self, loaded: dict[str, Any]) -> None:
        """Restore a checkpoint of nerfacto or csd-edit."""
        pipeline = self.pipeline
        pipeline.notices_of_loading = self._adopted.notices()
        pipeline.misfit_remedy = self._adopted.misfit_remedy(pipeline.misfit_remedy)
        self._start_step = loaded["step"] + 1
        pipeline.load_pipeline(loaded["pipeline"], loaded["step"])
        if OUR_STATE not in loaded["pipeline"]:
            return
        if pipeline.stage.state.first_edit is not None:
            self.optimizers = self._setup_editing_optimizers()
        others = pipeline.has_other_photographs(loaded["pipeline"])
        if others:
            # What Adam remembers of each photograph would be another's.
            pipeline.notices_of_loading.append(
                "the optimizers start anew, since the photographs are not those of the loaded run"
            )
        load_optimizers(self, loaded, only_schedulers=others)

    def _keep_source(self, folder: Path) -> None:
        """Copy the loaded run's checkpoint of the unedited scene into this run."""
        kept = self.base_dir / SOURCE_FOLDER
        if folder.is_dir() and not kept.exists():
            with folder_written_whole(kept) as unfinished:
                shutil.copytree(folder, unfinished, dirs_exist_ok=True)

    def train_iteration(self, step: int) -> Any:
        """Train one step.

        Raises:
            FloatingPointError: If its numbers are not finite; nothing of it is saved.
        """
        outcome = super().train_iteration(step)
        self._finite.after_step(step, outcome[0], self.grad_scaler)
        return outcome

    def save_checkpoint(self, step: int) -> None:
        """Save a checkpoint; it replaces the earlier one only when it is complete.

        Raises:
            FloatingPointError: If a parameter is not finite.
        """
        self._save_into(self.checkpoint_dir, step)
        if self.config.save_only_latest_checkpoint:
            self.pipeline.scene.forget_older_edits()

    def _save_into(self, folder: Path, step: int) -> None:
        self._finite.before_saving(step, self.pipeline.model)
        save_whole(self, folder, save=lambda: super(CSDEditTrainer, self).save_checkpoint(step))


def _pipeline_config(config: TrainerConfig) -> CSDEditPipelineConfig:
    assert isinstance(config.pipeline, CSDEditPipelineConfig)
    return config.pipeline


def _check(config: CSDEditTrainerConfig, world_size: int) -> None:
    """Find mistakes before anything expensive begins."""
    pipeline = _pipeline_config(config)
    check_run(
        config,
        method="csd-edit",
        world_size=world_size,
        prompt=pipeline.prompt,
        wanted='what to do: --pipeline.prompt "make it snow"',
    )
    if pipeline.edit.residual == "dds" and not pipeline.source_prompt.strip():
        raise MethodError(
            "--pipeline.edit.residual dds needs a description of the photographs; give "
            '--pipeline.source-prompt "a photo of ...", and a prompt that describes the result.'
        )
    preset = _preset_edit(config.method_name)
    if pipeline.edit.residual == "dds" and pipeline.edit.source_share == preset.source_share < 1:
        CONSOLE.print(
            "csd-edit: dds is the source's estimate; the preset's source-share becomes 1."
        )
        pipeline.edit = dataclasses.replace(pipeline.edit, source_share=1.0)
    _check_kernel(pipeline.edit, preset)
    patch = pipeline.datamanager.edit_patch_size
    if pipeline.model.lpips_weight > 0 and patch < LPIPS_PATCH:
        raise MethodError(
            f"LPIPS needs patches of at least {LPIPS_PATCH} pixels, got {patch}; set "
            f"--pipeline.datamanager.edit-patch-size {LPIPS_PATCH}, or --pipeline.model."
            "lpips-weight 0."
        )
    if config.load_dir is None and config.load_checkpoint is None and pipeline.source_steps < 1:
        raise MethodError(
            f"--pipeline.source-steps needs to be at least 1 without a scene to load, got "
            f"{pipeline.source_steps}; name one with --load-dir."
        )
    _check_data(pipeline)


def _preset_edit(method: str | None) -> EditSettings:
    """The options of editing of a method before the user's."""
    known = preset_of(method)
    return _pipeline_config(known).edit if known is not None else EditSettings()


def _check_kernel(edit: EditSettings, preset: EditSettings) -> None:
    """Refuse options of the kernel between images if nothing is mixed by it."""
    for name in ("bandwidth", "kernel_on", "normalize", "repulsion", "repulsion_scale"):
        usual = (getattr(preset, name), getattr(EditSettings, name))
        if edit.mixing != "stein" and getattr(edit, name) not in usual:
            raise MethodError(
                f"--pipeline.edit.{name.replace('_', '-')} needs the mixing stein, got "
                f"{edit.mixing}; add --pipeline.edit.mixing stein, or leave it out."
            )


def _check_data(pipeline: CSDEditPipelineConfig) -> None:
    parser = pipeline.datamanager.dataparser
    data = Path(pipeline.datamanager.data or parser.data)
    if not data.exists():
        raise MethodError(f"--data names {data}, which does not exist.")
    needs_transforms = isinstance(parser, NerfstudioDataParserConfig) and data.suffix != ".json"
    if needs_transforms and not (data / "transforms.json").is_file():
        raise MethodError(
            f"--data needs a folder with transforms.json, got {data}; for a data set of another "
            "kind name its dataparser at the end of the command, such as blender-data."
        )
