"""How processes become the ranks of one job, by torch.distributed; see `csd_nerf.core.ranks`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from csd_nerf.core.ranks import ALONE, TIMEOUT, LostRankError, Ranks

_here = ALONE


def current() -> Ranks:
    """This process among those of torch.distributed; `ALONE` if that was not begun.

    All processes have to call it at the same place. Whoever began, such as nerfstudio, may have
    done so for GPUs alone; here there is a connection for the CPU's memory too.
    """
    global _here
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        _here = ALONE
    elif _here is ALONE:
        words = dist.new_group(backend="gloo", timeout=TIMEOUT)
        numbers = words
        if torch.cuda.is_available():
            numbers = dist.new_group(backend="nccl", timeout=TIMEOUT)
        rank, local = dist.get_rank(), int(os.environ.get("LOCAL_RANK", dist.get_rank()))
        _here = Ranks(rank, dist.get_world_size(), local, words, numbers)
    return _here


@contextmanager
def joined(program: str) -> Iterator[Ranks]:
    """Take part in what torchrun began, as the environment says, until the block ends.

    Only rank 0 prints. SIGTERM is taken for Ctrl-C. A rank waits at the end for the others, since
    torchrun ends all ranks as soon as one has failed. If a rank is lost, one of those that are left
    says so in one line.

    Args:
        program: Name of the command, which begins the line.

    Raises:
        SystemExit: If a rank is lost.
    """
    global _here
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    ranks = current()
    # What torchrun sends to the others when a rank has died, and to all when it is ended itself.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with nullcontext() if ranks.is_first else silent():
            try:
                yield ranks
            finally:
                ranks.leave()
    except LostRankError as error:
        if _tells_first(store):
            line = f"One of {count} ranks was lost, {error}; --resume goes on from what is saved."
            print(f"{program}: {line}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        _here = ALONE
        dist.destroy_process_group()


@contextmanager
def begin(store: Path, rank: int, count: int) -> Iterator[Ranks]:
    """Take part in what processes of this machine do together, until the block ends.

    Args:
        store: A file that isn't there yet, in a folder that all can write to.
        rank: Number of this process.
        count: Number of all.
    """
    global _here
    import torch.distributed as dist

    # Otherwise the ranks listen where the machine's name leads, maybe to a network, and they take
    # pickles from whoever connects.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    where = f"file://{store}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=count, timeout=TIMEOUT)
    try:
        yield current()
    finally:
        _here = ALONE
        dist.destroy_process_group()


@contextmanager
def silent() -> Iterator[None]:
    """Print nothing; a traceback of what leaves the block is printed."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _tells_first(store: Any) -> bool:
    """Whether no other rank has told yet that one is lost."""
    try:
        return store.add("csd_nerf/told", 1) == 1
    # The store was the lost rank's.
    except RuntimeError:
        return True
