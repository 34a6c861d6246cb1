"""Splats of a small synthetic scene, with a prior whose edit is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from splat_runs import SIZE, VIEWS, splat_config, start_splats
from tint_prior import TintPrior

from csd_nerf import priors
from csd_nerf.methods.common.terminal import writer
from csd_nerf.methods.csd_edit_splat.trainer import (
    CSDEditSplatTrainer,
    CSDEditSplatTrainerConfig,
)
from csd_nerf.synthetic import dataset as synthetic
from csd_nerf.synthetic.options import SceneSettings

Train = Callable[..., CSDEditSplatTrainer]


@pytest.fixture(scope="session")
def splat_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splats") / "scene"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "POINTS", 300)
        return synthetic.write_dataset(folder, SceneSettings(views=VIEWS, size=SIZE))


@pytest.fixture
def make_splats(splat_data: Path, tmp_path: Path) -> Callable[..., CSDEditSplatTrainerConfig]:
    def make(name: str = "run", data: Path = splat_data) -> CSDEditSplatTrainerConfig:
        return splat_config(data, tmp_path / name)

    return make


@pytest.fixture
def train_splats(monkeypatch: pytest.MonkeyPatch) -> Train:
    monkeypatch.setattr(priors, "fetch", lambda *_, **__: None)
    monkeypatch.setattr(priors, "load", lambda *_, **__: TintPrior())

    def run(config: CSDEditSplatTrainerConfig, *, seed: int = 0) -> CSDEditSplatTrainer:
        trainer = start_splats(config, seed=seed)
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
