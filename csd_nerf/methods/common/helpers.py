"""Processes on this machine that share a run's edits; see `csd_nerf.scene.together`."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from csd_nerf.core.joining import begin
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.scene.together import Helping, dismiss

_PATIENCE = 30
"""Seconds in which a helper ends after it is dismissed."""


class Helpers:
    """The helpers of a run; they load the prior at the first edit."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def start(self, number: int, recipe_of: Callable[[int], dict[str, Any]]) -> None:
        """Start helpers, and wait until all are ready.

        Args:
            number: How many; 0 starts none.
            recipe_of: Returns the arguments of `priors.load` of a helper, from 1.

        Raises:
            MethodError: If one ends at once.
        """
        if not number:
            return
        with ExitStack() as opened:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="csd-nerf-")))
            store, count = folder / "ranks", number + 1
            processes = [
                opened.enter_context(_running(Helping(store, rank, count, recipe_of(rank))))
                for rank in range(1, count)
            ]
            for rank, process in enumerate(processes, start=1):
                assert process.stdout is not None
                if process.stdout.readline().strip() != b"ready":
                    raise MethodError(
                        f"Each of {count} devices needs a process, got one that ended at once, "
                        f"number {rank}; take fewer with --machine.num-devices."
                    )
            opened.enter_context(begin(store, 0, count))
            opened.push(_dismissing)
            self._open = opened.pop_all()

    @contextmanager
    def dismissed(self) -> Iterator[None]:
        """A block after which the helpers end; if an error ends it, they end at once."""
        with self._open:
            yield


def _dismissing(kind: type[BaseException] | None, *_: object) -> None:
    """End the helpers as a block ends that is done.

    After an error, such as a second Ctrl-C, they may be amid an edit, and wait for another call
    than this. `_running` ends these.
    """
    if kind is None:
        dismiss()


@contextmanager
def _running(helping: Helping) -> Iterator[subprocess.Popen[bytes]]:
    """A helper, which ends with the block at the latest."""
    words = [sys.executable, "-m", "csd_nerf.scene.together"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            # One that has ended at once is found by what it doesn't say.
            with suppress(BrokenPipeError), process.stdin as given:
                pickle.dump(helping, given)
            yield process
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
        finally:
            process.kill()
