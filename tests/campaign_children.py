"""What both campaigns share: commands in children, and what is reported of them."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from csd_nerf import cli

EDIT = ("--preset", "tiny", "--prompt", "make it night", "--iterations", "6", "--save-every", "1")
LIMIT = 60.0
"""Seconds after which a command is taken to hang."""
FAULT = 99
"""Exit code of a child whose command raised what is no mistake of the user's."""


@dataclass
class Report:
    """What was tried, and what fell short."""

    tried: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def in_child(run: Callable[[], int], told: Path) -> int:
    """Fork a process that runs this, with its output in a file; returns the process's number."""
    child = os.fork()
    if child:
        return child
    code = FAULT
    with told.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        # Where it hangs is told with its output.
        faulthandler.dump_traceback_later(2 * LIMIT, file=file)
        try:
            code = run()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
            if isinstance(stop.code, str):
                print(stop.code, file=file)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc(file=file)
        file.flush()
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a child, or None if it is killed after this time; negative for signals."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def command(*words: object) -> Callable[[], int]:
    """Runs `csd-nerf` with these words."""

    def run() -> int:
        cli.main([str(word) for word in words])
        return 0

    return run


def pixels(width: int, height: int, *, seed: int = 0) -> np.ndarray:
    """A picture of few colours without sharp edges."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))
