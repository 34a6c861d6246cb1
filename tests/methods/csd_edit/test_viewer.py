"""The editing stage's panel in nerfstudio's viewer, as a run shows and obeys it."""

from __future__ import annotations

import json

import torch
from edit_runs import start
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement


def test_the_viewer_finds_the_elements_in_the_pipeline(make_config, tint_prior):
    """It evaluates every property of the pipeline on the way; none may load the prior."""
    pipeline = start(make_config()).pipeline
    found = parse_object(pipeline, ViewerElement, "Custom Elements")
    names = {element.name for _, element in found}
    assert {"Prompt", "Text scale", "Image scale"} <= names
    assert {"Edit now", "Pause editing", "Reset to originals"} <= names
    assert tint_prior == []


def test_an_unknown_prompt_is_told_at_the_start_and_in_the_records_of_its_rounds(
    make_config, tint_prior, capsys
):
    trainer = start(make_config())
    told = " ".join(capsys.readouterr().out.split())
    assert 'csd-edit: the bundled prior doesn\'t know "swap red and blue"; it knows,' in told
    before = trainer.pipeline._before_step

    def ask_anew_at_step_6(trainer, step):
        if step == 6:
            trainer.pipeline.controls.prompt.value = "make it snow"
        before(trainer, step)

    trainer.callbacks[-1].func = ask_anew_at_step_6
    trainer.train()
    records = sorted((trainer.base_dir / "rounds").glob("*.json"))
    notices = [json.loads(record.read_text())["notices"] for record in records]
    assert ["swap red and blue" in " ".join(lines) for lines in notices] == [True, False, False]


def test_resetting_puts_the_photographs_back_and_training_goes_on(make_config, tint_prior):
    config = make_config()
    config.pipeline.edit_every = 100
    trainer = start(config)
    controls = trainer.pipeline.controls
    before = trainer.pipeline._before_step

    def reset_at_step_8(trainer, step):
        if step == 8:
            assert trainer.pipeline.datamanager.edited
            controls.reset_button.cb_hook(controls.reset_button)
        before(trainer, step)

    trainer.callbacks[-1].func = reset_at_step_8
    trainer.train()
    manager = trainer.pipeline.datamanager
    assert trainer.step == 11
    assert manager.edited == {}
    for view in range(manager.num_views):
        assert torch.equal(manager._cached["image"][view] / 255, manager.photograph01(view))
