"""The editing stage: edits views of a scene in rounds between training steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from csd_nerf.core.random_state import random_state_kept
from csd_nerf.media.regions import Segmenter
from csd_nerf.priors import Prior
from csd_nerf.scene.controls import Controls, EditRequest, FixedControls, PastRound
from csd_nerf.scene.editing import ViewEditor, ground_of
from csd_nerf.scene.faults import RequestError, RoundError, check_request, told_as
from csd_nerf.scene.inputs import Ground
from csd_nerf.scene.keeper import Keeper
from csd_nerf.scene.masks import SceneMasks
from csd_nerf.scene.options import StageOptions
from csd_nerf.scene.plan import StepPlan, draw_views, plan_steps
from csd_nerf.scene.progress import Task, Teller
from csd_nerf.scene.protocol import HoldsOutside, Scene
from csd_nerf.scene.regions import RegionFinder
from csd_nerf.scene.report import RoundReport, round_metrics
from csd_nerf.scene.rounds import Round
from csd_nerf.scene.state import ReferenceView, StageState, read_state

__all__ = ["EditingStage", "ReferenceView", "RequestError", "RoundError", "StageState"]

PICTURE_EVERY = 100
"""Least number of training steps between two contact sheets of Instruct-NeRF2NeRF's many rounds."""


