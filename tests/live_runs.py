"""Runs of nerfstudio's trainers with a user who asks for things at some steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.engine.trainer import Trainer

from csd_nerf.scene.controls import Controls
from csd_nerf.scene.progress import Teller

SIZE = (24, 24)


class Asks(Controls):
    """Requests by step, and what was shown."""

    def __init__(self, request, changes) -> None:
        self.request, self.changes, self.step = request, changes, 0
        self.told, self.histories, self.previews = [], [], []

    def read(self, *, editing: bool):
        return replace(self.request, **self.changes.get(self.step, {}))

    def show_progress(self, progress) -> None:
        self.told.append(progress.text)

    def show_history(self, rounds) -> None:
        self.histories.append([past.index for past in rounds])

    def show_preview(self, before01, after01) -> None:
        self.previews.append((before01, after01))


def without_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a trainer believe that a viewer runs, without one."""
    monkeypatch.setattr(Trainer, "_init_viewer_state", lambda _: None)
    monkeypatch.setattr(Trainer, "_update_viewer_state", lambda *_: None)


def train_with(
    trainer: Any,
    changes: dict[int, dict],
    *,
    is_live: bool = True,
    before: Callable[[int], None] = lambda _: None,
    after: Callable[[int], None] = lambda _: None,
) -> Asks:
    """Train a run to its end, with a user.

    Args:
        trainer: The trainer, after its set-up.
        changes: What is asked at which step.
        is_live: Whether a viewer runs.
        before: Called before the stage, with the step.
        after: Called after the stage, before the step is trained.
    """
    stage = trainer.pipeline.stage
    asks = Asks(trainer.pipeline.config.request(), changes)
    stage._controls, stage._teller = asks, Teller(asks.show_progress)
    if is_live:
        trainer.viewer_state = SimpleNamespace(
            viser_server=None,
            init_scene=lambda **_: None,
            update_scene=lambda *_: None,
            training_complete=lambda: None,
        )
        trainer.config.viewer.quit_on_train_completion = True
    callback = trainer.callbacks[-1]
    usual = callback.func

    def at_step(trainer, step):
        asks.step = step
        before(step)
        usual(trainer, step)
        after(step)

    callback.func = at_step
    trainer.train()
    return asks


def seen(trainer: Any) -> SimpleNamespace:
    """What a scene shows and trains on."""
    scene, images = trainer.pipeline.scene, trainer.pipeline.datamanager
    return SimpleNamespace(
        renders=[scene.render(view, size=SIZE) for view in (0, 2)],
        edited={view: image.clone() for view, image in images.edited.items()},
        images=[images._image(view).clone() for view in range(images.num_views)],
        parameters={k: v.clone() for k, v in trainer.pipeline.model.state_dict().items()},
    )


def assert_same(first: SimpleNamespace, second: SimpleNamespace) -> None:
    """To the last bit."""
    for one, other in zip(first.renders, second.renders, strict=True):
        assert torch.equal(one.image01, other.image01)
        assert torch.equal(one.depth, other.depth)
    assert first.edited.keys() == second.edited.keys()
    assert all(torch.equal(a, b) for a, b in zip(first.images, second.images, strict=True))
    for name, value in first.parameters.items():
        assert torch.equal(value, second.parameters[name]), name


def check_going_back(trainer: Any, *, first: int, every: int) -> dict[int, SimpleNamespace]:
    """Go back to round 0, and then to the unedited scene; give what was seen before some steps.

    Rounds come before steps `first`, `first + every` and `first + 2 every`.
    """
    found: dict[int, SimpleNamespace] = {}
    undone, reset = first + 2 * every - 1, first + 2 * every + 1
    optimizers = []

    def before(step):
        if step in (first, first + every, undone):
            found[step] = seen(trainer)
        optimizers.append(trainer.optimizers)

    def after(step):
        if step not in (undone, reset):
            return
        there = seen(trainer)
        assert_same(there, found[first + every if step == undone else first])
        assert trainer.optimizers is not optimizers[-1]
        groups = trainer.pipeline.get_param_groups()
        for name, optimizer in trainer.optimizers.optimizers.items():
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            assert held == {id(p) for p in groups[name]}, name
            assert not optimizer.state
        if step == undone:
            assert sorted(there.edited) != []

    asked = {undone: {"return_to": 0}, reset: {"return_to": -1}}
    paused = {step: {"paused": True} for step in range(reset + 1, reset + 200)}
    changes = {**paused, **asked}
    changes[reset]["paused"] = True
    asks = train_with(trainer, changes, before=before, after=after)
    assert asks.histories[-1] == []
    assert [0] in asks.histories
    assert trainer.pipeline.datamanager.edited == {}
    return found
