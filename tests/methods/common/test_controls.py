from __future__ import annotations

from types import SimpleNamespace

from PIL import Image

from csd_nerf.core.settings import EditSettings
from csd_nerf.methods.common.controls import ViewerControls
from csd_nerf.scene.controls import EditRequest


def test_without_a_viewer_the_options_stay_as_they_are():
    settings = EditSettings(text_scale=5.0, image_scale=1.25)
    request = ViewerControls(EditRequest("make it snow", "blurry", "a valley", settings)).read(
        editing=True
    )
    assert (request.prompt, request.negative_prompt) == ("make it snow", "blurry")
    assert request.settings == settings
    assert [request.edit_now, request.paused, request.reset] == [False] * 3


def test_what_is_changed_is_read_and_a_button_acts_once():
    controls = ViewerControls(EditRequest("make it snow", "", "", EditSettings()))
    controls.prompt.value = "make it night"
    controls.image_scale.value = 2.5
    controls.edit_button.cb_hook(controls.edit_button)
    controls.reset_button.cb_hook(controls.reset_button)
    first, second = controls.read(editing=True), controls.read(editing=True)
    assert (first.prompt, first.settings.image_scale) == ("make it night", 2.5)
    assert [first.edit_now, first.reset] == [True, True]
    assert [second.edit_now, second.reset] == [False, False]


def test_a_button_pressed_before_editing_waits_for_it():
    controls = ViewerControls(EditRequest("make it snow", "", "", EditSettings()))
    controls.edit_button.cb_hook(controls.edit_button)
    controls.reset_button.cb_hook(controls.reset_button)
    before = controls.read(editing=False)
    assert [before.edit_now, before.reset] == [False, True]
    first, second = controls.read(editing=True), controls.read(editing=True)
    assert [first.edit_now, first.reset] == [True, False]
    assert not second.edit_now


def test_the_last_round_is_shown_where_a_viewer_runs(tmp_path):
    shown = []

    class Handle:
        def __init__(self, text, image_root):
            self.text, self.image_root = text, image_root
            shown.append(self)

        def remove(self):
            shown.remove(self)

    controls = ViewerControls(EditRequest("", "", "", EditSettings()))
    controls.show_picture(tmp_path / "round_000.png")  # No viewer: nothing happens.
    assert shown == []
    gui = SimpleNamespace(add_markdown=Handle)
    controls.viewer_control.viser_server = SimpleNamespace(gui=gui)
    for index in range(2):
        path = tmp_path / f"round_{index:03d}.png"
        Image.new("RGB", (2, 2)).save(path)
        controls.show_picture(path)
    (handle,) = shown
    assert "(round_001.png)" in handle.text
    assert handle.image_root == tmp_path
