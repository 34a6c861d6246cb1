"""A scene edited by an editing model of each family, of random weights."""

from __future__ import annotations

import json

import pytest
from edit_runs import start


@pytest.mark.parametrize("family", ["xl", "flux2", "kontext", "qwen"])
def test_a_scene_is_edited(editing_folder, make_config, family, monkeypatch):
    config = make_config()
    pipeline = config.pipeline
    pipeline.prior, pipeline.edit_steps, pipeline.edit_views = str(editing_folder(family)), 1, 4
    # No number of a configuration, and 1024 for random models too.
    monkeypatch.setattr("csd_nerf.priors.qwen_image.PREFERRED_SIZE", 48)
    trainer = start(config)
    trainer.train()
    manager = trainer.pipeline.datamanager
    assert len(manager.edited) == 4
    for view, image in manager.edited.items():
        photograph = 255 * manager.photograph01(view)
        assert image.shape == photograph.shape
        assert float((image - photograph).abs().mean()) > 1
    (record,) = (trainer.base_dir / "rounds").glob("*.json")
    assert json.loads(record.read_text())["metrics"]["evaluations"] > 0


@pytest.mark.parametrize("family", ["flux2", "qwen"])
def test_the_view_edited_first_is_shown_beside_the_others(
    editing_folder, make_config, family, monkeypatch
):
    monkeypatch.setattr("csd_nerf.priors.qwen_image.PREFERRED_SIZE", 48)
    config = make_config()
    pipeline = config.pipeline
    pipeline.prior, pipeline.edit_steps, pipeline.edit_views = str(editing_folder(family)), 1, 3
    pipeline.reference_views = 1
    trainer = start(config)
    trainer.train()
    stage = trainer.pipeline.stage
    assert len(trainer.pipeline.datamanager.edited) == 3
    assert stage.state.reference.image.shape[2] == 3
    assert "reference" in trainer.pipeline.get_extra_state()["stage"]


def test_a_second_reference_for_a_model_of_one_image_ends_in_one_line(make_config):
    config = make_config()
    config.pipeline.reference_views = 1
    line = "csd-edit: --pipeline.reference-views needs a prior that takes two images, got tiny; "
    with pytest.raises(SystemExit, match=line):
        start(config)
