"""The two stages of csd-edit: train the source, then edit its photographs round by round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import writer
from torch import Tensor

from csd_nerf.core.settings import EditSettings
from csd_nerf.media.pixels import resize01
from csd_nerf.methods.csd_edit import checkpoint, progress, views
from csd_nerf.methods.csd_edit.controls import EditControls
from csd_nerf.methods.csd_edit.datamanager import CSDEditDataManager, CSDEditDataManagerConfig
from csd_nerf.methods.csd_edit.errors import EditError
from csd_nerf.methods.csd_edit.lazy_prior import LazyPrior
from csd_nerf.methods.csd_edit.loading import OUR_STATE, load_scene
from csd_nerf.methods.csd_edit.model import CSDEditModel, CSDEditModelConfig
from csd_nerf.priors import Prior
from csd_nerf.scene import rounds
from csd_nerf.scene.plan import StepPlan, draw_views
from csd_nerf.scene.report import (
    REPORT_EVERY,
    contact_sheet01,
    round_metrics,
    save_round,
)
from csd_nerf.scene.request import EditRequest
from csd_nerf.scene.updates import Update


@runtime_checkable
class StageHost(Protocol):
    """What the pipeline asks of the trainer that runs it."""

    plan: StepPlan
    base_dir: Path

    def finish_source(self, step: int) -> None:
        """End the source stage before this step."""
        ...

    def count_from(self, *, step: int) -> None:
        """Print steps counted from this one on."""
        ...


@dataclass
class CSDEditPipelineConfig(VanillaPipelineConfig):
    """What is edited, when, and with which prior."""

    _target: type = field(default_factory=lambda: CSDEditPipeline)
    datamanager: CSDEditDataManagerConfig = field(default_factory=CSDEditDataManagerConfig)
    """Options of images and rays."""
    model: CSDEditModelConfig = field(default_factory=CSDEditModelConfig)
    """Options of the scene's model."""
    prompt: str = ""
    """The instruction, such as "turn it into a sepia photograph"."""
    negative_prompt: str = ""
    """What the edit should keep away from; takes the place of the empty text."""
    source_steps: int = 30000
    """Steps of training on the photographs before editing; with --load-dir of a nerfacto run,
    none."""
    edit_steps: int = 15000
    """Steps of training after editing has begun."""
    edit_every: int = 2000
    """Training steps between two editing rounds; the first comes at once."""
    edit_views: int = 16
    """Views that are edited together in a round."""
    update: Update = "csd"
    """How a round edits its views: csd, together by Collaborative Score Distillation; in2n, renders
    of the scene noised and denoised one by one, as Instruct-NeRF2NeRF does, whose paper takes
    --pipeline.edit-views 1 --pipeline.edit-every 10; or ip2p, each by InstructPix2Pix from pure
    noise. The last two take text_scale, image_scale and max_batch of `edit`."""
    denoising_steps: int = 20
    """Sampling steps a view of in2n and ip2p."""
    edit: EditSettings = field(default_factory=EditSettings)
    """How a round optimises its views."""
    edit_size: int | None = None
    """Views are edited at about this number of pixels squared; None takes what the prior was
    trained on."""
    start: Literal["render", "original"] = "render"
    """Whether a round of csd starts from renders of the scene as it is, or from the photographs;
    in2n takes renders, ip2p neither."""
    keep_detail: bool = False
    """Whether the photographs' fine detail stays: only the change is enlarged and added."""
    prior: str = "instruct-pix2pix"
    """Editing model: instruct-pix2pix, tiny (bundled), a hub id or a local folder."""
    prior_device: str | None = None
    """Where the prior runs, such as cuda:1; None means where the scene trains."""
    prior_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the prior."""
    prior_variant: str | None = None
    """Which of the prior's weight files: fp16 stands for *.fp16.safetensors."""
    prior_vae_slicing: bool = False
    """Whether the prior encodes and decodes one image at a time, to save memory."""
    prior_vae_tiling: bool = False
    """Whether the prior encodes and decodes large images in tiles, to save memory."""
    seed: int = 0
    """Seed of the rounds: the order of the views and the noise."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("edit_steps", "edit_every", "edit_views", "denoising_steps"):
            if getattr(self, name) < 1:
                raise EditError(f"{name} needs to be at least 1, got {getattr(self, name)}.")
        if self.source_steps < 0:
            raise EditError(f"source_steps can't be negative, got {self.source_steps}.")


class CSDEditPipeline(VanillaPipeline):
    """Nerfacto's pipeline with editing rounds between training steps.

    A round and the change of stage are callbacks before a training step: the step itself runs
    under autocast, which would put the kernel into half precision.
    """

    config: CSDEditPipelineConfig
    datamanager: CSDEditDataManager

    def __init__(
        self,
        config: CSDEditPipelineConfig,
        device: str | torch.device,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        self._trains = test_mode == "val"
        prior = LazyPrior(
            config.prior,
            device=config.prior_device or device,
            dtype=config.prior_dtype,
            variant=config.prior_variant,
            vae_slicing=config.prior_vae_slicing,
            vae_tiling=config.prior_vae_tiling,
        )
        if self._trains:
            # Minutes or hours of source training come before the first round: what it needs is
            # looked for now. Evaluation needs none of it.
            prior.fetch()
        super().__init__(config, str(device), test_mode, world_size, local_rank, grad_scaler)
        self._prior = prior
        self._editing = False
        self._unrestored: dict[str, Any] | None = None
        self.progress = checkpoint.EditProgress()
        if self._trains:
            if self.model.uses_perceptual_loss:
                self.model.perceptual.require()
            self.controls = EditControls(config.prompt, config.negative_prompt, config.edit)

    def lend_prior(self, prior: Prior) -> None:
        """Edit with a prior that is loaded already, instead of the one that is named."""
        self._prior.lend(prior)

    @property
    def model(self) -> CSDEditModel:
        """The scene's model."""
        return self._model  # pyright: ignore[reportReturnType]

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Nerfacto's callbacks and the rounds."""
        trainer = training_callback_attributes.trainer
        callback = TrainingCallback(
            where_to_run=[TrainingCallbackLocation.BEFORE_TRAIN_ITERATION],
            update_every_num_iters=1,
            func=self._before_step,
            args=[trainer],
        )
        # Last: a round renders with the sampler that nerfacto's callbacks set for this step.
        return [*super().get_training_callbacks(training_callback_attributes), callback]

    def _before_step(self, trainer: StageHost, step: int) -> None:
        self._restore_randomness()
        request = self.controls.read(editing=step >= trainer.plan.first_edit)
        if request.reset:
            self.datamanager.reset_images()
        if step < trainer.plan.first_edit:
            return
        if not self._editing:
            self._begin_editing(trainer, step)
        due = trainer.plan.round_is_due(step, edit_every=self.config.edit_every)
        if request.edit_now or (due and not request.paused):
            self._edit(request, trainer, step)
        elif self.progress.last_round == step - 1:
            progress.forget_last_step()

    def _begin_editing(self, trainer: StageHost, step: int) -> None:
        self._editing = True
        self.progress.first_edit = trainer.plan.first_edit
        if step == trainer.plan.first_edit:
            trainer.finish_source(step)
        self.datamanager.begin_editing()
        self.model.begin_editing(patch_size=self.config.datamanager.edit_patch_size)
        trainer.count_from(step=trainer.plan.first_edit)

    def _edit(self, request: EditRequest, trainer: StageHost, step: int) -> None:
        """Edit the next views and train on them from now on."""
        began = perf_counter()
        index = self.progress.rounds
        generator = torch.Generator().manual_seed(1_000_003 * self.config.seed + index)
        views, waiting = draw_views(
            self.progress.waiting,
            count=self.config.edit_views,
            total=self.datamanager.num_views,
            generator=generator,
        )
        photographs = {view: self._photograph01(view) for view in views}
        edited = rounds.edit_views(
            self._prior.get(),
            photographs,
            {view: self._start01(view, photographs[view]) for view in views},
            update=self.config.update,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            settings=request.settings,
            denoising_steps=self.config.denoising_steps,
            keep_detail=self.config.keep_detail,
            generator=generator,
            progress=f"editing round {index}",
        )
        self.datamanager.set_edited({view: edit.image for view, edit in edited.edits.items()})
        before = self.progress
        report = self._report_is_due(request, step)
        self.progress = checkpoint.EditProgress(
            first_edit=trainer.plan.first_edit,
            rounds=index + 1,
            last_round=step,
            waiting=waiting,
            evaluations=before.evaluations + edited.evaluations,
            last_report=step if report else before.last_report,
        )
        metrics = round_metrics(
            edited.edits,
            seconds=perf_counter() - began,
            evaluations=edited.evaluations,
            evaluations_before=before.evaluations,
        )
        writer.put_dict(name="Edit Round", scalar_dict=metrics, step=step)
        if report:
            self._report(edited.edits, request, trainer, step, metrics=metrics)

    def _report_is_due(self, request: EditRequest, step: int) -> bool:
        """Every round's, but of in2n's many those that were asked for and one now and then."""
        last = self.progress.last_report
        often = self.config.update != "in2n" or request.edit_now
        return often or last is None or step - last >= REPORT_EVERY

    def _report(
        self,
        edits: Mapping[int, rounds.ViewEdit],
        request: EditRequest,
        trainer: StageHost,
        step: int,
        *,
        metrics: Mapping[str, float],
    ) -> None:
        path = trainer.base_dir / "rounds" / f"round_{self.progress.rounds - 1:03d}.png"
        save_round(path, edits, request, update=self.config.update, step=step, metrics=metrics)
        sheet = contact_sheet01(edits).permute(1, 2, 0)
        writer.put_image(name="Edit Round/sheet", image=sheet, step=step)
        self.controls.show_round(path)

    def _photograph01(self, view: int) -> Float[Tensor, "3 h w"]:
        image = self.datamanager.photograph01(view).to(self.device)
        return self.model.renderer_rgb.blend_background(image).permute(2, 0, 1)

    def _start01(self, view: int, photograph01: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h2 w2"]:
        prior = self._prior.get()
        height, width = photograph01.shape[1:]
        size = rounds.prior_size(
            (height, width),
            edge=self.config.edit_size or prior.preferred_size,
            multiple=prior.size_multiple,
        )
        update = self.config.update
        if update == "ip2p" or (update == "csd" and self.config.start == "original"):
            return resize01(photograph01[None], size)[0]
        cameras = self.datamanager.train_dataset.cameras
        return views.render_view(self.model, cameras, view, size=size)

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the scene: images, the rounds' order, random states."""
        return {
            "progress": asdict(self.progress),
            "edited": self.datamanager.edited,
            "random": checkpoint.random_state(),
            "sampler": checkpoint.sampler_state(self.model.proposal_sampler),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_extra_state` gave; random states at the first step only."""
        self.progress = checkpoint.EditProgress(**state["progress"])
        if self._trains:
            self.datamanager.set_edited(state["edited"])
            self._unrestored = state

    def _restore_randomness(self) -> None:
        """Set the random states as late as possible: setting up a run draws numbers too."""
        if self._unrestored is not None:
            checkpoint.restore_random_state(self._unrestored["random"])
            checkpoint.restore_sampler_state(
                self.model.proposal_sampler, self._unrestored["sampler"]
            )
            self._unrestored = None

    def load_pipeline(self, loaded_state: Mapping[str, Any], step: int) -> None:
        """Load a checkpoint of nerfacto's or of ours, strictly.

        Raises:
            EditError: If the scene does not fit the model.
        """
        self.model.update_to_step(step)
        load_scene(self.model, loaded_state)
        if OUR_STATE in loaded_state:
            self.set_extra_state(loaded_state[OUR_STATE])
