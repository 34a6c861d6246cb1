"""Several processes on this machine that run a function of a test together, over gloo.

They are forks of the test's process, since importing torch and diffusers anew takes half a minute.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

PATIENCE = 120
"""Seconds after which ranks that don't end are taken for hanging."""


def run_together(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function returns in each rank, of a process group that has begun.

    Raises:
        AssertionError: If it raises in one, with the traceback, or doesn't return.
    """

    def begun() -> Any:
        import torch.distributed as dist

        dist.init_process_group("gloo")
        try:
            return function(*arguments)
        finally:
            dist.destroy_process_group()

    found = launch(count, begun)
    for rank, (kind, result) in enumerate(found):
        assert kind == "returned", f"Rank {rank} {kind}: {result}"
    return [result for _, result in found]


def launch(count: int, function: Callable[[], Any]) -> list[tuple[str, Any]]:
    """Call a function in each rank, with the environment that torchrun makes.

    Returns:
        For each rank what became of it: "returned" with the result, "exited" with the code,
        "raised" with the traceback, or "died" with the process's exit code.
    """
    context: Any = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(count):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(rank, count, port, function, there))
        process.start()
        there.close()
        ranks.append((process, here))
    deadline = time.monotonic() + PATIENCE
    try:
        return [_outcome(process, pipe, deadline) for process, pipe in ranks]
    finally:
        for process, _ in ranks:
            process.kill()
            process.join()


def _outcome(process: Any, pipe: Any, deadline: float) -> tuple[str, Any]:
    assert pipe.poll(max(0.0, deadline - time.monotonic())), "A rank hangs."
    try:
        return pickle.loads(pipe.recv_bytes())
    except EOFError:
        process.join()
        return "died", process.exitcode


def _serve(rank: int, count: int, port: int, function: Callable[[], Any], pipe: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        outcome: tuple[str, Any] = ("returned", function())
    except SystemExit as stop:
        outcome = ("exited", stop.code)
    except BaseException:
        outcome = ("raised", traceback.format_exc())
    # A pipe would pass on the memory of tensors, which ends with this process.
    pipe.send_bytes(pickle.dumps(outcome))
    sys.stdout.flush()
    sys.stderr.flush()
    pipe.close()
    # Not the parent's handlers at exit.
    os._exit(0)
