"""The Edit tab in nerfstudio's viewer, as a run opens and obeys it."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
import torch
from edit_runs import start
from viser_client import VIEW, browser_at


@pytest.fixture
def viewed(make_config, tint_prior):
    """A run with a viewer, before its first step, and a browser at it."""
    config = make_config()
    config.vis, config.viewer.quit_on_train_completion = "viewer", True
    config.viewer.max_res = 96
    trainer = start(config)
    server = trainer.viewer_state.viser_server
    with browser_at(server.get_port()) as page:
        page.until(lambda: "Save" in {part.get("label") for part in page.parts.values()})
        yield trainer, page
    server.stop()


def request_when(controls, is_so):
    end = time.monotonic() + 10
    while not is_so(request := controls.read(editing=True)):
        assert time.monotonic() < end
        time.sleep(0.02)
    return request


def test_the_edit_tab_comes_first_and_the_pictures_of_the_scene_begin_small(viewed):
    trainer, page = viewed
    (tabs,) = (part for part in page.parts.values() if "tab_labels" in part)
    page.until(lambda: "Export" in tabs["tab_labels"])
    assert list(tabs["tab_labels"]) == ["Edit", "Control", "Render", "Export"]
    edit = tabs["tab_container_ids"][0]
    order = [
        part["label"]
        for part in page.parts.values()
        if part.get("container_id") == edit and "label" in part
    ]
    assert order[:3] == ["Prompt", "Avoid", "Region"]
    assert order.index("Preview this view") < order.index("Edit now") < order.index("Save")
    assert page.part("Max res")["value"] == trainer.viewer_state.control_panel.max_res == 96
    assert page.part("Prompt")["value"] == "swap red and blue"
    assert (page.part("Views")["value"], page.part("Views")["max"]) == (4, 11)


def test_the_viewer_loads_no_prior(viewed, tint_prior):
    """nerfstudio evaluates every property of the pipeline on its way to the elements."""
    assert tint_prior == []


def test_a_preview_gets_the_camera_of_the_browser_that_asks(viewed):
    trainer, page = viewed
    controls = trainer.pipeline.controls
    page.press("Preview this view")
    camera = request_when(controls, lambda request: request.preview is not None).preview
    # The browser's camera looks along z with y down; nerfstudio's along -z with y up. The viewer's
    # scene is ten times as large.
    expected = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, -2]])
    torch.testing.assert_close(camera.camera_to_worlds[0], expected)
    height, width = int(camera.height), int(camera.width)
    assert width / height == VIEW["aspect"]
    angle = 2 * torch.atan(height / 2 / camera.fy)
    assert float(angle) == pytest.approx(VIEW["fov"], rel=1e-5)


def test_the_unedited_scene_is_an_output_that_is_rendered_only_while_it_is_shown(viewed):
    trainer, page = viewed
    model, panel = trainer.pipeline.model, trainer.viewer_state.control_panel
    page.until(lambda: "unedited" in page.part("Output type").get("options", ()))
    assert panel.output_render == "rgb"
    assert not model.shows_unedited
    for choice, output, split in (
        ("before the edit", "unedited", False),
        ("both, side by side", "rgb", True),
        ("after the edit", "rgb", False),
    ):
        page.set("Show", choice)
        page.until(lambda o=output, s=split: (panel.output_render, panel.split) == (o, s))
        assert not split or panel.split_output_render == "unedited"
        wanted = output == "unedited" or split
        page.until(lambda w=wanted: model.shows_unedited == w)


def test_while_training_is_paused_the_tab_says_that_nothing_is_heeded(viewed):
    _, page = viewed
    page.press("Pause Training")
    page.until(lambda: page.shows("press Resume Training"))
    assert page.part("Edit now")["disabled"]
    page.press("Resume Training")
    page.until(lambda: not page.part("Edit now")["disabled"])
    assert not page.shows("press Resume Training")


def test_a_run_obeys_the_tab_and_shows_its_rounds(viewed):
    trainer, page = viewed
    stage_before = trainer.pipeline._before_step
    held = []

    def ask_at_step_6(trainer, step):
        if step == 6:
            page.set("Prompt", "make it snow")
            page.press("Edit now")
            end = time.monotonic() + 10
            while not trainer.pipeline.controls._presses.edit_now:
                assert time.monotonic() < end
                time.sleep(0.01)
        stage_before(trainer, step)
        held.append(trainer.train_lock.locked())

    trainer.callbacks[-1].func = ask_at_step_6
    trainer.train()
    assert all(held)
    records = sorted((trainer.base_dir / "rounds").glob("*.json"))
    found = [json.loads(record.read_text()) for record in records]
    prompts = [(record["step"], record["prompt"]) for record in found]
    assert prompts == [
        (4, "swap red and blue"),
        (6, "make it snow"),
        (7, "make it snow"),
        (10, "make it snow"),
    ]
    page.until(lambda: page.shows("Round 3: make it snow"))
    page.until(lambda: page.shows("The run is finished and saved"))
    assert page.part("Edit now")["disabled"]
    assert len(page.part("Round")["options"]) == 4


def test_an_unknown_prompt_is_told_at_the_start_and_in_the_records_of_its_rounds(
    make_config, tint_prior, capsys
):
    trainer = start(make_config())
    told = " ".join(capsys.readouterr().out.split())
    assert 'csd-edit: the bundled prior doesn\'t know "swap red and blue"; it knows,' in told
    controls, before = trainer.pipeline.controls, trainer.pipeline._before_step

    def ask_anew_at_step_6(trainer, step):
        if step == 6:
            controls._request = dataclasses.replace(controls._request, prompt="make it snow")
        before(trainer, step)

    trainer.callbacks[-1].func = ask_anew_at_step_6
    trainer.train()
    records = sorted((trainer.base_dir / "rounds").glob("*.json"))
    notices = [json.loads(record.read_text())["notices"] for record in records]
    assert ["swap red and blue" in " ".join(lines) for lines in notices] == [True, False, False]
