"""Errors that end a command with one line instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from csd_nerf.core.ranks import RankError
from csd_nerf.priors import ControlNotFoundError, WeightsNotFoundError
from csd_nerf.priors.halving import is_out_of_memory
from csd_nerf.priors.segmenters import SegmenterNotFoundError

INTERRUPTED = 130
"""Exit status after Ctrl-C, by the convention of shells."""


class MethodError(ValueError):
    """A mistake in the user's options; the message is one line with the remedy."""


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Turn a user's mistake, or lack of disk or memory, into a one-line message and exit status 1.

    Ctrl-C ends in one line and exit status 130. For the outermost layer of a command only: callers
    in Python should get the exception.

    Args:
        command: Name of the command, which begins the message.
    """
    try:
        yield
    except ControlNotFoundError as error:
        raise SystemExit(f"{command}: {error} The option is --pipeline.control-model.") from None
    except SegmenterNotFoundError as error:
        raise SystemExit(f"{command}: {error} The option is --pipeline.region-model.") from None
    except WeightsNotFoundError as error:
        raise SystemExit(
            f"{command}: {error} The option is --pipeline.prior. Without weights, {command}-tiny "
            "runs on a CPU with the bundled prior."
        ) from None
    except (MethodError, FloatingPointError, RankError) as error:
        raise SystemExit(f"{command}: {error}") from None
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise SystemExit(
            f"{command}: Files must be readable, and room left to write them, got {what}"
            f"{error.strerror or error}; the last checkpoint is whole."
        ) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip() or "not enough memory").splitlines()[0]
        raise SystemExit(
            f"{command}: {reason.rstrip('.')}; take fewer rays a step (--pipeline.datamanager), "
            "smaller photographs or a smaller prior, or go on from the last checkpoint."
        ) from None
    except KeyboardInterrupt:
        print(f"{command}: interrupted.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
