"""The bundled prior: it is there, it is small, and it does what its card says."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import pytest
import torch

from benchmarks.truth.choice_scores import Judged
from benchmarks.worlds.choices import draw_choice_set
from csd_nerf import priors
from csd_nerf.core.settings import EditSettings
from csd_nerf.editor import edit_images
from csd_nerf.evaluation.similarity import psnr
from csd_nerf.priors.sampling import sample_edit
from csd_nerf.synthetic.cameras import orbit_cameras
from csd_nerf.synthetic.edits import find_edit
from csd_nerf.synthetic.render import render
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, draw_scenes


@pytest.fixture(scope="module")
def tiny():
    return priors.load("tiny")


@pytest.fixture(scope="module")
def views01():
    scenes = draw_scenes([SPLIT_SEEDS["benchmark"][19]]).repeat(3)
    cameras = orbit_cameras(torch.tensor([0.0, 0.2, 0.4]), torch.full((3,), 0.3))
    return render(scenes, cameras, height=64, width=64).image01


def test_the_bundled_folder_stays_within_twenty_megabytes():
    folder = files("csd_nerf") / "assets" / "tiny"
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert 1e6 < sum(sizes) < 20e6


def test_the_autoencoder_keeps_scenes(tiny, views01):
    assert psnr(tiny.decode(tiny.encode(views01)), views01) > 26


def test_the_card_says_how_it_was_made_and_measured():
    card = (files("csd_nerf") / "assets" / "tiny" / "README.md").read_text()
    assert "## Recipe" in card
    assert "| **look** |" in card


@pytest.mark.parametrize("name", ["sepia", "night"])
def test_csd_edit_comes_nearer_to_the_true_look_than_the_source(tiny, views01, name):
    edit = find_edit(name)
    truth01 = edit.edit_image(views01)
    result = edit_images(
        tiny,
        views01,
        prompt=edit.instructions[0],
        settings=EditSettings(iterations=20, learning_rate=4.0, text_scale=3.0),
        generator=torch.Generator().manual_seed(0),
    )
    assert psnr(result.image01, truth01) > psnr(views01, truth01) + 3


def test_plain_sampling_comes_nearer_to_the_true_look_than_the_source(tiny, views01):
    edit = find_edit("sepia")
    truth01 = edit.edit_image(views01)
    sampled = sample_edit(
        tiny,
        views01,
        edit.unseen_instruction,
        text_scale=1.5,
        image_scale=1.5,
        steps=10,
        generator=torch.Generator().manual_seed(0),
    )
    assert psnr(sampled, truth01) > psnr(views01, truth01) + 3


def test_views_that_disagree_when_left_alone_agree_when_mixed_by_patches(tiny):
    """One instruction with several right answers: what joint editing is for."""
    given = draw_choice_set("views", 5, "validation")
    alone = EditSettings(
        iterations=15,
        learning_rate=2.0,
        decay_every=3,
        text_scale=3.0,
        image_scale=1.0,
        t_range=(0.02, 0.8),
        t_order="falling",
        noise="independent",
        mixing="none",
    )
    agreement = {}
    for mixing in ("none", "patch"):
        result = edit_images(
            tiny,
            given.source01,
            prompt=given.choice.instructions[0],
            settings=replace(alone, mixing=mixing),
            generator=torch.Generator().manual_seed(1),
        )
        judged = Judged(result.image01, given.truths01, given.source01, given.region)
        assert judged.changed() > 0.6
        agreement[mixing] = judged.agreement()
    assert agreement["patch"] == 1
    assert agreement["none"] <= 0.7
