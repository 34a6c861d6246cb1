"""The Edit tab, used by browsers without a screen."""

from __future__ import annotations

import base64
import io
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import viser
from PIL import Image
from viser_client import VIEW, ViserClient, browser_at

from csd_nerf.core.settings import EditSettings
from csd_nerf.methods.common.controls import ViewerControls
from csd_nerf.methods.common.edit_tab import Numbers
from csd_nerf.methods.common.tab_status import duration
from csd_nerf.scene.controls import Controls, EditRequest, PastRound, Progress

REQUEST = EditRequest("make it snow", "", "a valley", EditSettings(text_scale=5.0))
ROUNDS = [
    PastRound(0, 10, "make it night", "", 4, 3.0),
    PastRound(1, 20, "make it snow", "", 4, 3.0),
]


class FakeDesk:
    """The viewer around the tab."""

    def __init__(self) -> None:
        self.shown: list[str | None] = []
        self.waits = ""

    def camera(self, client):
        return ("camera of", client.client_id)

    def show_output(self, name):
        self.shown.append(name)

    def waits_for(self):
        return self.waits


@pytest.fixture(scope="module")
def server():
    server = viser.ViserServer(host="127.0.0.1", port=18080, verbose=False)
    yield server
    server.stop()


class Opened(SimpleNamespace):
    controls: ViewerControls
    desk: FakeDesk
    page: ViserClient

    def read(self, *, editing: bool = True) -> EditRequest:
        return self.controls.read(editing=editing)

    def read_when(self, is_so, *, editing: bool = True) -> EditRequest:
        """The first request for which something is so, as steps of training read them."""
        end = time.monotonic() + 10
        while not is_so(request := self.read(editing=editing)):
            assert time.monotonic() < end
            time.sleep(0.02)
        return request


@pytest.fixture
def opened(server):
    """A tab in a server, which a browser has opened."""
    tabs = server.gui.add_tab_group()
    controls, desk = ViewerControls(REQUEST, prior="tiny", numbers=Numbers(4, 12, 7)), FakeDesk()
    controls.open(server, desk, container=tabs.add_tab("Edit"))
    with browser_at(server.get_port()) as page:
        page.until(lambda: "Save" in {part.get("label") for part in page.parts.values()})
        yield Opened(controls=controls, desk=desk, page=page, server=server)
    tabs.remove()


def test_without_a_viewer_the_options_stay_as_they_are():
    controls = ViewerControls(REQUEST)
    assert isinstance(controls, Controls)
    assert controls.read(editing=True) == REQUEST
    controls.show_progress(Progress("source 1/2", 0.5))
    controls.show_history(ROUNDS)
    controls.show_preview(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4))
    controls.show_failure("no")
    controls.paused = True
    assert controls.read(editing=True).paused


def test_a_user_who_changes_nothing_asks_for_what_the_options_say(opened):
    found = opened.read()
    assert (found.prompt, found.settings, found.source_prompt) == (
        "make it snow",
        REQUEST.settings,
        "a valley",
    )
    assert (found.views, found.seed, found.region, found.chain) == (4, 7, "", False)
    assert [found.edit_now, found.paused, found.save] == [False] * 3
    assert (found.return_to, found.preview) == (None, None)


def test_what_is_typed_is_read(opened):
    page = opened.page
    typed = {"Prompt": "make it night", "Avoid": "fog", "Region": "the car", "Text scale": 7.5}
    typed |= {"Image scale": 1.25, "Views": 3, "Iterations": 50, "Seed": 11, "Pause editing": True}
    for label, value in typed.items():
        page.set(label, value)
    found = opened.read_when(lambda request: request.region and request.paused)
    assert (found.prompt, found.negative_prompt) == ("make it night", "fog")
    assert found.region == "the car"
    settings = found.settings
    assert (settings.text_scale, settings.image_scale, settings.iterations) == (7.5, 1.25, 50)
    assert (found.views, found.seed) == (3, 11)


