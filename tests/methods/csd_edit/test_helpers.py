"""`ns-train csd-edit --machine.num-devices N`: helpers share the rounds."""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext

import pytest
import torch
import yaml
from edit_runs import message_of, start
from helped_runs import check_helped, helped, helped_run, run_of
from tint_prior import TintPrior

from csd_nerf.core.joining import current
from csd_nerf.core.ranks import ALONE
from csd_nerf.methods.common import helpers
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.helpers import Helpers


@pytest.mark.parametrize("count", [2, 3])
def test_helpers_share_the_rounds_of_a_nerf(make_config, tint_prior, tmp_path, count):
    check_helped(lambda name: start(make_config(name)), tmp_path, count=count, images=4)


def test_a_run_goes_on_with_other_helpers(make_config, tint_prior, tmp_path):
    whole = run_of(lambda: start(make_config("whole")))
    first = make_config("first")
    first.max_num_iterations = 8
    helped_run(2, tmp_path, lambda: start(first))
    again = make_config("again")
    again.load_dir = first.get_checkpoint_dir()
    found, _ = helped_run(3, tmp_path, lambda: start(again))
    for name, tensor in whole.parameters.items():
        assert torch.allclose(found.parameters[name], tensor, rtol=0, atol=1e-5), name


class FailingPrior(TintPrior):
    def predict(self, *_, **__):
        raise MemoryError("too little memory")


class DyingPrior(TintPrior):
    def predict(self, *_, **__):
        os._exit(1)


@pytest.mark.parametrize(
    ("prior", "told"),
    [
        (FailingPrior, "csd-edit: Rank 1 of 2: too little memory"),
        (DyingPrior, "csd-edit: One of 2 processes was lost"),
    ],
)
def test_a_helper_that_fails_ends_the_run_with_one_line(
    make_config, tint_prior, tmp_path, prior, told
):
    config = make_config()
    with helped(2, tmp_path, prior), pytest.raises(SystemExit) as ended:
        run_of(lambda: start(config))
    assert str(ended.value).startswith(told)
    assert "\n" not in str(ended.value)
    assert list(config.get_checkpoint_dir().iterdir())


def test_devices_become_helpers(make_config, tint_prior, monkeypatch):
    started = []

    def begin(self, number, recipe_of):
        started.append([recipe_of(rank) for rank in range(1, number + 1)])

    monkeypatch.setattr(Helpers, "start", begin)
    config = make_config()
    config.machine.num_devices = 3
    # It saves the config twice.
    start(config)
    assert (config.machine.num_devices, config.helpers) == (1, 2)
    saved = yaml.load((config.get_base_dir() / "config.yml").read_text(), yaml.Loader)
    assert (saved.machine.num_devices, saved.helpers) == (3, 0)
    (recipes,) = started
    assert [recipe["device"] for recipe in recipes] == ["cpu", "cpu"]
    assert {recipe["name_or_path"] for recipe in recipes} == {config.pipeline.prior}


def test_helpers_are_processes_that_end():
    found = Helpers()
    found.start(1, lambda _: {"name_or_path": "tiny", "device": "cpu"})
    ranks = current()
    assert (ranks.rank, ranks.count) == (0, 2)
    began = time.monotonic()
    with found.dismissed():
        pass
    assert time.monotonic() - began < helpers._PATIENCE
    assert current() is ALONE
    assert not torch.distributed.is_initialized()


@pytest.fixture
def waiting(monkeypatch, tmp_path):
    """Ready processes that never end, in place of helpers; returns whether these were asked to."""
    program, dismissals = tmp_path / "helper", []
    program.write_text("#!/bin/sh\ncat >/dev/null\necho ready\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(helpers, "begin", lambda *_: nullcontext())
    monkeypatch.setattr(helpers, "dismiss", lambda: dismissals.append("asked"))
    return dismissals


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MethodError])
def test_after_an_error_helpers_end_without_being_asked(waiting, error):
    # They may be amid an edit, where a call of rank 0 would meet another one of theirs.
    found, began = Helpers(), time.monotonic()
    found.start(2, lambda _: {})
    with pytest.raises(error), found.dismissed():
        raise error
    assert waiting == []
    assert time.monotonic() - began < helpers._PATIENCE / 2


def test_a_helper_that_does_not_end_when_asked_is_killed(waiting, monkeypatch):
    monkeypatch.setattr(helpers, "_PATIENCE", 0.1)
    found = Helpers()
    found.start(2, lambda _: {})
    with found.dismissed():
        pass
    assert waiting == ["asked"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_helper_without_its_gpu_is_told():
    with pytest.raises(MethodError, match="got one that ended at once, number 1"):
        Helpers().start(1, lambda number: {"name_or_path": "tiny", "device": f"cuda:{number}"})
    assert current() is ALONE


def test_a_helper_that_ends_at_once_is_told(make_config, tint_prior, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    config = make_config()
    config.machine.num_devices = 2
    assert "needs a process, got one that ended at once, number 1" in message_of(config)