class EditingStage:
    """Edits a scene's images round by round, while the caller trains the scene.

    To resume a run, call `load_state_dict` first. Then call `plan_run` once, and `before_step`
    before every training step. Call it outside of autocast: half precision is too coarse for the
    kernel. The docstring of `Scene` has an example.

    Attributes:
        plan: When editing begins and when training ends; set by `plan_run`.
        state: Progress of the stage.
        notices: What a loaded run had that this one lacks, for the user.
        is_live: Whether a user is there, whose requests may fail without ending the run, and who
            may want to go back. Then a `LiveScene` is asked to keep the unedited scene, and past
            rounds are kept in `keeper.files`.
        keeper: What the scene was. Its `files` and `read_source` may be set before editing begins.
        regions: Finds regions of the scene.
        save: Saves the scene before a step, and returns where to, in words; None if it can't be.
    """

    plan: StepPlan

    def __init__(
        self,
        scene: Scene,
        options: StageOptions,
        *,
        prior: Callable[[], Prior],
        controls: Controls | None = None,
        segmenter: Segmenter | None = None,
    ) -> None:
        """Set up a stage that has not begun.

        Args:
            scene: The scene to edit.
            options: Options of the stage.
            prior: Returns the editing model; first called in the first round.
            controls: Source of the user's requests; None always takes them from the options.
            segmenter: Finds a region that is given by a word; None loads the options' model.
        """
        self._scene, self._options = scene, options
        self._controls = controls or FixedControls(options.request())
        self._editor = ViewEditor(scene, options, prior)
        self.regions = RegionFinder(scene, options, prior, segmenter=segmenter)
        self._teller = Teller(self._controls.show_progress)
        self._is_editing = self._failed_when_due = False
        self.state = StageState()
        self.notices: list[str] = []
        self.is_live = False
        self._held: SceneMasks | None = None
        self.keeper = Keeper(scene)
        self.save: Callable[[int], str] | None = None

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
        """Do everything that is due before a training step, and tell the controls of it.

        At the first step of the editing stage, `Scene.begin_editing` is called. Then what the user
        asks for is done: going back, saving, a preview. If a round is due or asked for, it is done;
        one that is due while editing is paused is done when it goes on.

        Returns:
            The report of the round; None if there was no round.

        Raises:
            RequestError: If something that the user asked for fails, other than a round.
            RoundError: If a round fails, or the request can't be read. In both cases nothing has
                changed, training can go on, and a later request may succeed.
        """
        self._teller.begin_step()
        editing = step >= self.plan.first_edit
        if editing and not self._is_editing:
            self._begin(is_resumed=step > self.plan.first_edit)
        try:
            return self._do(step, editing=editing)
        except RoundError as error:
            self._teller.hold(str(error))
            raise
        finally:
            self._teller.end_step()

    def finish(self) -> None:
        """Tell that training has ended."""
        self._teller.hold(f"finished, {self.state.rounds} rounds")

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, in types that `torch.load(weights_only=True)` reads."""
        names = self._names()
        return {
            "stage": self.state.as_dict(names),
            "views": names,
            "scene": self._scene.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `state_dict`.

        Photographs that are new are edited in the order of views that goes on.
        """
        names, before = self._names(), state.get("views")
        self.state = read_state(state["stage"], before=before, names=names)
        self._scene.load_state_dict(state["scene"])
        before = names if before is None else before
        if gone := [name for name in before if name not in {*names}]:
            self.notices.append(
                f"{len(gone)} of the loaded run's photographs are gone, {gone[0]} first; so are "
                "their edits"
            )
        if new := [name for name in names if name not in {*before}]:
            self.notices.append(
                f"{len(new)} photographs are new since the loaded run, {new[0]} first; they are "
                "unedited so far"
            )

    def _names(self) -> list[str]:
        return [self._scene.name(view) for view in range(self._scene.num_views)]

    def _begin(self, *, is_resumed: bool) -> None:
        """Begin to edit; for a user or a region, keep the unedited scene."""
        self._is_editing = True
        self.state.first_edit = self.plan.first_edit
        self._scene.begin_editing(is_resumed=is_resumed)
        # A preview before may have found some.
        self.regions.forget()
        asked = self.is_live or bool(self._options.region.strip() or self.state.region.strip())
        if not asked or not self.keeper.can_keep:
            return
        try:
            with told_as(RequestError, "The unedited scene can't be shown", is_live=True):
                if is_resumed:
                    self.keeper.keep(self.state.base)
                else:
                    self.keeper.begin()
                self._hold_outside()
        except RequestError as error:
            if not self.is_live:
                raise
            # Editing itself needs no unedited scene.
            self._teller.hold(str(error))
            self.notices.append(str(error).rstrip("."))
        self._show_history()

    def _do(self, step: int, *, editing: bool) -> RoundReport | None:
        """Do what the user asks for at this step, and the round that is due."""
        every = self._options.rounds.every
        self.state.owed |= editing and self.plan.round_is_due(step, edit_every=every)
        with told_as(RoundError, is_live=self.is_live):
            request = self._controls.read(editing=editing)
        self.state.owed |= request.paused and self._failed_when_due
        self._failed_when_due = False
        if editing and request.return_to is not None:
            with told_as(RequestError, "The scene can't go back", is_live=self.is_live):
                self._return(request.return_to)
        if request.save:
            with told_as(RequestError, "The scene can't be saved", is_live=self.is_live):
                self._save(step)
        if request.preview is not None:
            with told_as(RequestError, "A preview failed", is_live=self.is_live):
                self._preview(request)
        if editing and (request.edit_now or (self.state.owed and not request.paused)):
            # If it fails, it is owed only when editing is paused and goes on.
            self._failed_when_due, self.state.owed = self.state.owed, False
            with told_as(RoundError, is_live=self.is_live):
                report = self._edit_round(request, step)
            self._failed_when_due = False
            return report
        waits = self.state.owed if request.paused and editing else None
        self._teller.train(self.plan, step, every=every, waits=waits)
        return None

    def _edit_round(self, request: EditRequest, step: int) -> RoundReport:
        """Edit the next views and let the scene train on them from now on."""
        began = perf_counter()
        check_request(request)
        options, state, keeper = self._options, self.state, self.keeper
        generator = self._editor.generator(request, state)
        ground, base = ground_of(request, state, step=step)
        if ground == "kept":
            keeper.keep(base)
        masks = self._find(request.region, ground, base)
        views, waiting = draw_views(
            state.waiting,
            count=options.rounds.views if request.views is None else request.views,
            total=self._scene.num_views,
            generator=generator,
            among=None if masks is None else masks.seen,
        )
        task = Task(self._teller, f"round {state.rounds}", views=len(views))
        task.say("rendering")
        ends = self.is_live and self._wants_picture(request, step)
        present = keeper.keep_end(
            state,
            self._names(),
            limit=options.history if ends else 0,
            base=base if ground == "present" else None,
        )
        done, reference = self._editor.edit(
            views, request, state, masks=masks, ground=ground, generator=generator, task=task
        )
        if ground == "present":
            assert present is not None
            assert base is not None
            keeper.keep_present(base, present)
        elif self.is_live and base != state.base:
            keeper.keep(base)
        self._scene.set_edited({view: edit.image for view, edit in done.edits.items()})
        seconds = perf_counter() - began
        report = self._remember(done, request, step, waiting, seconds=seconds)
        self.state = dataclasses.replace(self.state, reference=reference, base=base)
        self._hold_outside()
        self._show_history()
        return report

    def _hold_outside(self, *, anew: bool = False) -> None:
        """Let training change the last round's region alone."""
        if isinstance(self._scene, HoldsOutside):
            masks = self.regions.find(self.state.region, base=self.state.base)
            if anew or masks is not self._held:
                self._scene.hold_outside(masks)
            self._held = masks

    def _find(self, region: str, ground: Ground, base: str | None) -> SceneMasks | None:
        """The masks of a region, by the surfaces of the scene that a round edits."""
        if region.strip():
            self._teller.say(f"finding the region {region.strip()}")
        return self.regions.find(region, base=base, present=ground == "present")

    def _preview(self, request: EditRequest) -> None:
        """Edit what a camera sees as the next round would, and show it; nothing changes."""
        check_request(request)
        state, keeper, camera = self.state, self.keeper, request.preview
        task = Task(self._teller, "preview", views=1)
        task.say("rendering")
        ground, base = ground_of(request, state, step=-1)
        if ground == "present":
            base = state.base
        with random_state_kept():
            keeper.require_live()
            if self._is_editing:
                keeper.keep(base)
            try:
                masks = self._find(request.region, ground, base)
                done = self._editor.edit_seen(
                    camera, request, state, masks=masks, ground=ground, task=task
                )
            finally:
                if self._is_editing:
                    keeper.keep(state.base)
        self._controls.show_preview(done.source01, done.trained01)
        self._teller.hold("preview done")

    def _save(self, step: int) -> None:
        if self.save is None:
            raise ValueError("A run needs a folder to be saved in, got none; start one that has.")
        self._teller.say("saving")
        self._teller.hold(f"saved: {self.save(step)}")

    def _return(self, index: int) -> None:
        """Make the scene what it was at the end of a round; -1 is the unedited scene."""
        self._teller.say("going back")
        found = self.keeper.go_back(self.state, index, names=self._names())
        self.state = found or self.state
        # There may be other parameters now.
        self._hold_outside(anew=True)
        self._show_history()
        what = "the unedited scene" if index == -1 else f"the end of round {index}"
        self._teller.hold(f"back at {what}")

    def _show_history(self) -> None:
        """Show the rounds to which the scene can go back, and the last one, after which it is."""
        history = self.state.history
        self._controls.show_history(
            [past for past in history if past == history[-1] or self.keeper.has(past)]
        )

    def _wants_picture(self, request: EditRequest, step: int) -> bool:
        last = self.state.last_picture
        return (
            self._options.update != "in2n"
            or request.edit_now
            or last is None
            or step - last >= PICTURE_EVERY
        )

    def _remember(
        self, done: Round, request: EditRequest, step: int, waiting: list[int], *, seconds: float
    ) -> RoundReport:
        before = self.state
        wants_picture = self._wants_picture(request, step)
        report = RoundReport(
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
        past = PastRound(
            before.rounds, step, request.prompt, request.region, len(done.edits), seconds
        )
        self.state = dataclasses.replace(
            before,
            rounds=before.rounds + 1,
            last_round=step,
            waiting=waiting,
            evaluations=before.evaluations + done.evaluations,
            last_picture=step if wants_picture else before.last_picture,
            history=[*before.history, past] if wants_picture else before.history,
            prompt=request.prompt,
            region=request.region,
            chained=request.chain,
        )
        return report
