"""The reporter of the command line: a progress bar on stderr, and files beside the output."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any

from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from csd_nerf.adapters.reporter import State
from csd_nerf.adapters.run_files import RunFiles
from csd_nerf.core.ranks import ALONE, Ranks

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_CLOCK_SECONDS = 2.0


@contextmanager
def byte_bar(label: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show how much of a file is read or written, once that takes more than a second.

    Args:
        label: What is done.
        shown: Whether there is a bar at all.

    Yields:
        A function that gets the bytes done, and those of the file; 0 if that isn't known.
    """
    shape: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
    with tqdm(desc=label, delay=1, leave=False, disable=not shown, file=sys.stderr, **shape) as bar:

        def told(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        yield told


@contextmanager
def clock(label: str, *, shown: bool = True) -> Iterator[None]:
    """Show how long the block takes, every other second, for work that can't tell how far it is."""
    ended = Event()
    layout = "{desc} ... {elapsed}"
    # Gone at the end, so that an error is still told in one line.
    shape: dict[str, Any] = {"bar_format": layout, "leave": False}
    with tqdm(desc=label, disable=not shown, file=sys.stderr, **shape) as bar:

        def tick() -> None:
            while not ended.wait(_CLOCK_SECONDS):
                bar.refresh()

        thread = Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class FileReporter:
    """Shows a progress bar, and saves state and preview, while one input is edited.

    Use it as a context manager. Within it, the first Ctrl-C stops the run at the end of the current
    unit of work, after its state is saved; a second Ctrl-C stops at once. In a stage that saves no
    state the first stops at once. SIGTERM is taken for Ctrl-C.

    If ranks share the work, all of them report. Rank 0 reads and writes the files; a signal to one
    rank stops all at the end of the unit, whether or not its state is saved, since elsewhere its
    calls wouldn't meet those of the others. torchrun repeats a signal at once, so that a second one
    is ignored.
    """

    def __init__(
        self,
        files: RunFiles,
        *,
        resuming: bool,
        save_every: int,
        preview_every: int,
        label: str = "",
        ranks: Ranks = ALONE,
        launched: bool = False,
    ) -> None:
        """Prepare; writes nothing yet.

        Args:
            files: Paths of state and preview.
            resuming: Whether to resume from the saved state.
            save_every: Units of work between saved states; 0 saves none.
            preview_every: Units of work between previews; 0 makes none.
            label: Prefix of all output, to tell several inputs apart.
            ranks: The ranks that share the work on this input.
            launched: Whether torchrun started this process, maybe for an input of its own.
        """
        self.resuming = resuming
        self.notices: list[str] = []
        """The notices that the user was given."""
        self._files = files
        self._save_every = save_every
        self._preview_every = preview_every
        self._label = label
        self._ranks = ranks
        self._launched = launched
        self._bar: tqdm | None = None
        self._earlier_seconds = 0.0
        self._began = monotonic()
        self._stoppable = False
        self._stop = False
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> FileReporter:
        """Start the clock and take over Ctrl-C."""
        self._began = monotonic()
        if not self.resuming and self._ranks.is_first:
            self._files.state.unlink(missing_ok=True)
        for number in _STOPPING:
            self._handlers_before[number] = signal.signal(number, self._interrupted)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the handlers of the signals, and close the bar."""
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, including the interrupted run that it resumes."""
        return self._earlier_seconds + monotonic() - self._began

    def restored(self) -> State | None:
        """The state that the interrupted run saved last."""
        if not self.resuming:
            return None
        state, self._earlier_seconds = self._ranks.from_first(self._files.load_state)
        return state

    def begin(self, label: str, total: int, *, done: int = 0) -> None:
        """Start a new bar."""
        if self._bar is not None:
            self._bar.close()
        self._stoppable = False
        self._bar = tqdm(
            desc=self._label + label,
            total=total,
            initial=done,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    @contextmanager
    def bytes(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Show a `byte_bar`, in rank 0; it asks no other rank anything."""
        if self._bar is not None:
            self._bar.close()
        with byte_bar(self._label + label, shown=self._ranks.is_first) as told:
            yield told

    def tick(
        self,
        done: int,
        *,
        state: Callable[[], State] | None = None,
        preview: Callable[[], UInt8[Tensor, "h w 3"]] | None = None,
    ) -> None:
        """Move the bar; save state and preview when due.

        Raises:
            KeyboardInterrupt: If Ctrl-C was pressed, after the state is saved.
        """
        bar = self._bar
        assert bar is not None, "begin comes before tick"
        bar.update(done - bar.n)
        self._stop = self._ranks.any(self._stop)
        last = done == bar.total
        if state is not None and self._save_every:
            self._stoppable = not last
            if self._stop or last or done % self._save_every == 0:
                found, seconds = state(), self.seconds
                save = partial(self._files.save_state, found, done=done, seconds=seconds)
                self._ranks.first_does(save)
        if self._stop:
            raise KeyboardInterrupt
        if preview is not None and self._preview_every and done % self._preview_every == 0:
            self._ranks.first_does(partial(self._files.save_preview, preview()))

    def note(self, text: str) -> None:
        """Print a notice once, as a line that starts with `note:`, and keep it for the record."""
        if text not in self.notices:
            self.notices.append(text)
            tqdm.write(f"note: {self._label}{text}", file=sys.stderr)

    def _interrupted(self, *_: object) -> None:
        """Handle a signal; a run can't be resumed from the middle of an iteration."""
        shares = self._ranks.count > 1
        if not shares and (not self._stoppable or (self._stop and not self._launched)):
            raise KeyboardInterrupt
        self._stop = True
        if self._launched:
            return
        tqdm.write("Stopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr)
