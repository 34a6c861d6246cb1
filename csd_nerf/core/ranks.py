"""Several processes (ranks) that do one job; `csd_nerf.core.joining` is how they become that.

Nothing else in the package calls torch.distributed.

All ranks run the same program on the same values, draw the same random numbers on their CPUs, and
so come to the same decisions. Only expensive work is shared: each rank does it for its share of the
rows (particles, images), and all get the rows of all (`Ranks.shared`).

Ranks call the methods of `Ranks` in the same order. Each call first tells whether a rank has
failed, so that an error in one rank ends the same piece of work in all: the rank that failed raises
its own error, and the others a `RankError` with the same message. A rank that dies, or leaves, is
noticed at the next call, a `LostRankError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

_Result = TypeVar("_Result")

TIMEOUT = timedelta(days=1)
"""How long a rank waits for the others. Ranks that edit inputs of their own may end hours apart. A
rank that dies closes its connections, which ends the others at once."""

_GOES_ON, _ASKS, _FAILED, _LEAVES = range(4)
"""What a rank tells at a call; the largest of all ranks' counts."""
_AGREED = "_csd_nerf_agreed"
"""Name of an attribute of exceptions that all ranks know of."""


class RankError(OSError):
    """Another rank has failed; the message is that of its error."""


class LostRankError(RuntimeError):
    """Another rank has died, can't be reached, or ended before the others."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that do one job; the default is a single one."""

    rank: int = 0
    """Number of this process, from 0. Rank 0 writes files and tells the user."""
    count: int = 1
    local: int = 0
    """Number of this process on its machine, which is that of its GPU."""
    _words: Any = field(default=None, repr=False)
    """Group of processes for what lies in the CPU's memory."""
    _numbers: Any = field(default=None, repr=False)
    """Group of processes for tensors on GPUs."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """This rank's rows of `total`: contiguous, of sizes that differ by one at most."""
        smallest, longer = divmod(total, self.count)
        start = self.rank * smallest + min(self.rank, longer)
        return slice(start, start + smallest + (self.rank < longer))

    def gather(self, own: Shaped[Tensor, "m *rest"], total: int) -> Shaped[Tensor, "{total} *rest"]:
        """The rows of all ranks, from each one's share; they are exactly those that were given.

        Args:
            own: The rows of `share(total)`, on any device, of the same type in all ranks.
            total: Number of rows of all ranks.
        """
        if self.count == 1:
            return own
        import torch.distributed as dist

        sizes = [Ranks(rank, self.count).share(total) for rank in range(self.count)]
        longest = sizes[0].stop
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        parts = list(own.new_empty(self.count, longest, *own.shape[1:]))
        group = self._numbers if own.is_cuda else self._words
        with _noticing_death():
            dist.all_gather(parts, padded, group=group)
        return torch.cat(
            [part[: size.stop - size.start] for part, size in zip(parts, sizes, strict=True)]
        )

    def shared(
        self, total: int, work: Callable[[slice], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Let each rank do its share of rows; returns the rows of all, in all ranks.

        Args:
            total: Number of rows.
            work: Returns tensors by name, each with a row for each of these; there may be none.

        Raises:
            RankError: If another rank fails.
        """
        if self.count == 1:
            return work(slice(0, total))
        own = self.together(lambda: work(self.share(total)))
        return {name: self.gather(rows, total) for name, rows in own.items()}

    def together(self, work: Callable[[], _Result]) -> _Result:
        """Do work in all ranks; if one fails, all do.

        Raises:
            RankError: If another rank fails.
        """
        if self.count == 1:
            return work()
        try:
            result = work()
        except Exception as error:
            if not _is_agreed(error):
                self._tell(_FAILED, error)
            raise
        self._tell(_GOES_ON)
        return result

    def first_does(self, work: Callable[[], _Result]) -> _Result | None:
        """Do work in rank 0 alone, and return there what it returns; if it fails, all fail.

        Raises:
            RankError: In other ranks, if rank 0 fails.
        """
        return self.together(lambda: work() if self.is_first else None)

    def from_first(self, work: Callable[[], _Result]) -> _Result:
        """Do work in rank 0 alone, and return in all ranks what it returns, which is pickled.

        Raises:
            RankError: In other ranks, if rank 0 fails.
        """
        result: Any = self.first_does(work)
        return result if self.count == 1 else self.all_of(result)[0]

    def all_of(self, own: _Result) -> list[_Result]:
        """What each rank gives, in their order; it is pickled."""
        if self.count == 1:
            return [own]
        import torch.distributed as dist

        self._tell(_GOES_ON)
        given: list[Any] = [None] * self.count
        with _noticing_death():
            dist.all_gather_object(given, own, group=self._words)
        return given

    def any(self, flag: bool) -> bool:
        """Whether a rank says yes."""
        return flag if self.count == 1 else self._tell(_ASKS if flag else _GOES_ON) == _ASKS

    def leave(self) -> None:
        """Wait until all ranks have done their work, or one of them has failed."""
        if self.count > 1:
            with suppress(LostRankError):
                self._tell(_LEAVES)

    def _tell(self, level: int, error: Exception | None = None) -> int:
        """Tell all ranks what this one does; returns the largest level of all.

        Raises:
            LostRankError: If this rank goes on and another one leaves.
            Exception: The error, if one is given.
            RankError: If another rank has one.
        """
        import torch.distributed as dist

        levels = torch.tensor(level)
        with _noticing_death():
            dist.all_reduce(levels, dist.ReduceOp.MAX, group=self._words)
        highest = int(levels)
        if highest == _LEAVES and level != _LEAVES:
            raise _agreed(LostRankError("it ended before the others")) from error
        if highest == _FAILED:
            told: list[Any] = [None] * self.count
            message = None if error is None else _in_words(error)
            with _noticing_death():
                dist.all_gather_object(told, message, group=self._words)
            if error is not None:
                raise _agreed(error)
            failed = next(rank for rank, message in enumerate(told) if message is not None)
            raise _agreed(RankError(f"Rank {failed} of {self.count}: {told[failed]}"))
        return highest


ALONE = Ranks()
"""A single process."""


@contextmanager
def _noticing_death() -> Iterator[None]:
    """Raise a `LostRankError` if the connection breaks, with the first line of what was told."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise _agreed(LostRankError(f"it died or can't be reached ({cause})")) from error


def _agreed(error: Exception) -> Exception:
    setattr(error, _AGREED, True)
    return error


def _is_agreed(error: BaseException | None) -> bool:
    """Whether all ranks know of an error, or of that which it was made from."""
    while error is not None:
        if hasattr(error, _AGREED):
            return True
        error = error.__cause__ or error.__context__
    return False


def _in_words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
