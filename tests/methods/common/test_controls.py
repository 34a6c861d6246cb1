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
    assert [request.edit_now, request.paused, request.return_to] == [False, False, None]


def test_what_is_changed_is_read_and_a_button_acts_once():
    controls = ViewerControls(EditRequest("make it snow", "", "", EditSettings()))
    controls.prompt.value = "make it night"
    controls.image_scale.value = 2.5
    controls.edit_button.cb_hook(controls.edit_button)
    controls.reset_button.cb_hook(controls.reset_button)
    first, second = controls.read(editing=True), controls.read(editing=True)
    assert (first.prompt, first.settings.image_scale) == ("make it night", 2.5)
    assert [first.edit_now, first.return_to] == [True, -1]
    assert [second.edit_now, second.return_to] == [False, None]


def test_a_button_pressed_before_editing_waits_for_it():
    controls = ViewerControls(EditRequest("make it snow", "", "", EditSettings()))
    controls.edit_button.cb_hook(controls.edit_button)
    controls.reset_button.cb_hook(controls.reset_button)
    before = controls.read(editing=False)
    assert [before.edit_now, before.return_to] == [False, None]
    first, second = controls.read(editing=True), controls.read(editing=True)
    assert [first.edit_now, first.return_to] == [True, -1]
    assert [second.edit_now, second.return_to] == [False, None]


UNKNOWN = 'the bundled prior doesn\'t know "make it a cat"'


class Panel:
    """What markdown a viewer shows."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def add_markdown(self, text: str) -> SimpleNamespace:
        self.shown.append(text)
        return SimpleNamespace(remove=lambda: self.shown.remove(text))


def test_a_prompt_that_the_bundled_prior_does_not_know_is_told_in_the_panel():
    controls = ViewerControls(EditRequest("make it a cat", "", "", EditSettings()), prior="tiny")
    controls.read(editing=False)  # No viewer: nothing happens.
    panel = Panel()
    controls.viewer_control.viser_server = SimpleNamespace(gui=panel)
    for _ in range(2):
        request = controls.read(editing=False)
    (text,) = panel.shown
    assert text.startswith(f"**Note:** {UNKNOWN}")
    assert [notice.startswith(UNKNOWN) for notice in controls.notices(request)] == [True]
    controls.prompt.value = "make it a dog"
    assert [line.split('"')[1] for line in controls.notices(controls.read(editing=True))] == [
        "make it a dog"
    ]
    (text,) = panel.shown
    assert "make it a dog" in text
    controls.prompt.value = "make it snow"
    assert controls.notices(controls.read(editing=True)) == []
    assert panel.shown == []


def test_no_prompt_is_unknown_to_another_prior():
    request = EditRequest("make it a cat", "", "", EditSettings())
    controls = ViewerControls(request, prior="instruct-pix2pix")
    controls.viewer_control.viser_server = SimpleNamespace(gui=Panel())
    assert controls.notices(controls.read(editing=True)) == []
    assert controls.viewer_control.viser_server.gui.shown == []


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
