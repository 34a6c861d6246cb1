"""The report of `csd-nerf doctor`: gathers facts, prints them, and writes them as JSON."""

from __future__ import annotations

import dataclasses
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from csd_nerf.adapters.machine import Machine, look, measured_rate
from csd_nerf.adapters.prior_rows import (
    FULL_BATCH,
    SMALL_BATCH,
    VIEWS,
    PriorRow,
    duration,
    fitting,
    markdown,
    row_of,
)
from csd_nerf.adapters.problems import Problem, problems_of, problems_of_prior
from csd_nerf.media.files import check_writable, write_json
from csd_nerf.priors import DTYPES, is_bundled
from csd_nerf.priors.memory import Choice
from csd_nerf.priors.names import BUNDLED_MODELS, HUB_MODELS
from csd_nerf.priors.weights import folder_at_hand

REFERENCE_RATE = 1e14
"""Operations a second for which the table of the docs is computed."""


@dataclasses.dataclass(frozen=True)
class PriorFacts:
    """One prior on this machine."""

    row: PriorRow
    at_hand: str | None
    """Its folder; None if its weights are not on this machine."""
    seconds: float
    """Predicted time of the edit."""
    choice: Choice
    """How the edit fits the memory that is free."""


def print_table(names: tuple[str, ...] = tuple(HUB_MODELS)) -> None:
    """Print the table of docs/priors.md, for a GPU's precision and `REFERENCE_RATE`."""
    print(markdown([row_of(name, torch.device("cuda")) for name in names], REFERENCE_RATE))


def print_report(prior: str | None, output: Path | None) -> int:
    """Print what this machine has, and write it as JSON if there is an output.

    Args:
        prior: The prior to look at; None means all that have a short name.
        output: File for the same facts.

    Returns:
        The exit code: 1 if something is missing that the named prior needs.

    Raises:
        ValueError: If the architecture of the prior isn't known, or is damaged.
        OSError: If the output can't be written.
    """
    if output is not None:
        check_writable(output)
    machine = look()
    _print_machine(machine)
    rates: dict[str, float] = {}
    names = [prior] if prior is not None else [*BUNDLED_MODELS, *HUB_MODELS]
    found, problems = [], problems_of(machine)
    for number, name in enumerate(names, start=1):
        _progress(f"counting {name} ({number} of {len(names)})")
        facts = _facts(name, machine, rates)
        found.append(facts)
        problems += problems_of_prior(
            facts.row, machine, at_hand=facts.at_hand is not None, choice=facts.choice
        )
    _progress("")
    _print_priors(found, machine, rates)
    _print_problems(problems)
    if output is not None:
        write_json(output, _as_json(machine, found, rates, problems))
        print(f"doctor: wrote {output}.")
    return int(any(problem.prior is not None for problem in problems) and prior is not None)


def _facts(name: str, machine: Machine, rates: dict[str, float]) -> PriorFacts:
    folder = folder_at_hand(name)
    device = torch.device("cpu") if is_bundled(name) else machine.device
    row = row_of(name, device)
    place = f"{device.type} in {row.dtype}"
    if place not in rates:
        rates[place] = measured_rate(device, DTYPES[row.dtype])
    free = machine.free_bytes if device == machine.device else machine.cpu_free_bytes
    return PriorFacts(
        row,
        None if folder is None else str(folder),
        row.seconds(rates[place]),
        fitting(name, device, free),
    )


def _progress(text: str) -> None:
    """Show on a terminal what takes time."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _print_machine(machine: Machine) -> None:
    print(f"Python        {platform.python_version()}")
    for name, version in machine.versions.items():
        print(f"{name:<14}{version or 'not installed'}")
    print(f"CUDA          {machine.cuda or 'none: torch is built for the CPU'}")
    for number, gpu in enumerate(machine.gpus):
        free, total = _gigabytes(gpu.free_bytes), _gigabytes(gpu.total_bytes)
        print(f"GPU {number}         {gpu.name}, {free} of {total} free")
    if not machine.gpus:
        print("GPU           none")
    print(f"memory        {_gigabytes(machine.cpu_free_bytes)} free for the CPU")
    print(f"disk          {_gigabytes(machine.cache_free_bytes)} free for {machine.cache}")


def _print_priors(found: list[PriorFacts], machine: Machine, rates: dict[str, float]) -> None:
    print(
        f"\nAn edit of {VIEWS} views in 200 iterations, predicted from counted operations and live "
        f"bytes,\nin GB of memory; calls of {FULL_BATCH} and {SMALL_BATCH} evaluations are the "
        "presets' full and small:\n"
    )
    head = ("model", "weights at hand", "10^9", "weights", f"calls of {FULL_BATCH}")
    head = (*head, f"of {SMALL_BATCH}", "texts on CPU", "PFLOP", "time", "fits")
    lines = [head, *(_cells(facts) for facts in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    for place, rate in rates.items():
        print(f"\nTime: at {rate / 1e12:.3g} TFLOP/s, measured by a matrix product on the {place}.")
    print("It is a lower bound: a model's layers are slower than one large product.")
    for facts in found:
        print(f"{facts.row.name}: {facts.choice.reason}.")
    if machine.gpus:
        print(
            "Beside a scene that is trained on the same GPU less is free: --pipeline.memory auto."
        )


def _cells(facts: PriorFacts) -> tuple[str, ...]:
    row = facts.row
    where = "bundled" if is_bundled(row.name) else "yes" if facts.at_hand else "no"
    numbers = (row.weight_bytes, row.full_bytes, row.small_bytes, row.freed_bytes)
    return (
        row.name,
        where,
        f"{row.parameters / 1e9:.2f}",
        *(f"{number / 1e9:.1f}" for number in numbers),
        f"{row.flops / 1e15:.3g}",
        duration(facts.seconds),
        "yes" if facts.choice.fits else "no",
    )


def _print_problems(problems: list[Problem]) -> None:
    print("\nNo problems." if not problems else "\nProblems:")
    for problem in problems:
        print(f"- {problem}")


def _as_json(
    machine: Machine, found: list[PriorFacts], rates: dict[str, float], problems: list[Problem]
) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": dataclasses.asdict(machine),
        "operations_a_second": rates,
        "priors": [
            {**dataclasses.asdict(facts), "fits": facts.choice.fits, "how": facts.choice.reason}
            for facts in found
        ],
        "problems": [dataclasses.asdict(problem) for problem in problems],
    }


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
