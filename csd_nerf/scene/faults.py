"""What a user's request can cause, told in one line instead of ending the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from csd_nerf.priors.halving import is_out_of_memory
from csd_nerf.scene.controls import EditRequest

_LARGEST_SEED = 2**31
"""Seeds are multiplied before they are used, and have to fit 64 bits then."""


class RoundError(Exception):
    """A request or a round that failed, and changed nothing; its cause is the error.

    The message is one line.
    """


class RequestError(RoundError):
    """Something else than a round that the user asked for and that failed; rounds may go on."""


@contextmanager
def told_as(kind: type[RoundError], what: str = "", *, is_live: bool) -> Iterator[None]:
    """Turn an error into a `RoundError`.

    Args:
        kind: The error to raise in its place.
        what: What failed, to begin the message.
        is_live: Whether a user is there, who may have caused any error. Otherwise only those are
            turned that a number out of range, a file or the memory can cause.

    Raises:
        RoundError: In place of these.
    """
    try:
        yield
    except RoundError:
        raise
    except (ValueError, ArithmeticError, OSError, ImportError, MemoryError) as error:
        raise kind(_line(error, what)) from error
    except Exception as error:
        if not is_live and not (isinstance(error, RuntimeError) and is_out_of_memory(error)):
            raise
        raise kind(_line(error, what)) from error


def _line(error: Exception, what: str) -> str:
    reason = " ".join(str(error).split())
    if not reason or isinstance(error, LookupError | AttributeError | AssertionError):
        reason = " ".join(f"{type(error).__name__} {reason}".split())
    return f"{what}: {reason}" if what else reason


def check_request(request: EditRequest) -> None:
    """Check what a round or a preview takes from a request, beside its settings.

    Raises:
        ValueError: If the prompt is empty, a text can't be written as UTF-8, or a number is out of
            range.
    """
    if not request.prompt.strip():
        raise ValueError(
            'A round needs a prompt that says what to do, got none; give one such as "make it '
            'snow".'
        )
    texts = ("prompt", "negative_prompt", "source_prompt", "region")
    for name in texts:
        try:
            getattr(request, name).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name} needs to be whole characters, got half of one at {error.start}; type it "
                "anew."
            ) from None
    if request.views is not None and request.views < 1:
        raise ValueError(f"views needs to be at least 1, got {request.views}.")
    if request.seed is not None and not -_LARGEST_SEED < request.seed < _LARGEST_SEED:
        raise ValueError(f"seed needs to be within 31 bits, got {request.seed}.")
