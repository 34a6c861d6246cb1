"""Runs with a prior whose edit is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edit_runs import small_config, start, write_dataset
from tint_prior import TintPrior

from csd_nerf import priors
from csd_nerf.methods.common.terminal import writer
from csd_nerf.methods.csd_edit.trainer import CSDEditTrainer, CSDEditTrainerConfig


@pytest.fixture
def tint_prior(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every name stand for `TintPrior`; gives the names that were loaded."""
    loaded: list[str] = []

    def load(name: str, **_: object) -> TintPrior:
        loaded.append(name)
        return TintPrior()

    monkeypatch.setattr(priors, "fetch", lambda *_, **__: None)
    monkeypatch.setattr(priors, "load", load)
    return loaded


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "scene")


@pytest.fixture
def make_config(dataset: Path, tmp_path: Path) -> Callable[..., CSDEditTrainerConfig]:
    def make(name: str = "run", data: Path = dataset) -> CSDEditTrainerConfig:
        return small_config(data, tmp_path / name)

    return make


@pytest.fixture
def train(tint_prior: list[str]) -> Callable[..., CSDEditTrainer]:
    def run(config: CSDEditTrainerConfig, *, seed: int = 0) -> CSDEditTrainer:
        trainer = start(config, seed=seed)
        trainer.train()
        return trainer

    return run


@pytest.fixture(autouse=True)
def _fresh_writers():
    """nerfstudio's writers are global and pile up."""
    yield
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    writer.GLOBAL_BUFFER.clear()
