"""A pipeline of nerfstudio with the editing stage between its training steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Literal

import torch
import tyro
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.engine.trainer import Trainer
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE

from csd_nerf.core.random_state import random_state, restore_random_state
from csd_nerf.methods.common.checkpoints import (
    OUR_STATE,
    SOURCE_FOLDER,
    find_checkpoint,
    load_strictly,
    read_checkpoint,
    telling_of_faults,
)
from csd_nerf.methods.common.controls import ViewerControls
from csd_nerf.methods.common.edit_scene import PhotographScene, by_photograph
from csd_nerf.methods.common.edit_tab import Numbers
from csd_nerf.methods.common.edited_images import EditedImages
from csd_nerf.methods.common.edits import EDITS_FOLDER, EditFolder
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.lazy_prior import LazyPrior, PriorOptions
from csd_nerf.methods.common.region_checks import check_region
from csd_nerf.methods.common.rounds import FailedRounds, show_round
from csd_nerf.methods.common.terminal import count_round
from csd_nerf.priors import Prior
from csd_nerf.scene.faults import RequestError, RoundError, told_as
from csd_nerf.scene.history import HISTORY_FOLDER, History
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.plan import PAPER_ROUNDS, Rounds
from csd_nerf.scene.stage import EditingStage


@dataclass
class EditPipelineConfig(StageOptions, PriorOptions, VanillaPipelineConfig):
    """Options of the pipeline: of the editing stage and of the prior."""

    default_rounds: tyro.conf.Suppress[Rounds] = PAPER_ROUNDS
    """The preset's schedule; --edit-every and --edit-views override it."""
    prior_vae_tiling: bool = False
    """Let the prior encode and decode large images in overlapping tiles, to save memory; changes
    the result slightly where tiles meet."""
    memory: Literal["preset", "auto"] = "preset"
    """auto: edit.max-batch, prior-offload and prior-quantize, as far as they are not given, are
    chosen by the memory that is free at the start; what and why is printed. preset: the
    preset's."""


def lazy_prior(
    config: EditPipelineConfig, *, device: str | torch.device, command: str
) -> LazyPrior:
    """The prior that the options name, not yet loaded.

    Args:
        config: The options.
        device: Its device if they name none.
        command: Name of the command, which begins messages.
    """
    return LazyPrior(
        config,
        kind="text" if config.update == "csd" and config.edit.residual == "dds" else "edit",
        device=device,
        command=command,
        limit="--pipeline.edit.max-batch",
        vae_tiling=config.prior_vae_tiling,
        control=config.control,
        control_model=config.control_model,
        control_scale=config.control_scale,
    )


