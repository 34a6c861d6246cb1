from __future__ import annotations

import os
import shlex
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from nerfstudio.engine.trainer import Trainer

from csd_nerf.methods.common.interruption import Interruption, command_that_goes_on


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "csd-edit-tiny --data fox --pipeline.prompt 'make it snow' nerfstudio-data",
            "csd-edit-tiny --load-dir R --data fox --pipeline.prompt 'make it snow' "
            "nerfstudio-data",
        ),
        (
            "csd-edit --load-dir A --load_step=3 --load-checkpoint B --vis tensorboard",
            "csd-edit --load-dir R --vis tensorboard",
        ),
    ],
)
def test_the_command_loads_the_run_and_keeps_all_other_words(given, expected):
    words = ["/usr/bin/ns-train", *shlex.split(given)]
    command = command_that_goes_on(words, words[1], Path("R"))
    assert shlex.split(command) == ["ns-train", *shlex.split(expected)]


def test_of_another_program_only_the_option_is_known():
    assert command_that_goes_on(["demo.py", "--fast"], "csd-edit", Path("R")) == "--load-dir R"


def fake_trainer(folder: Path, state: str = "training"):
    trainer = object.__new__(Trainer)
    trainer.checkpoint_dir, trainer.training_state = folder, state
    trainer.train_lock = threading.Lock()
    trainer.config = SimpleNamespace(method_name="csd-edit")
    return trainer


def exit_status(run, trainer, train) -> int:
    """That of a run which is ended by signals."""
    with pytest.raises(SystemExit) as stopped, run.heeded(trainer):
        train()
    return stopped.value.code


def press(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_the_step_end_and_saves(tmp_path, capsys, number):
    saved, steps = [], []
    run = Interruption("csd-edit", lambda s: (saved.append(s), (tmp_path / "a.ckpt").touch()))
    before = signal.getsignal(number)

    def train():
        for step in range(9):
            if step == 4:
                press(number)
            steps.append(step)
            run.after_step(step)

    assert exit_status(run, fake_trainer(tmp_path), train) == 130
    assert (steps[-1], saved) == (4, [4])
    told = capsys.readouterr().err
    assert "stopping after this step; press Ctrl-C again to stop at once." in told
    assert f"csd-edit: interrupted; go on with: --load-dir {tmp_path}\n" in told
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_at_once(tmp_path, capsys):
    steps = []
    run = Interruption("csd-edit", lambda _: pytest.fail("saved"))

    def train():
        run.after_step(3)
        press()
        press()
        steps.append(4)

    assert exit_status(run, fake_trainer(tmp_path), train) == 130
    assert steps == []
    assert "interrupted before anything was saved" in capsys.readouterr().err


def test_a_second_signal_stops_the_saving(tmp_path):
    ends = []

    def save(step):
        press()
        ends.append(step)

    run = Interruption("csd-edit", save)
    assert exit_status(run, fake_trainer(tmp_path), lambda: (press(), run.after_step(3))) == 130
    assert ends == []


def test_a_run_that_is_paused_ends_where_it_waits_but_not_within_a_step(tmp_path):
    saved, steps = [], []
    trainer = fake_trainer(tmp_path, "paused")
    run = Interruption("csd-edit", saved.append)

    def train():
        with trainer.train_lock:
            press()
            steps.append(5)
        run.after_step(5)

    assert exit_status(run, trainer, train) == 130
    assert (saved, steps) == ([5], [5])

    run = Interruption("csd-edit", saved.append)

    def wait():
        run.after_step(7)
        press()
        steps.append(8)

    assert exit_status(run, trainer, wait) == 130
    assert (saved, steps) == ([5, 7], [5])


def test_a_run_that_is_finished_ends_well(tmp_path):
    run = Interruption("csd-edit", lambda _: pytest.fail("saved"))
    assert exit_status(run, fake_trainer(tmp_path, "completed"), press) == 0
