"""Delta Denoising Score with a text-to-image prior, from the photographs to the trained images."""

from __future__ import annotations

import pytest
import torch
from edit_runs import start
from sure_prior import SurePrior

from csd_nerf import priors
from csd_nerf.core.settings import EditSettings

BRIGHTER = EditSettings(
    residual="dds", iterations=60, learning_rate=2.0, decay=1.0, text_scale=1.0, mixing="none"
)
"""With it `SurePrior` changes each pixel by the difference of the prompts' two numbers."""


@pytest.fixture
def kinds(monkeypatch):
    """The kinds of prior that were fetched and loaded."""
    found = []
    monkeypatch.setattr(priors, "fetch", lambda *_, kind, **__: found.append(kind))
    monkeypatch.setattr(priors, "load", lambda *_, kind, **__: found.append(kind) or SurePrior())
    return found


def test_views_change_by_what_the_two_prompts_differ_in(make_config, kinds):
    config = make_config()
    pipeline = config.pipeline
    pipeline.edit, pipeline.start, pipeline.edit_size = BRIGHTER, "original", 48
    pipeline.source_prompt, pipeline.prompt = "0.5", "0.65"
    pipeline.edit_steps, pipeline.edit_views = 1, 12
    trainer = start(config)
    trainer.train()
    data = trainer.pipeline.datamanager
    assert len(data.edited) == data.num_views
    for view, image in data.edited.items():
        wanted = (data.photograph01(view) + 0.15).clamp(max=1)
        # A step of 8 bits.
        assert torch.allclose(image / 255, wanted, atol=0.003)
    assert kinds == ["text", "text"]


def test_without_a_description_of_the_photographs_it_ends_in_one_line(make_config, kinds):
    config = make_config()
    config.pipeline.edit = BRIGHTER
    with pytest.raises(SystemExit, match=r"csd-edit: --pipeline.edit.residual dds needs a desc"):
        config.setup()
    assert not kinds


def test_sampling_updates_need_an_editing_prior_whatever_the_residual(make_config, kinds):
    config = make_config()
    config.pipeline.edit, config.pipeline.source_prompt = BRIGHTER, "0.5"
    config.pipeline.update = "ip2p"
    start(config)
    assert kinds == ["edit"]
