"""How a user's mistake ends a command: one line, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from csd_nerf.priors import WeightsNotFoundError


class MethodError(ValueError):
    """A mistake in what the user asked for; the message is one line with the remedy."""


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Turn a user's mistake into the message itself and the exit status 1.

    For the outermost layer of a command only: callers in Python should see the exception.

    Args:
        command: Whose name comes before the message.
    """
    try:
        yield
    except WeightsNotFoundError as error:
        raise SystemExit(f"{command}: {error} The option is --pipeline.prior.") from None
    except (MethodError, FloatingPointError) as error:
        raise SystemExit(f"{command}: {error}") from None