def test_half_a_prompt_begins_no_round_but_a_press_takes_it_as_it_is(opened):
    page = opened.page
    page.set("Prompt", "make it ni")
    page.set("Views", 3)
    found = opened.read_when(lambda request: request.views == 3)
    assert found.prompt == "make it snow"
    page.set("Prompt", "make it night")
    page.press("Edit now")
    found = opened.read_when(lambda request: request.edit_now)
    assert found.prompt == "make it night"
    assert not opened.read().edit_now


def test_a_preview_takes_a_prompt_as_it_is(opened):
    opened_id(opened)
    opened.page.set("Prompt", "make it ni")
    opened.page.press("Preview this view")
    assert opened.read_when(lambda request: request.preview).prompt == "make it ni"


@pytest.mark.parametrize(
    ("label", "typed", "field", "expected"),
    [
        ("Text scale", 1e9, "text_scale", 30.0),
        ("Text scale", -1, "text_scale", 0.0),
        ("Text scale", float("nan"), "text_scale", 5.0),
        ("Text scale", float("inf"), "text_scale", 5.0),
        ("Iterations", 0, "iterations", 1),
        ("Iterations", 10**12, "iterations", 2000),
    ],
)
def test_no_number_that_is_typed_leaves_its_bounds(opened, label, typed, field, expected):
    opened.page.set(label, typed)
    opened.page.set("Views", 99)
    found = opened.read_when(lambda request: request.views == 12)
    assert getattr(found.settings, field) == expected


def test_an_option_beyond_the_bounds_is_its_own_bound(server):
    settings = EditSettings(text_scale=45.0, image_scale=-1.0, iterations=3000)
    tabs = server.gui.add_tab_group()
    controls = ViewerControls(EditRequest("make it snow", "", "", settings))
    controls.open(server, FakeDesk(), container=tabs.add_tab("Edit"))
    found = controls.read(editing=True)
    tabs.remove()
    assert found.settings == settings


def test_what_is_no_number_is_not_heeded(opened, capfd):
    for typed in ("-", "", "1e", None):
        opened.page.set("Iterations", typed)
    opened.page.set("Views", 3)
    found = opened.read_when(lambda request: request.views == 3)
    assert found.settings.iterations == REQUEST.settings.iterations


@pytest.mark.parametrize("button", ["Edit now", "Preview this view", "Save", "Reset"])
def test_a_press_is_heeded_once(opened, button):
    field, value = {
        "Edit now": ("edit_now", True),
        "Preview this view": ("preview", ("camera of", opened_id(opened))),
        "Save": ("save", True),
        "Reset": ("return_to", -1),
    }[button]
    usual = getattr(opened.read(), field)
    opened.page.press(button)
    found = opened.read_when(lambda request: getattr(request, field) != usual)
    assert getattr(found, field) == value
    assert getattr(opened.read(), field) == usual


def opened_id(opened) -> int:
    end = time.monotonic() + 10
    while not opened.server.get_clients():
        assert time.monotonic() < end
        time.sleep(0.01)
    return max(opened.server.get_clients())


def test_before_editing_an_edit_and_an_undo_wait_and_a_preview_does_not(opened):
    opened_id(opened)
    for button in ("Edit now", "Reset", "Preview this view"):
        opened.page.press(button)
    found = opened.read_when(lambda request: request.preview, editing=False)
    opened.page.until(lambda: opened.page.shows("when the scene has been trained"))
    assert (found.edit_now, found.return_to) == (False, None)
    later = opened.read(editing=True)
    assert (later.edit_now, later.return_to, later.preview) == (True, -1, None)


def test_every_browser_sees_the_same_also_one_that_comes_later(opened):
    first, controls = opened.page, opened.controls
    first.set("Prompt", "make it night")
    first.set("Views", 3)
    opened.read_when(lambda request: request.views == 3)
    controls.show_history(ROUNDS)
    controls.show_progress(Progress("round 2: iteration 12/30", 0.4, 40.0))
    controls.paused = True
    opened.read()
    with browser_at(opened.server.get_port()) as second:
        for page in (first, second):
            page.until(lambda page=page: page.shows("Round 2: iteration 12/30, 40 s left"))
            page.until(lambda page=page: page.part("Edit now")["disabled"])
        assert second.part("Prompt")["value"] == "make it night"
        assert second.part("Views")["value"] == 3
        assert second.part("Pause editing")["value"] is True
        assert second.part("Round")["visible"]
        assert len(second.part("Round")["options"]) == 2
        (bar,) = (p for p in second.parts.values() if p["type"] == "GuiAddProgressBarMessage")
        assert (bar["visible"], bar["value"]) == (True, 40.0)
        second.set("Prompt", "make it autumn")
        first.until(lambda: first.part("Prompt")["value"] == "make it autumn")


