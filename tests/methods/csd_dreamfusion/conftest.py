"""Runs of a few steps with a prior that wants everything to be of one brightness."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from dreamfusion_runs import tiny_config
from sure_prior import SurePrior

from csd_nerf import priors
from csd_nerf.methods.common.terminal import writer
from csd_nerf.methods.csd_dreamfusion import trainer
from csd_nerf.methods.csd_dreamfusion.report import save_result
from csd_nerf.methods.csd_dreamfusion.trainer import CSDDreamFusionTrainer

Run = Callable[..., CSDDreamFusionTrainer]


class WordPrior(SurePrior):
    """Knows "bright" and "dark"; anything else is grey."""

    loaded = 0
    freed = 0
    preferred_size = 12

    def free_text_encoder(self):
        WordPrior.freed += 1

    def encode_text(self, prompts, image_rows=None):
        values = [0.9 if "bright" in p else 0.1 if "dark" in p else 0.5 for p in prompts]
        return {"text": torch.tensor(values)[:, None, None]}


@pytest.fixture(autouse=True)
def _short_turntables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The video of 48 frames takes longer than the rest of a run of a few steps."""
    monkeypatch.setattr(trainer, "save_result", partial(save_result, frames=6))


@pytest.fixture
def word_prior(monkeypatch) -> type[WordPrior]:
    """Takes the place of every prior; counts how often it is loaded."""
    WordPrior.loaded = WordPrior.freed = 0

    def load(*_: Any, kind: priors.Kind, **__: Any) -> WordPrior:
        assert kind == "text"
        WordPrior.loaded += 1
        return WordPrior()

    monkeypatch.setattr(priors, "load", load)
    monkeypatch.setattr(priors, "fetch", lambda *_, **__: Path())
    return WordPrior


@pytest.fixture
def run(tmp_path, word_prior) -> Run:
    """Train a tinier preset."""

    def start(*, steps: int = 3, **options: Any) -> CSDDreamFusionTrainer:
        config = options.pop("config", None) or tiny_config(tmp_path, steps=steps, **options)
        config.set_experiment_name()
        writer.GLOBAL_BUFFER.clear()
        torch.manual_seed(0)
        made = config.setup()
        made.setup()
        made.train()
        return made

    return start
