"""The job behind the command line: what it saves and shows lies beside the output."""

from __future__ import annotations

import datetime
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from csd_nerf.adapters.job import State
from csd_nerf.adapters.records import (
    Beside,
    Identity,
    check_record,
    fingerprint,
    load_state,
    save_state,
    write_record,
)
from csd_nerf.media.images import write_image


class FileJob:
    """Runs one input: a bar on stderr; a state, a preview and a record beside the output.

    As a context manager it lets Ctrl-C wait for the end of the unit of work, so that its state
    is saved; a second Ctrl-C doesn't wait.
    """

    def __init__(
        self,
        source: Path,
        output: Path,
        *,
        also: Sequence[Path] = (),
        settings: dict[str, Any],
        command: Sequence[str],
        save_every: int,
        preview_every: int,
        resume: bool,
        overwrite: bool,
    ) -> None:
        """Look at what lies at the output; writes nothing yet.

        Args:
            source: File or folder of the input.
            output: File or folder to make.
            also: Further files that are read, such as masks.
            settings: All options with their values filled in; JSON has a form for each.
            command: The command line, for the record.
            save_every: Units of work between saved states; 0 saves none.
            preview_every: Units of work between previews; 0 makes none.
            resume: Go on from the state of an interrupted run, keep what a finished one made.
            overwrite: Replace what lies there, if `resume` can't use it.

        Raises:
            FileExistsError: If something lies there and neither option was given.
            ValueError: If what is to be resumed is of another run, or damaged.
        """
        self.output = output
        self.label = ""
        """Comes before what is shown, where several inputs are run."""
        self._source = source
        self._beside = Beside(output)
        self._identity = Identity(settings, fingerprint(source, *also))
        self._command = command
        self._save_every = save_every
        self._preview_every = preview_every
        self._notices: list[str] = []
        self._bar: tqdm | None = None
        self._earlier_seconds = 0.0
        self._began = monotonic()
        self._stoppable = False
        self._stop = False
        self._handler_before: Any = None
        self.resuming, self.finished = self._look(resume=resume, overwrite=overwrite)
        """Whether a state is taken up, and whether nothing is left to do."""

    def _look(self, *, resume: bool, overwrite: bool) -> tuple[bool, bool]:
        state, record = self._beside.state, self._beside.record
        if resume:
            try:
                if state.exists():
                    load_state(state, self._identity, mmap=True)
                    return True, False
                if _there(self.output) and record.exists():
                    check_record(record, self._identity)
                    return False, True
            except ValueError:
                if not overwrite:
                    raise
        if overwrite:
            return False, False
        if state.exists():
            raise FileExistsError(
                f"An interrupted run left its state in {state}; pass --resume to go on with it, "
                "or --overwrite to start anew."
            )
        if _there(self.output):
            raise FileExistsError(
                f"The output must be a new one, got {self.output}; pass --overwrite to replace "
                "it, or name another --output."
            )
        return False, False

    def __enter__(self) -> FileJob:
        """Start the clock and take over Ctrl-C."""
        self._began = monotonic()
        if not self.resuming:
            self._beside.state.unlink(missing_ok=True)
        self._handler_before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give Ctrl-C back and end the bar."""
        signal.signal(signal.SIGINT, self._handler_before)
        if self._bar is not None:
            self._bar.close()

    @property
    def state_path(self) -> Path:
        """Where the state is saved."""
        return self._beside.state

    def restored(self) -> State | None:
        """What the interrupted run saved last."""
        if not self.resuming:
            return None
        state, self._earlier_seconds = load_state(self._beside.state, self._identity)
        return state

    def begin(self, label: str, total: int, *, done: int = 0) -> None:
        """Start a new bar."""
        if self._bar is not None:
            self._bar.close()
        self._stoppable = False
        self._bar = tqdm(
            desc=self.label + label,
            total=total,
            initial=done,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def tick(
        self,
        done: int,
        *,
        state: Callable[[], State] | None = None,
        preview: Callable[[], UInt8[Tensor, "h w 3"]] | None = None,
    ) -> None:
        """Move the bar, save and show when it is time; stop here if the user asked for it.

        Raises:
            KeyboardInterrupt: After Ctrl-C, when the state is saved.
        """
        bar = self._bar
        assert bar is not None, "begin comes before tick"
        bar.update(done - bar.n)
        last = done == bar.total
        if state is not None and self._save_every:
            self._stoppable = not last
            if self._stop or last or done % self._save_every == 0:
                self._save(state(), done)
        if self._stop:
            raise KeyboardInterrupt
        if preview is not None and self._preview_every and done % self._preview_every == 0:
            write_image(self._beside.preview, preview())

    def note(self, text: str) -> None:
        """Print a line that starts with note:, once, and keep it for the record."""
        if text not in self._notices:
            self._notices.append(text)
            tqdm.write(f"note: {self.label}{text}", file=sys.stderr)

    def finish(self, facts: dict[str, Any], *, notices: Sequence[str] = ()) -> None:
        """Write the record, then remove the state and the preview.

        Args:
            facts: What the adapter found out; JSON has a form for it.
            notices: Of the whole call, in addition to the job's own.
        """
        settings, seconds = self._identity.settings, self._seconds()
        record = {
            "output": str(self.output),
            "input": {"path": str(self._source), "fingerprint": self._identity.fingerprint},
            "command": shlex.join(self._command),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "seed": settings["seed"],
            "settings": settings,
            "notices": [*notices, *self._notices],
            "facts": facts,
        }
        write_record(self._beside.record, record)
        self._beside.state.unlink(missing_ok=True)
        self._beside.preview.unlink(missing_ok=True)

    def _seconds(self) -> float:
        return self._earlier_seconds + monotonic() - self._began

    def _save(self, state: State, done: int) -> None:
        save_state(
            self._beside.state, self._identity, state=state, done=done, seconds=self._seconds()
        )

    def _interrupted(self, *_: object) -> None:
        """Answer SIGINT: within an iteration the latents and the generator don't fit together."""
        if not self._stoppable or self._stop:
            raise KeyboardInterrupt
        self._stop = True
        tqdm.write("Stopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr)


def _there(output: Path) -> bool:
    """Whether something lies at the output that a run would replace."""
    return any(output.iterdir()) if output.is_dir() else output.exists()
