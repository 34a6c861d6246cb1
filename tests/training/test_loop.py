from __future__ import annotations

import math

import pytest
import torch

from training import loop


class Regression:
    """A small model with everything that a checkpoint has to carry."""

    def __init__(self):
        torch.manual_seed(3)
        self.model = torch.nn.Linear(4, 2)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.05)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda i: loop.cosine(i, steps=23, warmup=4)
        )
        self.average = loop.Average(self.parameters)
        self.calls: list[int] = []

    def step(self, index: int, generator: torch.Generator) -> torch.Tensor:
        self.calls.append(index)
        batch = torch.randn(8, 4, generator=generator)
        loss = (self.model(batch) - batch[:, :2].square()).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.average.update(self.parameters, index)
        return loss

    def run(self, checkpoint, *, interrupt_at: int | None = None) -> loop.Course:
        def step(index: int, generator: torch.Generator) -> torch.Tensor:
            if index == interrupt_at:
                raise KeyboardInterrupt
            return self.step(index, generator)

        state = {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "average": self.average,
        }
        return loop.run(
            step, state, steps=23, seed=1, checkpoint=checkpoint, every=5, label="regression"
        )


@pytest.mark.parametrize("interrupt_at", [2, 5, 13, 22])
def test_an_interrupted_run_ends_like_one_that_never_stopped(tmp_path, interrupt_at):
    whole = Regression()
    course = whole.run(tmp_path / "whole.pt")
    first = Regression()
    with pytest.raises(KeyboardInterrupt):
        first.run(tmp_path / "stopped.pt", interrupt_at=interrupt_at)
    second = Regression()
    with torch.no_grad():
        second.model.weight.normal_()
    if interrupt_at < 5:
        second = Regression()
    resumed = second.run(tmp_path / "stopped.pt")

    assert second.calls == list(range(interrupt_at // 5 * 5, 23))
    for one, other in zip(whole.parameters, second.parameters, strict=True):
        assert one.equal(other)
    for one, other in zip(whole.average.values, second.average.values, strict=True):
        assert one.equal(other)
    assert resumed.losses == course.losses
    assert len(course.losses) == 5
    assert resumed.seconds > 0


def test_a_finished_run_is_not_run_again(tmp_path):
    whole = Regression()
    course = whole.run(tmp_path / "run.pt")
    again = Regression()
    assert again.run(tmp_path / "run.pt").losses == course.losses
    assert again.calls == []
    assert again.model.weight.equal(whole.model.weight)


def test_a_failure_while_saving_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    model = Regression()
    with pytest.raises(KeyboardInterrupt):
        model.run(tmp_path / "run.pt", interrupt_at=7)
    before = (tmp_path / "run.pt").read_bytes()

    def full(_, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        Regression().run(tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == before


def test_losses_are_means_of_their_intervals(tmp_path):
    def step(index: int, _: torch.Generator) -> torch.Tensor:
        return torch.tensor(float(index))

    course = loop.run(step, {}, steps=7, seed=0, checkpoint=tmp_path / "c", every=3, label="x")
    assert course.losses == [1.0, 4.0, 6.0]


def test_the_learning_rate_rises_and_falls_to_a_hundredth():
    factors = [loop.cosine(step, steps=1000) for step in range(1001)]
    assert math.isclose(factors[0], 1 / 200)
    assert math.isclose(max(factors), 1)
    assert factors.index(max(factors)) in (199, 200)
    assert factors[:200] == sorted(factors[:200])
    assert factors[200:] == sorted(factors[200:], reverse=True)
    assert math.isclose(factors[-1], 0.01)


def test_the_average_is_the_recursion_and_then_the_parameters(tmp_path):
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    average = loop.Average([parameter], decay=0.3)
    expected = parameter.detach().double()
    for step in range(6):
        with torch.no_grad():
            parameter += step
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
        average.update([parameter], step)
    average.copy_to([parameter])
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-6, atol=1e-6)
