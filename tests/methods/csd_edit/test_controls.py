from __future__ import annotations

from types import SimpleNamespace

import torch
from conftest import start
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement
from PIL import Image

from csd_nerf.core.settings import EditSettings
from csd_nerf.methods.csd_edit.controls import EditControls


def test_without_a_viewer_the_options_stay_as_they_are():
    settings = EditSettings(text_scale=5.0, image_scale=1.25)
    request = EditControls("make it snow", "blurry", settings).read()
    assert (request.prompt, request.negative_prompt) == ("make it snow", "blurry")
    assert request.settings == settings
    assert [request.edit_now, request.paused, request.reset] == [False] * 3


def test_what_is_changed_is_read_and_a_button_acts_once():
    controls = EditControls("make it snow", "", EditSettings())
    controls.prompt.value = "make it night"
    controls.image_scale.value = 2.5
    controls.edit_button.cb_hook(controls.edit_button)
    controls.reset_button.cb_hook(controls.reset_button)
    first, second = controls.read(), controls.read()
    assert (first.prompt, first.settings.image_scale) == ("make it night", 2.5)
    assert [first.edit_now, first.reset] == [True, True]
    assert [second.edit_now, second.reset] == [False, False]


def test_a_button_pressed_before_editing_waits_for_it():
    controls = EditControls("make it snow", "", EditSettings())
    controls.edit_button.cb_hook(controls.edit_button)
    controls.reset_button.cb_hook(controls.reset_button)
    before = controls.read(editing=False)
    assert [before.edit_now, before.reset] == [False, True]
    first, second = controls.read(), controls.read()
    assert [first.edit_now, first.reset] == [True, False]
    assert not second.edit_now


def test_the_viewer_finds_the_elements_in_the_pipeline(make_config, tint_prior):
    """It evaluates every property of the pipeline on the way; none may load the prior."""
    pipeline = start(make_config()).pipeline
    found = parse_object(pipeline, ViewerElement, "Custom Elements")
    names = {element.name for _, element in found}
    assert {"Prompt", "Text scale", "Image scale"} <= names
    assert {"Edit now", "Pause editing", "Reset to originals"} <= names
    assert tint_prior == []


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
        assert torch.equal(manager._cached["image"][view], manager.photograph01(view))


def test_the_last_round_is_shown_where_a_viewer_runs(tmp_path):
    shown = []

    class Handle:
        def __init__(self, text, image_root):
            self.text, self.image_root = text, image_root
            shown.append(self)

        def remove(self):
            shown.remove(self)

    controls = EditControls("", "", EditSettings())
    controls.show_round(tmp_path / "round_000.png")  # No viewer: nothing happens.
    assert shown == []
    gui = SimpleNamespace(add_markdown=Handle)
    controls.viewer_control.viser_server = SimpleNamespace(gui=gui)
    for index in range(2):
        path = tmp_path / f"round_{index:03d}.png"
        Image.new("RGB", (2, 2)).save(path)
        controls.show_round(path)
    (handle,) = shown
    assert "(round_001.png)" in handle.text
    assert handle.image_root == tmp_path
