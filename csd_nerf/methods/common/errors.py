"""Errors that end a command with one line instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from csd_nerf.priors import WeightsNotFoundError


class MethodError(ValueError):
    """A mistake in the user's options; the message is one line with the remedy."""


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Turn a user's mistake into a one-line message and exit status 1.

    For the outermost layer of a command only: callers in Python should get the exception.

    Args:
        command: Name of the command, which begins the message.
    """
    try:
        yield
    except WeightsNotFoundError as error:
        raise SystemExit(
            f"{command}: {error} The option is --pipeline.prior. Without weights, {command}-tiny "
            "runs on a CPU with the bundled prior."
        ) from None
    except (MethodError, FloatingPointError) as error:
        raise SystemExit(f"{command}: {error}") from None