def test_buttons_rest_while_they_can_do_nothing_and_the_status_says_why(opened):
    page, controls = opened.page, opened.controls

    def off(*labels):
        return lambda: all(page.part(label)["disabled"] for label in labels)

    def on(*labels):
        return lambda: not any(page.part(label)["disabled"] for label in labels)

    opened.read(editing=False)
    page.until(off("Undo to this", "Reset", "Show"))
    page.until(on("Edit now", "Preview this view", "Save"))
    assert page.shows("nothing to go back to")
    opened.read(editing=True)
    page.until(on("Reset", "Show"))
    controls.show_history(ROUNDS)
    page.until(on("Undo to this"))
    assert page.part("Round")["value"].startswith("0: make it night")
    page.set("Round", page.part("Round")["options"][0])
    page.until(off("Undo to this"))
    controls.show_progress(Progress("round 2: iteration 1/30", 0.0))
    page.until(off("Edit now", "Preview this view"))
    controls.show_progress(Progress("next round in 1,200 steps"))
    page.until(on("Edit now", "Preview this view"))
    opened.desk.waits = "Training is paused."
    controls.refresh()
    page.until(off("Edit now", "Preview this view", "Save", "Undo to this", "Reset"))
    assert page.shows("Training is paused.")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-3, "0 s"), (89.4, "89 s"), (100, "2 min"), (5000, "83 min"), (7330, "2 h 2 min")],
)
def test_a_time_is_told_in_few_words(seconds, told):
    assert duration(float(seconds)) == told


def test_undoing_names_the_round_that_is_chosen(opened):
    opened.controls.show_history(ROUNDS)
    opened.read()
    opened.page.until(lambda: opened.page.part("Round")["visible"])
    opened.page.press("Undo to this")
    assert opened.read_when(lambda request: request.return_to is not None).return_to == 0


def test_a_new_prompt_asks_what_it_edits_once_there_was_a_round(opened):
    page = opened.page
    opened.controls.show_history(ROUNDS)
    assert not page.part("Start from")["visible"]
    page.set("Prompt", "make it autumn")
    page.until(lambda: page.part("Start from")["visible"])
    assert not opened.read().chain
    page.set("Start from", "what the scene shows")
    opened.read_when(lambda request: request.chain)
    page.set("Prompt", "make it snow")
    page.until(lambda: not page.part("Start from")["visible"])


def test_pictures_come_as_small_data_and_texts_are_never_run(opened):
    page, controls = opened.page, opened.controls
    before01, after01 = torch.zeros(3, 600, 900), torch.ones(3, 600, 900)
    controls.show_preview(before01, after01)
    page.until(lambda: page.shows("data:image/jpeg"))
    assert page.part("Preview")["visible"]
    controls.show_failure('{alert(1)} <b>"no"</b> ![x](/etc/passwd)')
    page.until(lambda: page.shows("alert(1)"))
    (status,) = (p["markdown"] for p in page.parts.values() if "alert(1)" in p.get("markdown", ""))
    # A string of JavaScript: quoted, and what would end it is not.
    assert '>{"{alert(1)} <b>\\"no\\"</b> ![x](/etc/passwd)"}<' in status
    assert all(len(p.get("markdown", "")) < 200_000 for p in page.parts.values())


