"""nerfstudio's trainer for the two stages of an editing method."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import tyro
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer import Viewer

from csd_nerf.core.settings import VELOCITY, EditSettings
from csd_nerf.media.files import folder_written_whole
from csd_nerf.methods.common.adoption import Adopted, preset_of
from csd_nerf.methods.common.checkpoints import (
    OUR_STATE,
    SOURCE_FOLDER,
    find_checkpoint,
    load_optimizers,
    read_checkpoint,
    save_whole,
    telling_of_faults,
)
from csd_nerf.methods.common.checks import asked_prompt, check_folder, check_helpers, check_run
from csd_nerf.methods.common.edit_loading import adopt_settings, read_scene_config
from csd_nerf.methods.common.edit_pipeline import EditPipeline, EditPipelineConfig
from csd_nerf.methods.common.edit_viewer import open_edit_tab
from csd_nerf.methods.common.errors import MethodError, one_line_errors
from csd_nerf.methods.common.finite_training import FiniteTraining
from csd_nerf.methods.common.helpers import Helpers
from csd_nerf.methods.common.interruption import Interruption
from csd_nerf.methods.common.prior_memory import choose_by_memory
from csd_nerf.methods.common.terminal import count_steps
from csd_nerf.priors import check_quantity, known_family, usual_numbers
from csd_nerf.scene.options import StageOptions


@dataclass
class EditTrainerConfig(TrainerConfig):
    """nerfstudio's options of a run.

    `--pipeline.source-steps` and `--pipeline.edit-steps` set the length of a run, including the
    steps of a loaded run; `--max-num-iterations` can end it earlier.
    """

    command: ClassVar[str]
    """Name of the command, which begins messages."""
    helpers: tyro.conf.Suppress[int] = 0
    """Number of processes that share the edits with this one; --machine.num-devices sets it."""

    def save_config(self) -> None:
        """Write config.yml. Devices that can't work, and a full disk end in one line.

        nerfstudio calls this before it would start a process for each device, all of which train.
        Here one trains, and the others help it to edit; see `csd_nerf.scene.together`. The file
        has the devices as the user gave them, since it may be loaded on another machine. A run that
        goes on from another needs a folder of its own, as the other's settings would be lost.
        """
        options = edit_options(self)
        given = {"prior_device": options.prior_device, "prior_split": options.prior_split}
        # The trainer calls this again.
        self.machine.num_devices += self.helpers
        self.helpers = 0
        with one_line_errors(self.command):
            check_helpers(self.machine, **given, method=self.command)
            check_folder(self)
            super().save_config()
        if self.machine.num_devices > 1:
            self.helpers, self.machine.num_devices = self.machine.num_devices - 1, 1


class EditTrainer(Trainer):
    """Trains a scene and then edits it, from scratch or from a checkpoint.

    A user's mistake ends the process with one line, see `one_line_errors`.
    """

    pipeline: EditPipeline
    config: EditTrainerConfig
    stock: ClassVar[tuple[str, type[ModelConfig]]]
    """nerfstudio's own method whose runs can be loaded, and the config of its model."""

    def __init__(self, config: EditTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        with one_line_errors(config.command):
            self._checkpoint = find_checkpoint(
                load_dir=config.load_dir,
                load_step=config.load_step,
                load_checkpoint=config.load_checkpoint,
            )
            self._take_over_settings(config)
            self.check(config, world_size)
        super().__init__(config, local_rank, world_size)
        self._finite = FiniteTraining()
        self._helpers = Helpers()
        self._interruption = Interruption(config.command, self.save_checkpoint)

    def check(self, config: EditTrainerConfig, world_size: int) -> None:
        """Find mistakes before anything expensive begins."""
        check_edit(config, world_size)

    def _take_over_settings(self, config: EditTrainerConfig) -> None:
        """Complete the config from nerfstudio's --prompt and from the loaded run."""
        pipeline = edit_options(config)
        pipeline.prompt = asked_prompt(config)
        self._adopted = Adopted()
        stock, model = self.stock
        run = None
        if self._checkpoint is not None:
            run = read_scene_config(self._checkpoint, model, command=config.command, stock=stock)
        if run is not None and self._checkpoint is not None:
            self._adopted = adopt_settings(config, run, self._checkpoint, model)
            if isinstance(run.pipeline, EditPipelineConfig):
                pipeline.prompt = pipeline.prompt or run.pipeline.prompt
            CONSOLE.log(f"Took over the settings of model and dataparser from {self._checkpoint}.")
        # ns-train saved the config before this change; ns-eval and other commands read the file.
        config.save_config()

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Set everything up; a user's mistake ends in one line."""
        with one_line_errors(self.config.command):
            super().setup(test_mode)
            if test_mode == "val":
                self._helpers.start(self.config.helpers, self.pipeline.recipe_of)
        if isinstance(self.viewer_state, Viewer):
            open_edit_tab(self.viewer_state, self.pipeline.controls)
            self.callbacks.insert(0, self.pipeline.controls.end_callback())
        # The last one is the editing stage's, before a step; these follow the model's after a step.
        self.callbacks.insert(-1, self._interruption.callback())
        asked = self.pipeline.controls.notices(self.pipeline.config.request())
        for notice in (*self.pipeline.notices, *asked):
            CONSOLE.print(f"{self.config.command}: {notice}.", markup=False)
        plan = self.pipeline.stage.plan
        self._count_steps(begin=plan.first_edit if self._start_step > plan.first_edit else 0)

    def train(self) -> None:
        """Train; a user's mistake that is found only now also ends in one line.

        Ctrl-C and SIGTERM end the run after its present step, saved; see `Interruption`.
        """
        with (
            one_line_errors(self.config.command),
            self._interruption.heeded(self),
            self._helpers.dismissed(),
        ):
            super().train()

    def begin_editing(self, *, is_resumed: bool) -> None:
        """Save a checkpoint of the unedited scene, and reset the optimizers.

        Args:
            is_resumed: Whether an earlier run did this already; see `Scene.begin_editing`.
        """
        first_edit = self.pipeline.stage.plan.first_edit
        if not is_resumed:
            self._save_into(self.base_dir / SOURCE_FOLDER, first_edit - 1)
            self.renew_optimizers()
        self._count_steps(begin=first_edit)

    def renew_optimizers(self) -> None:
        """Start with the editing stage's optimizers, for the parameters that the model has now."""
        self.optimizers = self.setup_editing_optimizers()

    def setup_editing_optimizers(self) -> Optimizers:
        """New optimizers for the editing stage; camera poses stay as they are."""
        groups = self.pipeline.get_param_groups()
        for parameter in groups.pop("camera_opt", []):
            # The source stage's gradients must not linger in a group that no optimizer clears.
            parameter.requires_grad_(False).grad = None
        return Optimizers(self.editing_optimizers(), groups)

    def editing_optimizers(self) -> dict[str, Any]:
        """The configs of the editing stage's optimizers."""
        return dict(self.config.optimizers)

    def _count_steps(self, *, begin: int) -> None:
        """Print steps counted from `begin`, and the time left until this run's end."""
        count_steps(begin=begin, end=self._start_step + self.config.max_num_iterations)

    def _load_checkpoint(self) -> None:
        """Load the checkpoint that the options name, if any, and plan the steps of this run."""
        is_stock = False
        path = self._checkpoint
        loaded_run = path.parent.parent if path is not None else None
        self.pipeline.keep_files(self.base_dir, loaded=loaded_run)
        if path is not None:
            loaded = read_checkpoint(path)
            is_stock = OUR_STATE not in loaded["pipeline"]
            with telling_of_faults(path):
                self._restore(loaded)
            if not is_stock:
                self._keep_source(path.parent.parent / SOURCE_FOLDER)
                self.pipeline.take_over_history(path.parent.parent)
            CONSOLE.print(f"Loaded {self.stock[0] if is_stock else self.config.command}'s {path}.")
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
        """Restore a checkpoint of this method or of nerfstudio's own."""
        pipeline = self.pipeline
        pipeline.notices_of_loading = self._adopted.notices()
        pipeline.misfit_remedy = self._adopted.misfit_remedy(pipeline.misfit_remedy)
        self._start_step = loaded["step"] + 1
        pipeline.load_pipeline(loaded["pipeline"], loaded["step"])
        if OUR_STATE not in loaded["pipeline"]:
            return
        # Loading may have replaced the parameters.
        if pipeline.stage.state.first_edit is not None:
            self.optimizers = self.setup_editing_optimizers()
        else:
            self.optimizers = self.setup_optimizers()
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
            self.pipeline.forget_older_files()

    def save_now(self, step: int) -> str:
        """Save a checkpoint before a step, and the scene for other programs.

        Returns:
            Where, in words.
        """
        self.save_checkpoint(max(step - 1, 0))
        return ", ".join(map(str, [self.checkpoint_dir, *self.export()]))

    def export(self) -> list[Path]:
        """Write the scene for other programs; returns the files."""
        return []

    def _after_train(self) -> None:
        """Tell that training has ended; nerfstudio's part never ends if a viewer runs."""
        self.pipeline.stage.finish()
        super()._after_train()

    def _save_into(self, folder: Path, step: int) -> None:
        self._finite.before_saving(step, self.pipeline.model)
        save_whole(self, folder, save=lambda: super(EditTrainer, self).save_checkpoint(step))


def edit_options(config: TrainerConfig) -> EditPipelineConfig:
    """The options of a run's pipeline."""
    assert isinstance(config.pipeline, EditPipelineConfig)
    return config.pipeline


def check_edit(config: EditTrainerConfig, world_size: int) -> None:
    """Find mistakes in the options that all editing methods have.

    Raises:
        MethodError: If there is one.
    """
    check_options(config, world_size)
    pipeline = edit_options(config)
    if config.load_dir is None and config.load_checkpoint is None and pipeline.source_steps < 1:
        raise MethodError(
            f"--pipeline.source-steps needs to be at least 1 without a scene to load, got "
            f"{pipeline.source_steps}; name one with --load-dir."
        )
    check_data(pipeline)


def check_options(config: EditTrainerConfig, world_size: int) -> None:
    """Find mistakes in the options of editing, and complete those that follow from others.

    Raises:
        MethodError: If there is one.
    """
    pipeline = edit_options(config)
    check_run(
        config,
        method=config.command,
        world_size=world_size,
        prompt=pipeline.prompt,
        wanted='what to do: --pipeline.prompt "make it snow"',
    )
    if pipeline.edit.residual == "dds" and not pipeline.source_prompt.strip():
        raise MethodError(
            "--pipeline.edit.residual dds needs a description of the photographs; give "
            '--pipeline.source-prompt "a photo of ...", and a prompt that describes the result.'
        )
    _check_control(pipeline)
    _check_reference(pipeline)
    preset = _preset_edit(config.method_name)
    _take_usual_numbers(config, pipeline)
    _check_quantity(config, preset)
    if pipeline.edit.residual == "dds" and pipeline.edit.source_share == preset.source_share < 1:
        CONSOLE.print(
            f"{config.command}: dds is the source's estimate; the preset's source-share becomes 1."
        )
        pipeline.edit = dataclasses.replace(pipeline.edit, source_share=1.0)
    choose_by_memory(config, pipeline, preset_of(config.method_name))
    _check_kernel(pipeline.edit, preset)


def _check_control(pipeline: EditPipelineConfig) -> None:
    """Refuse a ControlNet where it can't be heeded, and its options without one."""
    given = {
        "--pipeline.control-model": pipeline.control_model is not None,
        "--pipeline.control-scale": pipeline.control_scale != StageOptions.control_scale,
    }
    for option, is_given in given.items():
        if is_given and pipeline.control is None:
            raise MethodError(f"{option} needs --pipeline.control canny or depth; add one.")
    if pipeline.control is None:
        return
    if pipeline.update != "csd" or pipeline.edit.residual != "dds":
        raise MethodError(
            f"--pipeline.control {pipeline.control} needs --pipeline.update csd with "
            f"--pipeline.edit.residual dds, got {pipeline.update} with {pipeline.edit.residual}; "
            "set them, or leave the control out."
        )
    if pipeline.control_scale < 0:
        raise MethodError(
            f"--pipeline.control-scale needs to be 0 or more, got {pipeline.control_scale}."
        )


def _check_reference(pipeline: EditPipelineConfig) -> None:
    """Refuse a second reference for a model that sees the photograph alone."""
    family = known_family(pipeline.prior)
    if pipeline.reference_views and family is not None and family.references < 2:
        raise MethodError(
            f"--pipeline.reference-views needs a prior that takes two images, got "
            f"{pipeline.prior}; take flux2-klein or qwen-image-edit, or leave it out."
        )


def _take_usual_numbers(config: EditTrainerConfig, pipeline: EditPipelineConfig) -> None:
    """With another prior than the preset's, take its numbers where none are given."""
    known = preset_of(config.method_name)
    if known is not None and pipeline.prior != edit_options(known).prior:
        _take_numbers(config, usual_numbers(pipeline.prior), whose=pipeline.prior)


def _take_numbers(config: EditTrainerConfig, numbers: Mapping[str, Any], *, whose: str) -> None:
    """Take numbers of editing where the preset's are not changed."""
    pipeline, usual = edit_options(config), _preset_edit(config.method_name)
    taken = {
        name: value
        for name, value in numbers.items()
        if getattr(pipeline.edit, name) == getattr(usual, name) != value
    }
    if taken:
        told = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in taken.items())
        CONSOLE.print(f"{config.command}: the numbers of {whose}: {told}.", markup=False)
        pipeline.edit = dataclasses.replace(pipeline.edit, **taken)


