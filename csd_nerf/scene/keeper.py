"""Keeps what a scene was, so that it can go back there, or be edited on top of what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from csd_nerf.scene.controls import PastRound
from csd_nerf.scene.history import History, round_file
from csd_nerf.scene.protocol import LiveScene, Scene
from csd_nerf.scene.state import StageState, read_state

_SOURCE = "source"


class Keeper:
    """The unedited scene, and the snapshots of past rounds.

    Attributes:
        files: Where snapshots are kept; None keeps none.
        read_source: Makes a snapshot of the unedited scene of a resumed run; None if it can't be
            had.
    """

    files: History | None = None
    read_source: Callable[[], Mapping[str, Any]] | None = None

    def __init__(self, scene: Scene) -> None:
        self._scene = scene if isinstance(scene, LiveScene) else None
        self._source: Mapping[str, Any] | None = None
        self._kept: str | None = None

    @property
    def can_keep(self) -> bool:
        """Whether the scene can go back."""
        return self._scene is not None

    def require_live(self) -> LiveScene:
        """The scene.

        Raises:
            ValueError: If it can't go back.
        """
        if self._scene is None:
            raise ValueError(
                "Going back, previews and edits on top of edits need a LiveScene, got a scene "
                "without its methods; add them."
            )
        return self._scene

    def begin(self) -> None:
        """Keep the scene as the unedited one, when editing begins."""
        self._source = self.require_live().snapshot()
        self.keep_present(_SOURCE, self._source)

    def source(self) -> Mapping[str, Any]:
        """A snapshot of the unedited scene.

        Raises:
            ValueError: If there is none.
        """
        if self._source is None:
            if self.read_source is None:
                raise ValueError(
                    "The unedited scene must be kept when editing begins, got a run that began "
                    "without a user; begin anew."
                )
            self._source = self.read_source()
        return self._source

    def keep(self, base: str | None) -> None:
        """Let the unedited scene be that of the photographs, or a file's on which rounds build."""
        name = base or _SOURCE
        if self._kept != name:
            snapshot = self.source() if base is None else self._read(base)["scene"]
            self.keep_present(name, snapshot)

    def keep_present(self, name: str, snapshot: Mapping[str, Any]) -> None:
        """Let the unedited scene be what there is in this snapshot, whose file has this name."""
        self.require_live().keep_unedited(snapshot)
        self._kept = name

    def keep_end(
        self, state: StageState, names: Sequence[str], *, limit: int, base: str | None
    ) -> Mapping[str, Any] | None:
        """Keep what there is before a round: to go back to it, or to build on it.

        Args:
            state: The stage's state.
            names: Names of the photographs.
            limit: Number of past rounds that are kept; 0 keeps nothing to go back to.
            base: Name of the file that is built on; None if none is.

        Returns:
            The snapshot; None if none was wanted.

        Raises:
            ValueError: If there is no folder to build on what there is.
            OSError: If a file can't be written.
        """
        kept = state.history[-limit:] if limit and self.can_keep and self.files else []
        wanted = [round_file(past) for past in kept[-1:]] + ([] if base is None else [base])
        if not wanted:
            return None
        if self.files is None:
            raise ValueError(
                "Edits on top of edits need a run with a folder, got none; set the stage's "
                "keeper.files."
            )
        snapshot = self.require_live().snapshot()
        for name in wanted:
            content = {"scene": snapshot, "stage": state.as_dict(names), "views": [*names]}
            self.files.write(name, content)
        if kept:
            self.files.keep_rounds([round_file(past) for past in kept])
        return snapshot

    def go_back(self, state: StageState, index: int, *, names: Sequence[str]) -> StageState | None:
        """Make the scene what it was at the end of a round; -1 is the unedited scene.

        Args:
            state: The stage's state.
            index: Number of the round.
            names: Names of the photographs.

        Returns:
            The state of then, with the number of evaluations of now; None if the scene is at the
            end of this round.

        Raises:
            ValueError: If the round isn't kept. Nothing has changed.
        """
        scene, found, snapshot = self.require_live(), StageState(), None
        if index == -1:
            snapshot = self.source()
        else:
            past = next((past for past in state.history if past.index == index), None)
            if past is not None and past == state.history[-1] and not self.has(past):
                return None
            if past is None or not self.has(past):
                kept = [past.index for past in state.history if self.has(past)]
                raise ValueError(
                    f"The scene goes back to a round that is kept, got {index} of {kept}; choose "
                    "one of these, or -1 for the unedited scene."
                )
            content = self._read(round_file(past))
            found = read_state(content["stage"], before=content["views"], names=names)
            snapshot = content["scene"]
        self.keep(found.base)
        try:
            scene.restore(snapshot)
        except BaseException:
            self.keep(state.base)
            raise
        history = [past for past in state.history if past.index <= index]
        if self.files is not None:
            self.files.keep_rounds([round_file(past) for past in history])
        return dataclasses.replace(
            found,
            first_edit=state.first_edit,
            evaluations=state.evaluations,
            last_picture=None,
            owed=False,
            history=history,
        )

    def has(self, past: PastRound) -> bool:
        """Whether the scene can go back to the end of a round."""
        return self.files is not None and self.files.has(round_file(past))

    def snapshots(self) -> Iterator[Mapping[str, Any]]:
        """What `LiveScene.snapshot` returned, of all files."""
        if self.files is not None:
            for content in self.files.all():
                yield content["scene"]

    def forget_older_bases(self, base: str | None) -> None:
        """Delete scenes on which edits built, but for this one and those of past rounds."""
        if self.files is not None:
            named = {content["stage"]["base"] for content in self.files.all()}
            self.files.keep_bases({name for name in (*named, base) if name is not None})

    def take_over(self, state: StageState, other: History) -> None:
        """Make the files that a loaded state names, of its run's folder, files of this run.

        Raises:
            OSError: If a file can't be copied.
        """
        if self.files is None:
            return
        for name in [*(round_file(past) for past in state.history), state.base]:
            if name is not None:
                self.files.take_over(name, other)
        for content in self.files.all():
            if (base := content["stage"]["base"]) is not None:
                self.files.take_over(base, other)

    def _read(self, name: str) -> dict[str, Any]:
        if self.files is None:
            raise ValueError(f"A run needs a folder to go back by, got none for {name}.")
        return self.files.read(name)
