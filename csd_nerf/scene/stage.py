"""The editing stage: edits views of a scene in rounds between training steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.core.structure import depth_structure
from csd_nerf.media.pixels import resize01, to_01, to_bytes
from csd_nerf.priors import Prior
from csd_nerf.priors.halving import is_out_of_memory
from csd_nerf.scene.controls import Controls, EditRequest, FixedControls
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.plan import (
    StepPlan,
    draw_views,
    plan_steps,
)
from csd_nerf.scene.protocol import Scene
from csd_nerf.scene.report import RoundReport, round_metrics
from csd_nerf.scene.rounds import Round, edit_views, prior_size

PICTURE_EVERY = 100
"""Least number of training steps between two contact sheets of Instruct-NeRF2NeRF's many rounds."""


@dataclass(frozen=True)
class ReferenceView:
    """An edited view that is shown to the model beside the photographs of others.

    Attributes:
        prompt: The instruction by which it was edited.
        negative_prompt: What replaced the empty text.
        image: The edit, at the size at which it was made.
    """

    prompt: str
    negative_prompt: str
    image: UInt8[Tensor, "h w 3"]

    def answers(self, request: EditRequest) -> bool:
        """Whether this is an edit by the request's texts."""
        asked = (request.prompt, request.negative_prompt)
        return asked == (self.prompt, self.negative_prompt)


@dataclass
class StageState:
    """Progress of the editing stage.

    Attributes:
        first_edit: The first step of the editing stage; None before it begins.
        rounds: Number of rounds done.
        last_round: The step that followed the last round; None before the first round.
        waiting: Views that have not been drawn in the current order, in this order.
        evaluations: Number of model evaluations of all rounds.
        last_picture: The step that followed the last round with a contact sheet; None if there was
            none.
        reference: The edited view that is shown beside the others; None before it is edited.
    """

    first_edit: int | None = None
    rounds: int = 0
    last_round: int | None = None
    waiting: list[int] = field(default_factory=list)
    evaluations: int = 0
    last_picture: int | None = None
    reference: ReferenceView | None = None


class RoundError(Exception):
    """A request or a round that failed, and changed nothing; its cause is the error.

    The message is one line.
    """


