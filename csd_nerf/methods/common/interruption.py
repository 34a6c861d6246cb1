"""Ends a run of ns-train at Ctrl-C or SIGTERM, so that another run can go on with it."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer

from csd_nerf.methods.common.errors import INTERRUPTED

_LOADING = ("--load-dir", "--load-step", "--load-checkpoint")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Lets the present step of a run end at the first signal, and stops at once at the second."""

    def __init__(
        self,
        command: str,
        save: Callable[[int], None],
        *,
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare for a run.

        Args:
            command: Name of the command, which begins messages.
            save: Saves a checkpoint after this step.
            finish: Writes what a run ends with, after the checkpoint.
        """
        self._command, self._save, self._finish = command, save, finish
        self._asked = self._at_once = False
        self._last_step: int | None = None

    def callback(self) -> TrainingCallback:
        """The callback of `after_step`, to run after all others of a step."""
        return TrainingCallback(
            where_to_run=[TrainingCallbackLocation.AFTER_TRAIN_ITERATION],
            update_every_num_iters=1,
            func=self.after_step,
        )

    def after_step(self, step: int) -> None:
        """Note that a step is done.

        Raises:
            KeyboardInterrupt: If a signal has come.
        """
        self._last_step = step
        if self._asked:
            raise KeyboardInterrupt

    @contextmanager
    def heeded(self, trainer: Trainer) -> Iterator[None]:
        """A context in which a signal ends the run of a trainer: saved, with exit status 130.

        A run that is finished, and only shown in the viewer, ends with exit status 0.
        """
        if current_thread() is not main_thread():
            # Python handles signals in the main thread only.
            yield
            return
        before = {n: signal.signal(n, lambda *_: self._note(trainer)) for n in _SIGNALS}
        try:
            yield
        except KeyboardInterrupt:
            self._end(trainer)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, trainer: Trainer) -> None:
        """Handle a signal, which may come in the midst of a step."""
        if trainer.training_state == "completed":
            raise SystemExit(0)
        self._at_once = self._asked
        self._asked = True
        waits = trainer.training_state == "paused" and not trainer.train_lock.locked()
        if self._at_once or waits:
            raise KeyboardInterrupt
        self._tell("stopping after this step; press Ctrl-C again to stop at once.")

    def _end(self, trainer: Trainer) -> None:
        try:
            if not self._at_once and self._last_step is not None:
                self._save(self._last_step)
                self._finish()
        except KeyboardInterrupt:
            pass
        folder = trainer.checkpoint_dir
        if any(folder.glob("*.ckpt")):
            again = command_that_goes_on(sys.argv, trainer.config.method_name, folder)
            self._tell(f"interrupted; go on with: {again}")
        else:
            self._tell("interrupted before anything was saved.")
        raise SystemExit(INTERRUPTED)

    def _tell(self, text: str) -> None:
        print(f"{self._command}: {text}", file=sys.stderr)


def command_that_goes_on(words: Sequence[str], method: str | None, checkpoints: Path) -> str:
    """The command line that goes on with a run from its last checkpoint.

    Args:
        words: The run's own command line, with the program first.
        method: The method's name, which its first argument is if ns-train was called.
        checkpoints: Folder of the run's checkpoints.
    """
    loading = ["--load-dir", str(checkpoints)]
    if list(words[1:2]) != [method]:
        return shlex.join(loading)
    kept, skips = [], False
    for word in words[2:]:
        if skips:
            skips = False
            continue
        name, _, value = word.partition("=")
        if name.replace("_", "-") in _LOADING:
            skips = not value
            continue
        kept.append(word)
    # Before all others, since options after a dataparser's name are the dataparser's.
    return shlex.join(["ns-train", words[1], *loading, *kept])
