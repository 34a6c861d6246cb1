"""The Edit tab of a real run, used by hands in Chromium.

Pictures of the page are kept in the test's folder, or in the one that SCREENSHOTS names.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, WEBGL, open_page
from edit_runs import start
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from PIL import Image

from csd_nerf.methods.csd_edit.config import csd_edit_tiny
from csd_nerf.synthetic.dataset import write_dataset
from csd_nerf.synthetic.options import SceneSettings


@pytest.fixture
def run(tmp_path):
    """A run of csd-edit-tiny with a viewer, which trains in a thread."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium or Chrome")
    data = tmp_path / "data"
    write_dataset(data, SceneSettings(views=16, size=48))
    config = copy.deepcopy(csd_edit_tiny.config)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.timestamp = tmp_path, "run"
    config.steps_per_save = config.steps_per_eval_batch = config.steps_per_eval_image = 10**9
    config.logging.profiler = "none"
    config.vis, config.viewer.quit_on_train_completion = "viewer", True
    config.viewer.max_res = 96
    pipeline = config.pipeline
    pipeline.prompt = "make it night"
    pipeline.source_steps, pipeline.edit_steps, pipeline.edit_every = 120, 10**6, 10**5
    pipeline.edit_views = 4
    pipeline.edit = dataclasses.replace(pipeline.edit, iterations=8)
    pipeline.datamanager.train_num_rays_per_batch = 256
    trainer = start(config)
    training = threading.Thread(target=trainer.train)
    training.start()
    try:
        yield trainer
    finally:
        trainer.stop_training = True
        training.join(60)
        # A thread that renders when Python ends takes the process down.
        for machine in [t for t in threading.enumerate() if isinstance(t, RenderStateMachine)]:
            machine.running = False
            machine.join(30)
        trainer.viewer_state.viser_server.stop()


