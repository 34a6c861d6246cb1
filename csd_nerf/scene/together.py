"""Edits the views of a scene on several devices.

Rank 0 has the scene: it renders, trains, and answers the user. The other ranks, its helpers, have
the prior alone. For each edit rank 0 sends them what it is made from, and they take their shares of
its encoding, evaluations and decoding; so N ranks make the same round as one.
"""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from csd_nerf.core.copies import on_cpu
from csd_nerf.core.joining import begin, current, silent
from csd_nerf.core.ranks import LostRankError, RankError, Ranks
from csd_nerf.priors import Prior, load
from csd_nerf.priors.halving import HalvingPrior
from csd_nerf.priors.sharing import SharedPrior
from csd_nerf.scene.rounds import Round, edit_views


@dataclass(frozen=True)
class Helping:
    """What a helper has to know."""

    store: Path
    """File by which the ranks find each other."""
    rank: int
    count: int
    prior: Mapping[str, Any]
    """The arguments of `priors.load`."""


@dataclass(frozen=True)
class _Order:
    """An edit that all ranks do."""

    inputs: Mapping[str, Any]
    """Arguments of `edit_views`, in the CPU's memory."""
    generator: Tensor
    """State of the generator."""


def edit_together(
    prior: Prior, *, inputs: Mapping[str, Any], generator: torch.Generator, **told: Any
) -> Round:
    """Edit views as `edit_views` does, together with helpers if there are any.

    Args:
        prior: The editing model of this rank.
        inputs: Arguments of `edit_views`, among them `sources01`.
        generator: Source of randomness, on the CPU.
        told: The arguments by which `edit_views` tells of progress.

    Raises:
        RankError: If a helper fails or is lost.
    """
    ranks = current()
    if ranks.count == 1:
        return edit_views(prior, **inputs, generator=generator, **told)
    # The size of a photograph matters to the finished image only, which rank 0 makes.
    small = on_cpu({**inputs, "photographs01": None})
    small["photographs01"] = small["sources01"]
    order = _Order(small, generator.get_state())
    try:
        ranks.from_first(lambda: order)
        shared = cast(Prior, SharedPrior(prior, ranks))
        return ranks.together(lambda: edit_views(shared, **inputs, generator=generator, **told))
    except LostRankError as error:
        raise RankError(
            f"One of {ranks.count} processes was lost, {error}; go on from the last checkpoint."
        ) from error


def dismiss() -> None:
    """Let the helpers end."""
    with suppress(LostRankError):
        current().from_first(lambda: None)


def help_edits(prior: Callable[[], Prior], ranks: Ranks) -> None:
    """Take part in the edits of rank 0, until it dismisses its helpers.

    Args:
        prior: Returns the editing model; called for every edit.
        ranks: This helper among the ranks.

    Raises:
        LostRankError: If another rank is lost.
    """

    def never() -> _Order | None:
        raise AssertionError("rank 0 gives the orders")

    while (order := ranks.from_first(never)) is not None:
        generator = torch.Generator()
        generator.set_state(order.generator)

        def edit(order: _Order = order, generator: torch.Generator = generator) -> Round:
            shared = cast(Prior, SharedPrior(prior(), ranks))
            return edit_views(shared, **order.inputs, generator=generator)

        # Rank 0 tells of what fails, and may go on.
        with suppress(Exception):
            try:
                ranks.together(edit)
            except LostRankError as error:
                raise SystemExit(1) from error


def main() -> None:
    """Be the helper that stdin describes; says on stdout when it is ready."""
    # Ctrl-C in a terminal reaches all processes; rank 0 finishes its step, and dismisses helpers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    helping: Helping = pickle.load(sys.stdin.buffer)
    device = torch.device(helping.prior["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Nothing may fail from here to `begin`, where rank 0 waits for all.
    print("ready", flush=True)
    kept: list[Prior] = []

    def prior() -> Prior:
        if not kept:
            kept.append(cast(Prior, HalvingPrior(load(**helping.prior), tell=lambda _: None)))
        return kept[0]

    with (
        silent(),
        suppress(LostRankError),
        begin(helping.store, helping.rank, helping.count) as ranks,
    ):
        help_edits(prior, ranks)


if __name__ == "__main__":
    main()
