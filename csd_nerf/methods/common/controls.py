"""The editing stage's tab in nerfstudio's viewer.

The training thread calls `ViewerControls.read` and the `show_*` methods; buttons are heeded in
threads of viser. Neither waits for the other: presses are noted under a lock that is never held
for long, and a training step reads them once.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxtyping import Float
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from torch import Tensor
from viser import GuiEvent, ViserServer

from csd_nerf.bundled import notices_of_unknown
from csd_nerf.methods.common import markup
from csd_nerf.methods.common.desk import Desk
from csd_nerf.methods.common.edit_tab import SHOWN, EditTab, Numbers, add_edit_tab
from csd_nerf.methods.common.gui_elements import Element
from csd_nerf.methods.common.region_field import RegionField, problems_of_region
from csd_nerf.methods.common.sheet_window import open_sheet
from csd_nerf.methods.common.tab_status import NO_ROUNDS, Now, disabled, round_label, status
from csd_nerf.methods.common.tab_values import Presses, TabValues
from csd_nerf.scene.controls import Controls, EditRequest, PastRound, Progress


class ViewerControls(Controls):
    """`Controls` of the editing stage that the user changes in the viewer.

    Until a tab is opened, the request is that of the options.

    Attributes:
        paused: Whether rounds that are due wait.
    """

    def __init__(
        self, request: EditRequest, *, prior: str = "", numbers: Numbers | None = None
    ) -> None:
        """Take the initial request, which the tab shows.

        Args:
            request: The initial request.
            prior: Name of the prior. The tab says if it is a bundled one that doesn't know the
                prompt.
            numbers: What the request leaves open.
        """
        self._request, self._prior = request, prior
        self._numbers = numbers or Numbers()
        self._lock = threading.RLock()
        self._tab: EditTab | None = None
        self._paused = request.paused
        self._presses = Presses()
        self._is_editing = False
        self._progress = Progress("")
        self._failure = ""
        self._past: list[PastRound] = []
        self._rounds: dict[int, tuple[str, Path]] = {}
        self._lent: Any = None
        self._region_read = ""

    def open(self, server: ViserServer, desk: Desk, *, container: Any) -> None:
        """Add the tab's elements to a container of a viewer, and heed them from now on."""
        with self._lock, container:
            tab = add_edit_tab(server.gui, self._request, self._numbers)
            self._server, self._desk = server, desk
            self._values = TabValues(tab, self._request, self._numbers)
            self._region = RegionField(tab.region, tab.box, server.scene)
            self._tab = tab
        tab.prompt.on(lambda _: self.refresh())
        tab.paused.on(lambda _: self.refresh())
        tab.preview_button.on(lambda event: self._press(preview=self._seen_by(event)))
        tab.edit_button.on(lambda _: self._press(edit_now=True))
        tab.undo_button.on(lambda _: self._press(return_to=self._chosen_round()))
        tab.reset_button.on(lambda _: self._press(return_to=-1))
        tab.save_button.on(lambda _: self._press(save=True))
        tab.shown.on(lambda _: desk.show_output(SHOWN[tab.shown.value]))
        tab.history.on(lambda _: self.refresh())
        tab.sheet_button.on(self._open_sheet)
        self.show_history(self._past)

    def read(self, *, editing: bool) -> EditRequest:
        """Read all values, and forget the presses of buttons; see `Controls`."""
        tab = self._tab
        if tab is None:
            return dataclasses.replace(self._request, paused=self.paused)
        with self._lock:
            self._is_editing = editing
            now, self._presses = self._presses.split(editing=editing)
            pressed = now.edit_now or now.preview is not None
            request = dataclasses.replace(
                self._values.read(at_once=pressed),
                paused=self.paused,
                **{field.name: getattr(now, field.name) for field in _PRESSES},
            )
        self._show_notices(request)
        self.refresh()
        return request

    def end_callback(self) -> TrainingCallback:
        """The callback that brings the tab up to date when training has ended."""

        def refresh(step: int) -> None:
            del step
            self.refresh()

        where = [TrainingCallbackLocation.AFTER_TRAIN]
        return TrainingCallback(where, func=refresh, update_every_num_iters=1)

    @contextmanager
    def lending(self, lock: Any) -> Iterator[None]:
        """Between progress reports of this context, let the viewer render.

        Args:
            lock: What keeps training and rendering apart, held by this thread.
        """
        self._lent = lock
        try:
            yield
        finally:
            self._lent = None

    @property
    def paused(self) -> bool:
        """Whether rounds that are due wait."""
        return self._paused if self._tab is None else self._tab.paused.value

    @paused.setter
    def paused(self, value: bool) -> None:
        self._paused = value
        if self._tab is not None:
            self._tab.paused.show(value=value)
            self.refresh()

    def show_progress(self, progress: Progress) -> None:
        """Show what the stage is doing, and let the viewer render meanwhile."""
        if self._tab is None:
            return
        self._progress = progress
        self.refresh()
        lock = self._lent
        if lock is not None and self._server.get_clients():
            lock.release()
            # Without a pause this thread would have the lock again before any other.
            time.sleep(0.002)
            lock.acquire()

    def show_failure(self, text: str) -> None:
        """Show what failed, in words; an empty text takes the message back."""
        self._failure = text
        self.refresh()

    def show_history(self, rounds: Sequence[PastRound]) -> None:
        """Show the rounds that can be returned to."""
        with self._lock:
            self._past = list(rounds)
            tab = self._tab
            if tab is None:
                return
            labels = [round_label(past) for past in reversed(self._past)]
            # The last round is what there is now.
            wanted = labels[min(1, len(labels) - 1)] if labels else "-"
            tab.history.show(options=labels or ["-"], value=wanted, visible=bool(labels))
            indices = {past.index for past in self._past}
            self._rounds = {n: shown for n, shown in self._rounds.items() if n in indices}
            self._show_last_round()
        self.refresh()

    def show_preview(
        self, before01: Float[Tensor, "3 h w"], after01: Float[Tensor, "3 h w"]
    ) -> None:
        """Show what a preview's camera saw, and its edit."""
        if self._tab is None:
            return
        pictures = (markup.picture_data(picture, edge=512) for picture in (before01, after01))
        self._tab.preview.show(markdown=markup.pair("", *pictures))
        self._tab.preview_folder.show(visible=True)

    def show_round(
        self,
        index: int,
        pairs: Sequence[tuple[str, Tensor, Tensor]],
        sheet: Path,
        *,
        title: str,
    ) -> None:
        """Show views of the last round before and after.

        Args:
            index: Number of the round.
            pairs: Names of views, their photographs and their edits in [0, 1].
            sheet: The contact sheet of all views.
            title: What was edited.
        """
        if self._tab is None:
            return
        shown = [
            markup.pair(name, *(markup.picture_data(picture) for picture in pictures))
            for name, *pictures in pairs
        ]
        with self._lock:
            self._rounds[index] = (markup.stacked([markup.text(title), *shown]), sheet)
            self._show_last_round()

    def _show_last_round(self) -> None:
        """Show the last of the rounds that were not undone."""
        assert self._tab is not None
        if self._rounds:
            self._tab.last_round.show(markdown=self._rounds[max(self._rounds)][0])
        self._tab.round_folder.show(visible=bool(self._rounds))

    def notices(self, request: EditRequest) -> list[str]:
        """One line for each prompt of a request that the prior is known not to know."""
        return notices_of_unknown(self._prior, (request.prompt, request.negative_prompt))

    def refresh(self) -> None:
        """Bring buttons and the status up to date."""
        tab = self._tab
        if tab is None:
            return
        with self._lock:
            now = Now(
                progress=self._progress,
                is_editing=self._is_editing,
                edit_asked=self._presses.edit_now,
                preview_asked=self._presses.preview is not None,
                return_asked=self._presses.return_to is not None,
                save_asked=self._presses.save,
                waits_for=self._desk.waits_for(),
                failure=self._failure,
                can_undo=self._chosen_round() not in (None, self._present_round()),
            )
            for name, is_off in disabled(now).items():
                getattr(tab, name).show(disabled=is_off)
            tab.status.show(markdown=status(now))
            share = now.progress.share
            tab.bar.show(value=100 * min(max(share or 0.0, 0.0), 1.0), visible=share is not None)
            tab.history_note.show(
                markdown=markup.text(NO_ROUNDS, tone="quiet"), visible=not self._past
            )
            tab.source.show(visible=self._is_new_prompt(tab.prompt.value))
            tab.shown.show(disabled=not self._is_editing)

    def _press(self, **presses: Any) -> None:
        with self._lock:
            if None in presses.values():
                return
            self._presses = dataclasses.replace(self._presses, **presses)
        self.refresh()

    def _seen_by(self, event: GuiEvent) -> Any:
        return None if event.client is None else self._desk.camera(event.client)

    def _is_new_prompt(self, prompt: str) -> bool:
        return bool(self._past) and prompt.strip() != self._past[-1].prompt.strip()

    def _present_round(self) -> int | None:
        return self._past[-1].index if self._past else None

    def _chosen_round(self) -> int | None:
        assert self._tab is not None
        chosen = self._tab.history.value
        return next((past.index for past in self._past if round_label(past) == chosen), None)

    def _show_notices(self, request: EditRequest) -> None:
        assert self._tab is not None
        _warn(self._tab.notice, self.notices(request))
        if request.region != self._region_read:
            self._region_read = request.region
            _warn(self._tab.region_notice, problems_of_region(request.region))

    def _open_sheet(self, event: GuiEvent) -> None:
        if self._rounds and event.client is not None:
            open_sheet(event.client, self._rounds[max(self._rounds)][1])


_PRESSES = dataclasses.fields(Presses)


def _warn(element: Element, lines: Sequence[str]) -> None:
    """Show lines in an element, which is hidden if there are none."""
    shown = [markup.text(f"{line.rstrip('.')}.", tone="warning") for line in lines]
    element.show(markdown=markup.stacked(shown), visible=bool(lines))
