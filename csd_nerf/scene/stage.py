"""The editing stage: between training steps, views are edited and handed back to the scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.settings import EditSettings
from csd_nerf.media.pixels import resize01
from csd_nerf.priors import Prior
from csd_nerf.scene.controls import Controls, EditRequest, FixedControls
from csd_nerf.scene.plan import StepPlan, draw_views, plan_steps
from csd_nerf.scene.protocol import Scene
from csd_nerf.scene.report import RoundReport, round_metrics
from csd_nerf.scene.rounds import Round, edit_views, prior_size
from csd_nerf.scene.updates import Update

PICTURE_EVERY = 100
"""Training steps between two contact sheets of Instruct-NeRF2NeRF's many small rounds."""


@dataclass
class StageOptions:
    """What is edited, when and how."""

    prompt: str = ""
    """The instruction, such as "turn it into a sepia photograph"."""
    negative_prompt: str = ""
    """What the edit should keep away from; takes the place of the empty text."""
    source_prompt: str = ""
    """What the photographs show, such as "a photo of a man". The residual dds needs it; `prompt`
    then describes the result."""
    source_steps: int = 30000
    """Steps of training on the photographs before editing. A loaded run of another method counts
    as trained."""
    edit_steps: int = 15000
    """Steps of training after editing has begun."""
    edit_every: int = 2000
    """Training steps between two editing rounds; the first comes at once."""
    edit_views: int = 16
    """Views that are edited together in a round."""
    update: Update = "csd"
    """How a round edits its views. csd: together, by Collaborative Score Distillation. in2n: each
    render of the scene is noised and denoised by itself, as in Instruct-NeRF2NeRF, whose paper
    takes edit_views = 1 and edit_every = 10. ip2p: each by InstructPix2Pix from pure noise. The
    last two use only text_scale, image_scale and max_batch of `edit`."""
    denoising_steps: int = 20
    """Sampling steps a view of in2n and ip2p."""
    edit: EditSettings = field(default_factory=EditSettings)
    """How a round optimises its views."""
    edit_size: int | None = None
    """Views are edited at about the area of a square with this edge in pixels; None takes the size
    that the prior was trained on."""
    start: Literal["render", "original"] = "render"
    """Whether a round of csd starts from renders of the scene as it is, or from the photographs;
    in2n always starts from renders, ip2p from neither."""
    keep_detail: bool = False
    """Whether photographs keep their fine detail: only the change is enlarged and added to them."""
    seed: int = 0
    """Seed of the rounds: the order of the views and the noise."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("edit_steps", "edit_every", "edit_views", "denoising_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} needs to be at least 1, got {getattr(self, name)}.")
        if self.source_steps < 0:
            raise ValueError(f"source_steps can't be negative, got {self.source_steps}.")

    def request(self) -> EditRequest:
        """What is asked for as long as the user changes nothing."""
        return EditRequest(self.prompt, self.negative_prompt, self.source_prompt, self.edit)


@dataclass
class StageState:
    """Where the editing stage stands.

    Attributes:
        first_edit: The step at which it began; None before.
        rounds: Rounds done.
        last_round: The step before which the last round came; None before the first.
        waiting: Views that have not had their turn yet, in the order in which they come.
        evaluations: Model evaluations of all rounds.
        last_picture: The step before which the last round came that wanted a contact sheet.
    """

    first_edit: int | None = None
    rounds: int = 0
    last_round: int | None = None
    waiting: list[int] = field(default_factory=list)
    evaluations: int = 0
    last_picture: int | None = None


class EditingStage:
    """Edits a scene's images round by round, while the caller trains the scene.

    `Scene` shows the loop around it. Call `load_state_dict` first if a run is resumed, then
    `plan_run` once, and `before_step` before every training step, outside of autocast: half
    precision is too coarse for the kernel.

    Attributes:
        plan: When editing begins and when training ends.
        state: Where the stage stands.
    """

    plan: StepPlan

    def __init__(
        self,
        scene: Scene,
        options: StageOptions,
        *,
        prior: Callable[[], Prior],
        controls: Controls | None = None,
    ) -> None:
        """Set up a stage that has not begun.

        Args:
            scene: What is edited.
            options: What is wanted.
            prior: Gives the editing model; first called by the first round.
            controls: Where to read the user's wishes; None keeps to the options.
        """
        self._scene, self._options, self._prior = scene, options, prior
        self._controls = controls or FixedControls(options.request())
        self._is_editing = False
        self.state = StageState()

    def plan_run(self, *, first_step: int = 0, source_is_trained: bool = False) -> StepPlan:
        """Decide when editing begins and when training ends.

        Args:
            first_step: The first step of this run: 0, or the one after the loaded checkpoint's.
            source_is_trained: Whether the scene that was loaded needs no source stage.
        """
        self.plan = plan_steps(
            first_step=first_step,
            first_edit=self.state.first_edit,
            source_is_trained=source_is_trained,
            source_steps=self._options.source_steps,
            edit_steps=self._options.edit_steps,
        )
        return self.plan

    def before_step(self, step: int) -> RoundReport | None:
        """Do what is due before a training step.

        This puts photographs back if the user asks for it, lets the scene begin the editing stage
        when its time has come, and edits a round if one is due or asked for.

        Returns:
            The round, if there was one.
        """
        editing = step >= self.plan.first_edit
        request = self._controls.read(editing=editing)
        if request.reset:
            self._scene.reset_images()
        if not editing:
            return None
        if not self._is_editing:
            self._is_editing = True
            self.state.first_edit = self.plan.first_edit
            self._scene.begin_editing(is_resumed=step > self.plan.first_edit)
        due = self.plan.round_is_due(step, edit_every=self._options.edit_every)
        if request.edit_now or (due and not request.paused):
            return self._edit_round(request, step)
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, in types that `torch.load(weights_only=True)` reads."""
        return {"stage": dataclasses.asdict(self.state), "scene": self._scene.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.state = StageState(**state["stage"])
        self._scene.load_state_dict(state["scene"])

    def _edit_round(self, request: EditRequest, step: int) -> RoundReport:
        """Edit the next views and let the scene train on them from now on."""
        began = perf_counter()
        options, state = self._options, self.state
        generator = torch.Generator().manual_seed(1_000_003 * options.seed + state.rounds)
        views, waiting = draw_views(
            state.waiting,
            count=options.edit_views,
            total=self._scene.num_views,
            generator=generator,
        )
        photographs01 = {view: self._scene.photograph01(view) for view in views}
        done = edit_views(
            self._prior(),
            photographs01,
            {view: self._start01(view, photographs01[view]) for view in views},
            request=request,
            update=options.update,
            denoising_steps=options.denoising_steps,
            keep_detail=options.keep_detail,
            generator=generator,
            progress=f"editing round {state.rounds}",
        )
        self._scene.set_edited({view: edit.image for view, edit in done.edits.items()})
        return self._remember(done, request, step, waiting, seconds=perf_counter() - began)

    def _start01(self, view: int, photograph01: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 h w"]:
        """Where the edit of a view starts, at the size at which it is edited."""
        prior, options = self._prior(), self._options
        size = prior_size(
            (photograph01.shape[1], photograph01.shape[2]),
            edge=options.edit_size or prior.preferred_size,
            multiple=prior.size_multiple,
        )
        if options.update == "ip2p" or (options.update == "csd" and options.start == "original"):
            return resize01(photograph01[None], size)[0]
        return self._scene.render(view, size=size).image01

    def _remember(
        self, done: Round, request: EditRequest, step: int, waiting: list[int], *, seconds: float
    ) -> RoundReport:
        before = self.state
        last = before.last_picture
        wants_picture = (
            self._options.update != "in2n"
            or request.edit_now
            or last is None
            or step - last >= PICTURE_EVERY
        )
        self.state = dataclasses.replace(
            before,
            rounds=before.rounds + 1,
            last_round=step,
            waiting=waiting,
            evaluations=before.evaluations + done.evaluations,
            last_picture=step if wants_picture else last,
        )
        return RoundReport(
            index=before.rounds,
            step=step,
            request=request,
            update=self._options.update,
            edits=done.edits,
            names=[self._scene.name(view) for view in done.edits],
            metrics=round_metrics(
                done.edits,
                seconds=seconds,
                evaluations=done.evaluations,
                evaluations_before=before.evaluations,
            ),
            wants_picture=wants_picture,
        )