def test_the_last_round_is_shown_and_its_sheet_opens_in_the_browser_that_asks(opened, tmp_path):
    page, sheet = opened.page, tmp_path / "round_003.png"
    Image.fromarray(np.zeros((40, 2000, 3), np.uint8)).save(sheet)
    pairs = [(f"frame {n}", torch.zeros(3, 8, 8), torch.ones(3, 8, 8)) for n in range(4)]
    opened.controls.show_round(3, pairs, sheet, title="Round 3: make it snow")
    page.until(lambda: page.shows("frame 3"))
    assert page.shows("Round 3: make it snow")
    with browser_at(opened.server.get_port()) as other:
        other.until(lambda: other.shows("frame 3"))
        page.press("Show all views")
        page.until(lambda: any(p["type"] == "GuiModalMessage" for p in page.parts.values()))
        page.until(lambda: page.shows("Modal-content"))
        other.take(seconds=0.2)
        assert not any(p["type"] == "GuiModalMessage" for p in other.parts.values())
    page.press("Close")
    page.until(lambda: not any(p["type"] == "GuiModalMessage" for p in page.parts.values()))


def test_the_sheet_is_sent_large_enough_to_tell_its_views_apart(opened, tmp_path):
    page, sheet = opened.page, tmp_path / "round_000.png"
    Image.fromarray(np.zeros((40, 2000, 3), np.uint8)).save(sheet)
    opened.controls.show_round(0, [], sheet, title="Round 0: make it snow")
    page.until(lambda: page.shows("Round 0: make it snow"))
    opened_id(opened)
    page.press("Show all views")
    page.until(lambda: page.shows("Modal-content"))
    (shown,) = (p["markdown"] for p in page.parts.values() if "Modal-" in p.get("markdown", ""))
    data = base64.b64decode(shown.partition("base64,")[2].partition('"')[0])
    assert Image.open(io.BytesIO(data)).size == (1060, 21)


def test_the_pictures_are_those_of_the_last_round_that_was_not_undone(opened, tmp_path):
    page, controls = opened.page, opened.controls
    for past in ROUNDS:
        controls.show_history(ROUNDS[: past.index + 1])
        pair = ("frame 0", torch.zeros(3, 8, 8), torch.ones(3, 8, 8))
        title = f"Round {past.index}: {past.prompt}"
        controls.show_round(past.index, [pair], tmp_path / "sheet.png", title=title)
    page.until(lambda: page.shows("Round 1: make it snow"))
    controls.show_history(ROUNDS[:1])
    page.until(lambda: page.shows("Round 0: make it night"))
    controls.show_history([])
    page.until(lambda: not page.part("Last round")["visible"])


def test_the_box_and_the_region_follow_each_other(opened):
    page = opened.page
    opened_id(opened)
    page.set("Region box", True)
    page.until(lambda: page.part("Region")["value"])
    # A quarter of the distance of 2, around what the camera looks at.
    assert page.part("Region")["value"] == "-0.25,-0.25,-0.25,0.25,0.25,0.25"
    page.set("Region", "0.4,0,0,0,0.2,0.2")
    centre = ("SetPositionMessage", "/edit_region/centre")
    page.until(lambda: page.nodes.get(centre, {}).get("position") == [2.0, 1.0, 1.0])
    still = {"wxyz": (1.0, 0.0, 0.0, 0.0), "type": "TransformControlsUpdateMessage"}
    page.send(**still, name="/edit_region/centre", position=(3.0, 1.0, 1.0))
    page.until(lambda: page.part("Region")["value"] == "0.1,0,0,0.5,0.2,0.2")
    page.send(**still, name="/edit_region/corner", position=(6.0, -9.0, 3.0))
    page.until(lambda: page.part("Region")["value"] == "0.1,0,0,0.6,0.01,0.3")
    assert opened.read_when(lambda request: request.region).region  # It may take a while to settle.
    page.set("Region box", False)
    page.until(lambda: ("RemoveSceneNodeMessage", "/edit_region/box") in page.nodes)
    assert page.part("Region")["value"] == "0.1,0,0,0.6,0.01,0.3"


STILL = {"wxyz": (1.0, 0.0, 0.0, 0.0), "type": "TransformControlsUpdateMessage"}
CORNER = ("SetPositionMessage", "/edit_region/corner")


def show_cube(opened, edge):
    """Show a cube from the origin to a user who sees it along its diagonal, roughly."""
    page = opened.page
    opened_id(opened)
    page.send(**{**VIEW, "position": (30.0, 30.0, 20.0), "look_at": (0.0, 0.0, 0.0)})
    page.set("Region", f"0,0,0,{edge},{edge},{edge}")
    page.set("Region box", True)
    page.until(lambda: page.nodes.get(CORNER, {}).get("position") == [0.0, 10 * edge, 10 * edge])
    return page


