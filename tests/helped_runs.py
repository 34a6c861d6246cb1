"""Runs of ns-train whose rounds helpers share, which are forks of the test's process."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tint_prior import TintPrior

from csd_nerf.core.joining import begin
from csd_nerf.scene.together import dismiss, help_edits


class CountingPrior(TintPrior):
    """Counts the evaluations that it is asked for."""

    def __init__(self) -> None:
        self.evaluations = 0

    def predict(self, branches, timestep, *, max_batch=None):
        self.evaluations += sum(branch.evaluations for branch in branches)
        return super().predict(branches, timestep, max_batch=max_batch)


class Run(NamedTuple):
    """What is left of a run."""

    edited: dict[int, torch.Tensor]
    parameters: dict[str, torch.Tensor]
    told: int
    """Evaluations that the stage counted."""
    own: int
    """Those of this process."""


def run_of(train: Callable[[], Any]) -> Run:
    """Train in this process, with a prior that counts."""
    trainer, prior = train(), CountingPrior()
    trainer.pipeline.lend_prior(prior)
    trainer.train()
    parameters = {
        name: tensor.detach().clone() for name, tensor in trainer.pipeline.model.named_parameters()
    }
    edited = {view: image.clone() for view, image in trainer.pipeline.datamanager.edited.items()}
    return Run(edited, parameters, trainer.pipeline.stage.state.evaluations, prior.evaluations)


@contextmanager
def helped(count: int, folder: Path, prior: Callable[[], Any] = CountingPrior) -> Iterator[Any]:
    """This process is rank 0 of several; yields a function that dismisses the helpers.

    It returns the priors' evaluations. A fork can't train, since torch's threads aren't in it.

    Args:
        count: Number of ranks.
        folder: For the file by which they find each other.
        prior: Makes the prior of a helper.
    """
    store = folder / f"ranks{time.monotonic_ns()}"
    context: Any = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    helpers = [
        context.Process(target=_help, args=(store, rank, count, prior, told))
        for rank in range(1, count)
    ]
    for helper in helpers:
        helper.start()

    def evaluations() -> list[int]:
        dismiss()
        return [told.get() for _ in helpers]

    try:
        with begin(store, 0, count):
            yield evaluations
    finally:
        for helper in helpers:
            helper.kill()
            helper.join()


def _help(store: Path, rank: int, count: int, prior: Callable[[], Any], told: Any) -> None:
    own = prior()
    with begin(store, rank, count) as ranks:
        help_edits(lambda: own, ranks)
        told.put(getattr(own, "evaluations", 0))


def helped_run(count: int, folder: Path, train: Callable[[], Any]) -> tuple[Run, list[int]]:
    """The same with helpers; returns their evaluations too."""
    with helped(count, folder) as evaluations:
        return run_of(train), evaluations()


def check_helped(train: Callable[[str], Any], folder: Path, *, count: int, images: int) -> None:
    """A helped run gives what one without helpers gives."""
    alone = run_of(lambda: train("alone"))
    found, helpers = helped_run(count, folder, lambda: train("helped"))
    assert alone.edited.keys() == found.edited.keys()
    assert len(alone.edited) >= images
    for view, image in alone.edited.items():
        assert torch.equal(found.edited[view], image)
    for name, tensor in alone.parameters.items():
        assert torch.allclose(found.parameters[name], tensor, rtol=0, atol=1e-5), name
    assert found.told == alone.told == alone.own == found.own + sum(helpers)
    assert all(0 < evaluated <= found.own for evaluated in helpers)