class Tab:
    """The page, by what a user reads on it."""

    def __init__(self, page, folder):
        self.page, self.folder = page, folder

    def button(self, words):
        return (
            "[...document.querySelectorAll('button')]"
            f".find(b => b.textContent.trim() === {json.dumps(words)})"
        )

    def field(self, label):
        return (
            "[...document.querySelectorAll('label')]"
            f".find(l => l.textContent === {json.dumps(label)})"
            "?.closest('.mantine-Flex-root').querySelector('input')"
        )

    def can_press(self, words):
        return f"!!{self.button(words)} && !{self.button(words)}.disabled"

    def press(self, words, *, seconds=60):
        self.page.until(self.can_press(words), seconds=seconds)
        self.page.click_element(self.button(words))

    def type(self, label, text):
        self.page.click_element(self.field(label))
        self.page.press("a", 65, modifiers=2, commands=["selectAll"])
        self.page.type(text)
        self.page.until(f"{self.field(label)}.value === {json.dumps(text)}")

    def choose(self, label, option):
        found = (
            "[...document.querySelectorAll('[role=option]')]"
            f".find(o => o.textContent.startsWith({json.dumps(option)}) && o.offsetParent)"
        )
        self.page.click_element(self.field(label))
        self.page.until(f"!!{found}")
        self.page.click_element(found)
        self.page.until(f"{self.field(label)}.value.startsWith({json.dumps(option)})")

    def open(self, folder):
        self.page.click_element(
            "[...document.querySelectorAll('.mantine-Paper-root')]"
            f".filter(e => e.textContent === {json.dumps(folder)}).pop()"
        )

    def says(self, words, *, seconds=60):
        self.page.until(f"document.body.innerText.includes({json.dumps(words)})", seconds=seconds)

    def bottom(self, element):
        return self.page.js(f"{element}.getBoundingClientRect().bottom")

    def shot(self, name):
        return Image.open(io.BytesIO(self.page.picture(self.folder / f"{name}.png"))).convert("RGB")

    def scene(self, name):
        """Mean colour of the middle of the scene's picture, in [0, 1]."""
        width, height = (picture := self.shot(name)).size
        # The panel covers the right.
        box = (width // 4, height // 4, width // 2, 3 * height // 4)
        return np.asarray(picture.crop(box), float).mean((0, 1)) / 255

    def scene_when(self, name, is_so, *, seconds):
        end = time.monotonic() + seconds
        while not is_so(colour := self.scene(name)):
            assert time.monotonic() < end, (name, colour)
            time.sleep(1)
        return colour


# Looks, however far the training after a round is: sunset by red minus blue (0.35, day 0.18), day
# by its blue (0.58, both edits 0.3), night by its mean (0.2; a page without a picture is black).
def _is_night(colour):
    return 0.05 < colour.mean() < 0.35


def _is_sunset(colour):
    return colour[0] - colour[2] > 0.26


def _is_day(colour):
    return colour[2] > 0.45


def test_hands_edit_a_scene(run, tmp_path):
    folder = run.base_dir
    address = f"http://127.0.0.1:{run.viewer_state.viser_server.get_port()}"
    pictures = Path(os.environ.get("SCREENSHOTS", tmp_path / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    with open_page(address, tmp_path, flags=WEBGL) as page:
        page.size(1400, 768)
        tab = Tab(page, pictures)
        page.until(f"!!{tab.button('Edit now')}", seconds=60)
        # Black as long as there is no picture.
        tab.scene_when("0_source", _is_day, seconds=60)
        tab.says("Round 0: make it night", seconds=120)
        for element in (
            tab.field("Prompt"),
            tab.button("Preview this view"),
            tab.button("Edit now"),
            "[...document.querySelectorAll('div')].find(d => d.textContent.startsWith('Next round')"
            " || d.textContent.startsWith('Training ends'))",
        ):
            assert page.until(f"!!({element})")
            assert tab.bottom(element) < 768
        tab.scene_when("1_night", _is_night, seconds=90)

        tab.type("Prompt", "make it sunset")
        tab.says("Start from")
        # Of the last round's pairs, to which the preview's is added.
        edits = (
            "[...document.querySelectorAll('img')].filter(i => i.alt === 'after' &&"
            " i.naturalWidth > 0 && i.getBoundingClientRect().width > 150).length"
        )
        of_round = page.js(edits)
        tab.press("Preview this view")
        page.until(f"{edits} === {of_round + 1}", seconds=60)
        tab.shot("2_preview")
        assert not (folder / "rounds" / "round_001.png").exists()

        tab.press("Edit now")
        tab.says("Round 1: make it sunset", seconds=60)
        assert (folder / "rounds" / "round_001.png").exists()
        tab.scene_when("3_sunset", _is_sunset, seconds=90)

        tab.press("Show all views")
        page.until("[...document.querySelectorAll('img')].some(i => i.alt === 'sheet')")
        time.sleep(1)
        tab.shot("4_sheet")
        tab.press("Close")
        page.until("!document.querySelector('.mantine-Modal-overlay')")

        tab.choose("Show", "before the edit")
        tab.scene_when("5_before", _is_day, seconds=120)
        tab.choose("Show", "both")
        time.sleep(3)
        tab.shot("6_both")
        tab.choose("Show", "after the edit")
        tab.scene_when("7_after", _is_sunset, seconds=120)

        tab.open("History")
        tab.press("Undo to this")
        tab.says("Back at the end of round 0")
        tab.scene_when("8_undone", _is_night, seconds=120)
        tab.press("Reset")
        tab.says("Back at the unedited scene")
        tab.scene_when("9_reset", _is_day, seconds=120)

        page.size(1920, 1080)
        tab.press("Save")
        tab.says("Saved: ")
        tab.shot("10_saved")
        assert list((folder / "nerfstudio_models").glob("*.ckpt"))

        page.click_element(tab.field("Region box"))
        region = f"{tab.field('Region')}.value"
        page.until(f"{region}.split(',').length === 6")
        begin = page.js(region)
        time.sleep(2)
        tab.shot("11_box")
        # The box is around what the camera looks at, in the middle; an arrow points up from there.
        scene = "[...document.querySelectorAll('canvas')].pop().getBoundingClientRect()"
        width, height = page.js(f"{scene}.width"), page.js(f"{scene}.height")
        page.drag((width / 2, height / 2 - 69), (width / 2, height / 2 - 129))
        page.until(f"{region} !== {json.dumps(begin)}")
        moved = _numbers(page.js(region)) - _numbers(begin)
        assert moved[2] == pytest.approx(moved[5], abs=2e-3)
        assert moved[2] > 0.02
        assert abs(moved[[0, 1, 3, 4]]).max() < 2e-3
        tab.shot("12_moved")


def _numbers(text):
    return np.array([float(part) for part in text.split(",")])