class EditPipeline(VanillaPipeline):
    """Trains a scene, and calls the editing stage before every step.

    The stage is called in a callback, outside of the training step, which runs under autocast.

    Attributes:
        stage: The editing stage. This and the next two attributes exist only for training.
        scene: The scene, with the interface that the stage uses.
        notices_of_loading: What became of the user's options beside those of a loaded run.
        controls: The stage's tab in the viewer.
    """

    config: EditPipelineConfig
    command: ClassVar[str]
    """Name of the command, which begins messages."""
    per_photograph: ClassVar[tuple[str, ...]] = ()
    """Ends of the names of parameters that have a row for each photograph."""
    misfit_remedy = (
        "set --pipeline.model as the scene was trained, or keep the run's config.yml beside its "
        "checkpoints"
    )
    """What the user can do if a checkpoint doesn't fit the model."""

    def __init__(
        self,
        config: EditPipelineConfig,
        device: str | torch.device,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        self._prior = lazy_prior(config, device=device, command=self.command)
        trains = test_mode == "val"
        if trains:
            # Missing weights must be found now, not after minutes or hours of source training.
            # Evaluation needs no prior.
            self._prior.fetch()
        super().__init__(config, str(device), test_mode, world_size, local_rank, grad_scaler)
        self._restored_random_state: dict[str, Any] | None = None
        if trains:
            model: Any = self.model
            if model.uses_perceptual_loss:
                model.perceptual.require()
            self.scene = self.open_scene()
            check_region(self.scene, config)
            self.controls = ViewerControls(
                config.request(),
                prior=config.prior,
                numbers=Numbers(config.rounds.views, self.scene.num_views, config.seed),
            )
            self.stage = EditingStage(
                self.scene, config, prior=self._prior.get, controls=self.controls
            )
            self._failed = FailedRounds(self.command, self.controls)
        self.notices_of_loading: list[str] = []

    def lend_prior(self, prior: Prior) -> None:
        """Edit with a prior that is loaded already, instead of the one that the options name."""
        self._prior.lend(prior)

    def recipe_of(self, number: int) -> dict[str, Any]:
        """How a helper of this number, from 1, loads the prior that the options name."""
        kind = torch.device(self.device).type
        return self._prior.recipe(f"cuda:{number}" if kind == "cuda" else kind)

    @property
    def notices(self) -> list[str]:
        """What was put right, or could not be honoured, so far; without full stops.

        None for evaluation, which has no stage. ns-viewer asks for all properties of a pipeline.
        """
        if self.test_mode != "val":
            return []
        found = [*self.notices_of_loading, *self._images.notices]
        return [*found, *self.stage.notices, *self._prior.notices]

    @property
    def _images(self) -> EditedImages:
        assert isinstance(self.datamanager, EditedImages)
        return self.datamanager

    def open_scene(self) -> PhotographScene:
        """The model and its images, with the interface that the stage uses."""
        raise NotImplementedError

    def prepare_loading(self, state: Mapping[str, Any], step: int) -> None:
        """Prepare the model for a state of this step."""
        del state
        self.model.update_to_step(step)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The model's callbacks, and the editing stage's."""
        trainer: Any = training_callback_attributes.trainer
        self.scene.host = trainer
        self.stage.save = trainer.save_now
        callback = TrainingCallback(
            where_to_run=[TrainingCallbackLocation.BEFORE_TRAIN_ITERATION],
            update_every_num_iters=1,
            func=self._before_step,
            args=[trainer],
        )
        # Last, because a round renders as the model's callbacks set it up for this step.
        return [*super().get_training_callbacks(training_callback_attributes), callback]

    def _before_step(self, trainer: Trainer, step: int) -> None:
        if self._restored_random_state is not None:
            # As late as possible, because the set-up of a run draws random numbers too.
            restore_random_state(self._restored_random_state)
            self._restored_random_state = None
        began = perf_counter()
        self.stage.is_live = trainer.viewer_state is not None
        try:
            with self.controls.lending(trainer.train_lock):
                done = self.stage.before_step(step)
            if done is not None:
                folder = trainer.base_dir / "rounds"
                with told_as(RequestError, "A round can't be shown", is_live=self.stage.is_live):
                    show_round(done, folder, self.controls, notices=self.notices)
        except RoundError as error:
            self._handle(error, trainer, step)
            return
        self._failed.forget()
        if done is not None:
            count_round(seconds=perf_counter() - began, every=self.config.rounds.every)

    def _handle(self, error: RoundError, trainer: Trainer, step: int) -> None:
        """Pause editing after a failed round; without a viewer to go on from, end the run."""
        if trainer.viewer_state is not None:
            if isinstance(error, RequestError):
                CONSOLE.print(f"{self.command}: {error}", markup=False)
            else:
                self._failed.tell(str(error))
            return
        if step > trainer._start_step:
            trainer.save_checkpoint(step - 1)
        cause = error.__cause__
        if isinstance(cause, ValueError | ImportError):
            raise MethodError(str(error)) from None
        assert cause is not None
        raise cause

    def get_extra_state(self) -> dict[str, Any]:
        """The state beside the model for checkpoints; a resumed run gives the same result."""
        return {**self.stage.state_dict(), "random": random_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state of `get_extra_state`."""
        if self.test_mode == "val":
            self.stage.load_state_dict(state)
            self._restored_random_state = state["random"]

    def keep_files(self, run: Path, *, loaded: Path | None) -> None:
        """Name folders; to be called before a checkpoint is loaded or saved.

        Args:
            run: This run's folder.
            loaded: That of the run that is loaded, if any.
        """
        self._run = run
        self.scene.edits = EditFolder(run / EDITS_FOLDER)
        if loaded is not None:
            self.scene.loaded_edits = EditFolder(loaded / EDITS_FOLDER)
        self.stage.keeper.files = History(run / HISTORY_FOLDER)
        self.stage.keeper.read_source = self._read_source

    def take_over_history(self, loaded: Path) -> None:
        """Make what the loaded run could go back to, or builds on, this run's too.

        Args:
            loaded: The folder of the run that is loaded.
        """
        keeper = self.stage.keeper
        keeper.take_over(self.stage.state, History(loaded / HISTORY_FOLDER))
        self.scene.take_over_edits(keeper.snapshots())

    def forget_older_files(self) -> None:
        """Delete what only an earlier checkpoint named, once a later one is saved for good."""
        keeper = self.stage.keeper
        self.scene.forget_older_edits(keeper.snapshots())
        keeper.forget_older_bases(self.stage.state.base)

    def _read_source(self) -> dict[str, Any]:
        """A snapshot of the unedited scene, from the run's checkpoint of it.

        Raises:
            MethodError: If there is none, or it can't be read.
        """
        folder = self._run / SOURCE_FOLDER
        path = find_checkpoint(load_dir=folder, load_step=None, load_checkpoint=None)
        assert path is not None
        loaded = read_checkpoint(path)
        with telling_of_faults(path):
            return self.scene.snapshot_of(loaded["pipeline"], step=loaded["step"] + 1)

    def load_pipeline(self, loaded_state: Mapping[str, Any], step: int) -> None:
        """Load a checkpoint of this method, or of nerfstudio's own with this model, strictly.

        What belongs to a photograph is found by the photograph's name.

        Raises:
            MethodError: If its parameters don't fit the model.
        """
        self.prepare_loading(loaded_state, step)
        load_strictly(
            self.model,
            self._by_photograph(loaded_state),
            # nerfstudio's own checkpoints contain LPIPS.
            ignored="lpips.",
            remedy=self.misfit_remedy,
        )
        if OUR_STATE in loaded_state:
            self.set_extra_state(loaded_state[OUR_STATE])

    def has_other_photographs(self, loaded_state: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's run had other photographs, or had them in another order."""
        before = loaded_state.get(OUR_STATE, {}).get("views")
        return before is not None and before != self._images.names

    def _by_photograph(self, loaded_state: Mapping[str, Any]) -> dict[str, Any]:
        """The state with what is kept for each photograph in the order of this run's."""
        before = loaded_state.get(OUR_STATE, {}).get("views")
        ends = self.per_photograph
        return by_photograph(loaded_state, before, self._images.names, per_photograph=ends)

    def get_eval_image_metrics_and_images(self, step: int) -> Any:
        """As nerfstudio does; the unedited scene is not rendered."""
        model: Any = self.model
        with model.unedited_hidden():
            return super().get_eval_image_metrics_and_images(step)

    def get_average_image_metrics(self, *args: Any, **options: Any) -> Any:
        """As nerfstudio does; the unedited scene is not rendered."""
        model: Any = self.model
        with model.unedited_hidden():
            return super().get_average_image_metrics(*args, **options)