def test_the_handle_of_a_corner_is_beside_that_of_the_centre(opened):
    page = show_cube(opened, 0.2)
    page.send(**STILL, name="/edit_region/corner", position=(-1.0, 3.0, 4.0))
    page.until(lambda: page.part("Region")["value"] == "-0.1,0,0,0.2,0.3,0.4")
    # Beyond the opposite corner it can't get.
    page.send(**STILL, name="/edit_region/corner", position=(5.0, -1.0, 4.0))
    page.until(lambda: page.part("Region")["value"] == "0.19,0,0,0.2,0.01,0.4")


def test_the_handle_of_a_corner_goes_with_a_box_that_is_moved(opened):
    page = show_cube(opened, 0.3)
    page.send(**STILL, name="/edit_region/centre", position=(3.5, 1.5, 1.5))
    page.until(lambda: page.nodes[CORNER]["position"] == pytest.approx([2.0, 3.0, 3.0]))


def test_the_corner_of_the_handle_is_chosen_from_where_the_camera_is_in_the_scene(opened):
    page = opened.page
    opened_id(opened)
    # Straight before a face: all corners are seen equally far from the centre.
    page.send(**{**VIEW, "position": (5.0, 1.0, 1.0), "look_at": (2.0, 1.0, 1.0)})
    page.set("Region", "0,0,0,0.4,0.2,0.2")
    page.set("Region box", True)
    corner = ("SetPositionMessage", "/edit_region/corner")
    page.until(lambda: page.nodes.get(corner, {}).get("position") == [4.0, 2.0, 2.0])


def test_the_scene_can_be_shown_before_and_after(opened):
    opened.read()
    opened.page.until(lambda: not opened.page.part("Show")["disabled"])
    for choice in ("before the edit", "both, side by side", "after the edit"):
        count, end = len(opened.desk.shown), time.monotonic() + 30
        opened.page.set("Show", choice)
        while len(opened.desk.shown) == count:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert opened.desk.shown == ["unedited", None, "rgb"]


def test_unknown_prompts_are_noted_below_the_prompt(opened):
    page, unknown = opened.page, "the bundled prior doesn't know"
    page.set("Prompt", "make it a cat")
    page.press("Edit now")
    opened.read_when(lambda request: request.edit_now)
    page.until(lambda: page.shows(unknown))
    page.set("Prompt", "make it night")
    page.press("Edit now")
    opened.read_when(lambda request: request.edit_now)
    page.until(lambda: not page.shows(unknown))


def test_what_is_wrong_with_a_region_is_told_below_it(opened):
    page = opened.page
    page.set("Region", "1,2,3")
    page.press("Edit now")
    opened.read_when(lambda request: request.edit_now)
    page.until(lambda: page.shows("needs 6 numbers"))
    page.set("Region", "the car")
    page.press("Edit now")
    opened.read_when(lambda request: request.edit_now)
    page.until(lambda: not page.shows("needs 6 numbers"))


def test_no_prompt_is_unknown_to_another_prior():
    request = EditRequest("make it a cat", "", "", EditSettings())
    assert ViewerControls(request, prior="instruct-pix2pix").notices(request) == []
    (notice,) = ViewerControls(request, prior="tiny").notices(request)
    assert notice.startswith('the bundled prior doesn\'t know "make it a cat"')


def test_the_viewer_renders_during_a_round_between_reports_and_at_no_other_time(opened):
    opened_id(opened)
    lock, got = threading.Lock(), []
    lock.acquire()

    def render():
        with lock:
            got.append(True)

    renderer = threading.Thread(target=render)
    renderer.start()
    opened.controls.show_progress(Progress("round 0: iteration 1/30", 0.1))
    assert got == []
    with opened.controls.lending(lock):
        opened.controls.show_progress(Progress("round 0: iteration 2/30", 0.1))
        assert got == [True]
        assert lock.locked()
    renderer.join()
