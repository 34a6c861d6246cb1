from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.method_runs import method_config
from benchmarks.text_to_3d import training
from benchmarks.text_to_3d.training import RunFailedError, object_config, train_and_render
from benchmarks.text_to_3d.views import RunViews


def configured(**options: Any) -> Any:
    values: dict[str, Any] = {
        "prompt": "a red cube",
        "arm": "csd",
        "seed": 4,
        "steps": 3,
        "prior": "tiny-text",
        "device": "cpu",
        **options,
    }
    return object_config(values.pop("method", "csd-dreamfusion-tiny"), **values)


def test_shorter_runs_keep_the_shares_of_their_phases():
    whole = configured(method="csd-dreamfusion", steps=10_000)
    half = configured(method="csd-dreamfusion", steps=5_000)
    schedule = [c.optimizers["fields"]["scheduler"] for c in (whole, half)]
    assert (schedule[0].warmup_steps, schedule[0].max_steps) == (2000, 10_000)
    assert (schedule[1].warmup_steps, schedule[1].max_steps) == (1000, 5_000)
    assert (whole.pipeline.entropy_warmup, half.pipeline.entropy_warmup) == (5000, 2500)
    tiny = configured(method="csd-dreamfusion-tiny", steps=225)
    assert tiny.pipeline.albedo_steps == 75
    shortest = configured(method="csd-dreamfusion", steps=1)
    assert shortest.optimizers["fields"]["scheduler"].warmup_steps == 1


def test_arms_differ_in_the_distillation_alone():
    csd, sds = (dataclasses.asdict(configured(arm=arm)) for arm in ("csd", "sds"))
    assert csd["pipeline"].pop("distillation") == "csd"
    assert sds["pipeline"].pop("distillation") == "sds"
    assert str(csd) == str(sds)
    assert csd["machine"]["seed"] == csd["pipeline"]["seed"] == 4


def test_the_registered_config_is_left_as_it_was():
    before = str(method_config("csd-dreamfusion-tiny"))
    configured()
    assert str(method_config("csd-dreamfusion-tiny")) == before


class Trainer:
    """Fails as the method's trainer does."""

    def __init__(self, error: BaseException, cause: BaseException | None = None) -> None:
        self.error, self.cause, self.callbacks = error, cause, []

    def train(self) -> None:
        if self.cause is None:
            raise self.error
        try:
            raise self.cause
        except Exception:
            raise self.error from None


@pytest.mark.parametrize(
    "trainer",
    [
        Trainer(FloatingPointError("It\nvanished.")),
        Trainer(SystemExit("csd-dreamfusion: It vanished.")),
        Trainer(SystemExit("csd-dreamfusion: It vanished."), FloatingPointError("It vanished.")),
    ],
)
def test_a_collapse_is_a_failure(tmp_path, monkeypatch, trainer):
    with pytest.raises(RunFailedError, match=r"^It vanished\.$"):
        started(trainer, tmp_path, monkeypatch)


@pytest.mark.parametrize("cause", [ValueError("a mistake"), OSError("no weights")])
def test_a_mistake_is_no_failure(tmp_path, monkeypatch, cause):
    trainer = Trainer(SystemExit(f"csd-dreamfusion: {cause}"), cause)
    with pytest.raises(ValueError, match=f"^{cause}$"):
        started(trainer, tmp_path, monkeypatch)


def started(trainer: Trainer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunViews:
    from contextlib import nullcontext

    monkeypatch.setattr(training, "quiet_trainer", lambda config, log: nullcontext(trainer))
    config: Any = None
    return train_and_render(config, folder, on_step=lambda: None)