def _check_quantity(config: EditTrainerConfig, preset: EditSettings) -> None:
    """Check the quantity of the residual, and take its numbers where none are given."""
    pipeline, option = edit_options(config), "--pipeline.edit.quantity"
    edit = pipeline.edit
    if edit.quantity == "noise":
        if edit.shift != preset.shift:
            raise MethodError(
                f"--pipeline.edit.shift needs {option} velocity, got noise; add it, or leave the "
                "shift out."
            )
        return
    try:
        check_quantity(pipeline.prior, edit.quantity, name=option)
    except ValueError as error:
        raise MethodError(str(error)) from None
    if pipeline.update == "csd" and pipeline.start == "render":
        raise MethodError(
            f"{option} velocity needs --pipeline.start original, got render; add it, since a "
            "round that begins at an edit would add the edit to it once more."
        )
    _take_numbers(config, VELOCITY, whose=f"{option} velocity")


def _preset_edit(method: str | None) -> EditSettings:
    """The options of editing of a method before the user's."""
    known = preset_of(method)
    return edit_options(known).edit if known is not None else EditSettings()


def _check_kernel(edit: EditSettings, preset: EditSettings) -> None:
    """Refuse options of the kernel between images if nothing is mixed by it."""
    for name in ("bandwidth", "kernel_on", "normalize", "repulsion", "repulsion_scale"):
        usual = (getattr(preset, name), getattr(EditSettings, name))
        if edit.mixing != "stein" and getattr(edit, name) not in usual:
            raise MethodError(
                f"--pipeline.edit.{name.replace('_', '-')} needs the mixing stein, got "
                f"{edit.mixing}; add --pipeline.edit.mixing stein, or leave it out."
            )


def check_data(pipeline: EditPipelineConfig) -> None:
    """Find mistakes in the name of the data.

    Raises:
        MethodError: If nothing is there, or a folder lacks what its dataparser reads.
    """
    images: Any = pipeline.datamanager
    parser = images.dataparser
    data = Path(images.data or parser.data)
    if not data.exists():
        raise MethodError(f"--data names {data}, which does not exist.")
    needs_transforms = isinstance(parser, NerfstudioDataParserConfig) and data.suffix != ".json"
    if needs_transforms and not (data / "transforms.json").is_file():
        raise MethodError(
            f"--data needs a folder with transforms.json, got {data}; for a data set of another "
            "kind name its dataparser at the end of the command, such as blender-data."
        )