class EditingStage:
    """Edits a scene's images round by round, while the caller trains the scene.

    To resume a run, call `load_state_dict` first. Then call `plan_run` once, and `before_step`
    before every training step. Call it outside of autocast: half precision is too coarse for the
    kernel. The docstring of `Scene` has an example.

    Attributes:
        plan: When editing begins and when training ends; set by `plan_run`.
        state: Progress of the stage.
        notices: What a loaded run had that this one lacks, for the user.
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
            scene: The scene to edit.
            options: Options of the stage.
            prior: Returns the editing model; first called in the first round.
            controls: Source of the user's requests; None always takes them from the options.
        """
        self._scene, self._options, self._prior = scene, options, prior
        self._controls = controls or FixedControls(options.request())
        self._is_editing = False
        self.state = StageState()
        self.notices: list[str] = []

    def plan_run(self, *, first_step: int = 0, source_is_trained: bool = False) -> StepPlan:
        """Decide when editing begins and when training ends.

        Args:
            first_step: The first step of this run: 0, or the one after the loaded checkpoint's.
            source_is_trained: Whether the loaded scene can be edited without further training.
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
        """Do everything that is due before a training step.

        At the first step of the editing stage, `Scene.begin_editing` is called. If the user asks
        for a reset, the scene gets its photographs back. If a round is due or asked for, it is
        done.

        Returns:
            The report of the round; None if there was no round.

        Raises:
            RoundError: If a request or a round fails. Training can go on, and a later round may
                succeed.
        """
        editing = step >= self.plan.first_edit
        if editing and not self._is_editing:
            self._is_editing = True
            self.state.first_edit = self.plan.first_edit
            self._scene.begin_editing(is_resumed=step > self.plan.first_edit)
        with _round_errors():
            return self._do(step, editing=editing)

    def _do(self, step: int, *, editing: bool) -> RoundReport | None:
        """Do what the user asks for at this step, and the round that is due."""
        request = self._controls.read(editing=editing)
        if request.return_to == -1:
            self._scene.reset_images()
            self.state.reference = None
        if not editing:
            return None
        due = self.plan.round_is_due(step, edit_every=self._options.rounds.every)
        if request.edit_now or (due and not request.paused):
            return self._edit_round(request, step)
        return None

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, in types that `torch.load(weights_only=True)` reads."""
        names = self._names()
        stage = dataclasses.asdict(self.state)
        stage["waiting"] = [names[view] for view in self.state.waiting]
        return {"stage": stage, "views": names, "scene": self._scene.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`.

        Photographs that are new are edited in the order of views that goes on.
        """
        names, stage = self._names(), dict(state["stage"])
        # Earlier releases saved no names.
        before = state.get("views", names)
        view_of = {name: view for view, name in enumerate(names)}
        new = [view for view, name in enumerate(names) if name not in {*before}]
        waiting = stage["waiting"]
        if "views" in state:
            waiting = [view_of[name] for name in waiting if name in view_of]
        else:
            waiting = [view for view in waiting if view < len(names)]
        if stage["rounds"]:
            waiting = [*waiting, *new]
        if stage.get("reference") is not None:
            stage["reference"] = ReferenceView(**stage["reference"])
        self.state = StageState(**{**stage, "waiting": waiting})
        self._scene.load_state_dict(state["scene"])
        if gone := [name for name in before if name not in view_of]:
            self.notices.append(
                f"{len(gone)} of the loaded run's photographs are gone, {gone[0]} first; so are "
                "their edits"
            )
        if new:
            self.notices.append(
                f"{len(new)} photographs are new since the loaded run, {names[new[0]]} first; they "
                "are unedited so far"
            )

    def _names(self) -> list[str]:
        return [self._scene.name(view) for view in range(self._scene.num_views)]

    def _edit_round(self, request: EditRequest, step: int) -> RoundReport:
        """Edit the next views and let the scene train on them from now on."""
        began = perf_counter()
        options, state = self._options, self.state
        generator = torch.Generator().manual_seed(1_000_003 * options.seed + state.rounds)
        views, waiting = draw_views(
            state.waiting,
            count=options.rounds.views,
            total=self._scene.num_views,
            generator=generator,
        )
        done = Round({}, 0)
        # A resumed run may have been told to go on without.
        reference = state.reference if options.reference_views else None
        if options.reference_views and (reference is None or not reference.answers(request)):
            done, views = self._edit_views(views[:1], request, generator), views[1:]
            (first,) = done.edits.values()
            image = to_bytes(first.edited01).cpu()
            reference = ReferenceView(request.prompt, request.negative_prompt, image)
        if views:
            done += self._edit_views(views, request, generator, reference=reference)
        self._scene.set_edited({view: edit.image for view, edit in done.edits.items()})
        seconds = perf_counter() - began
        report = self._remember(done, request, step, waiting, seconds=seconds)
        self.state.reference = reference
        return report

    def _edit_views(
        self,
        views: Sequence[int],
        request: EditRequest,
        generator: torch.Generator,
        *,
        reference: ReferenceView | None = None,
    ) -> Round:
        """Edit views, beside the reference if there is one."""
        options = self._options
        if options.repeat_noise:
            generator.manual_seed(1_000_003 * options.seed - 1)
        photographs01 = {view: self._scene.photograph01(view) for view in views}
        begins = {view: self._begin(view, photographs01[view]) for view in views}
        if reference is not None:
            prompt = f"{request.prompt.rstrip(' .')}. {options.reference_prompt}"
            request = dataclasses.replace(request, prompt=prompt)
        return edit_views(
            self._prior(),
            photographs01,
            {view: start01 for view, (start01, _) in begins.items()},
            controls01={view: c for view, (_, c) in begins.items() if c is not None},
            reference01=None if reference is None else to_01(reference.image),
            request=request,
            update=options.update,
            denoising_steps=options.denoising_steps,
            noise_range=options.noise_range,
            keep_detail=options.keep_detail,
            generator=generator,
            progress=f"editing round {self.state.rounds}",
        )

    def _begin(
        self, view: int, photograph01: Float[Tensor, "3 H W"]
    ) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"] | None]:
        """What the edit of a view starts from, and its rendered structure, if that is followed.

        Both have the size at which the view is edited.
        """
        prior, options = self._prior(), self._options
        size = prior_size(
            (photograph01.shape[1], photograph01.shape[2]),
            edge=options.edit_size or prior.preferred_size,
            multiple=prior.size_multiple,
        )
        from_photograph = options.update == "ip2p" or (
            options.update == "csd" and options.start == "original"
        )
        wants_depth = options.control == "depth"
        if from_photograph and not wants_depth:
            return resize01(photograph01[None], size)[0], None
        render = self._scene.render(view, size=size)
        start01 = resize01(photograph01[None], size)[0] if from_photograph else render.image01
        if not wants_depth:
            return start01, None
        # Estimates of depth, on which ControlNets were trained, are along the camera's axis.
        return start01, depth_structure(render.depth if render.axial is None else render.axial)

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


@contextmanager
def _round_errors() -> Iterator[None]:
    """Turn what a number out of range, a file or the memory can cause into a `RoundError`."""
    try:
        yield
    except (ValueError, ArithmeticError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        lines = str(error).split() or [type(error).__name__]
        raise RoundError(" ".join(lines)) from error
