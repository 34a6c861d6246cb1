"""Several processes on this machine that run functions of the tests together, over gloo.

A process takes seconds to import torch. So a pool is started once for a file of tests, and runs one
function after the other.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 120
"""Seconds after which ranks that don't answer are taken for hanging."""


class Pool:
    """Processes that wait for functions to run."""

    def __init__(self, count: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for rank in range(count):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, count, str(folder / "store"), there), daemon=True
            )
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, count: int | None = None) -> list:
        """What the function returns in each rank; it is called with the arguments.

        Raises:
            AssertionError: If it raises in one; with the traceback.
        """
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(PATIENCE), f"Rank {rank} hangs."
            failed, result = pipe.recv()
            results.append((failed, result))
        for rank, (failed, result) in enumerate(results):
            assert not failed, f"Rank {rank}: {result}"
        return [result for _, result in results]

    def close(self) -> None:
        """End all processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(20)
            process.kill()


@contextmanager
def pool_of(count: int, folder: Path) -> Iterator[Pool]:
    """A pool of so many ranks, with files in a folder."""
    pool = Pool(count, folder)
    try:
        yield pool
    finally:
        pool.close()


def _serve(rank: int, count: int, store: str, pipe: Any) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    while (task := pipe.recv()) is not None:
        function, arguments = task
        try:
            pipe.send((False, function(*arguments)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))
    dist.destroy_process_group()
