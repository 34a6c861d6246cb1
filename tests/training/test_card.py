from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from csd_nerf.core.settings import EditSettings
from csd_nerf.evaluation.similarity import psnr
from csd_nerf.synthetic.dataset import render_views
from csd_nerf.synthetic.edits import find_edit
from csd_nerf.synthetic.looks import sepia
from csd_nerf.synthetic.scenes import SPLIT_SEEDS, draw_scenes
from training import card


@pytest.fixture(scope="module")
def measured(recipe, tmp_path_factory) -> card.Settings:
    """Settings of a card that was written into a copy of the prior."""
    folder = tmp_path_factory.mktemp("card")
    prior = shutil.copytree(recipe.output, folder / "tiny")
    Image.fromarray(np.full((60, 90, 3), (200, 120, 40), np.uint8)).save(folder / "photo.png")
    settings = card.Settings(
        prior=prior,
        views=2,
        edits=["sepia", "floor grass"],
        photographs=[folder / "photo.png"],
        sample_steps=2,
        edit=EditSettings(iterations=2),
        pictures=folder / "pictures",
    )
    card.main(settings)
    return settings


def test_every_edit_and_photograph_has_a_row(measured):
    evaluation = json.loads((measured.prior / "evaluation.json").read_text())
    rows = evaluation["rows"]
    assert [(r["edit"], r["on"]) for r in rows] == [
        ("sepia", "scene"),
        ("sepia", "photograph"),
        ("floor grass", "scene"),
    ]
    for row in rows:
        assert all(math.isfinite(row[c]) for c in card.COLUMNS)
    assert evaluation["settings"]["edit"]["iterations"] == 2


def test_the_source_s_distance_is_that_of_the_benchmark_scene(measured):
    row = json.loads((measured.prior / "evaluation.json").read_text())["rows"][0]
    scene = draw_scenes([SPLIT_SEEDS["benchmark"][0]])
    source = render_views(scene, card._arc(2), size=64).image01
    assert math.isclose(row["source"], psnr(source, sepia(source)), abs_tol=1e-3)
    photograph = torch.tensor([200, 120, 40]).view(1, 3, 1, 1) / 255
    row = json.loads((measured.prior / "evaluation.json").read_text())["rows"][1]
    assert math.isclose(row["source"], psnr(photograph, sepia(photograph)), abs_tol=1e-3)


def test_the_card_shows_the_numbers(measured):
    text = (measured.prior / "README.md").read_text()
    row = json.loads((measured.prior / "evaluation.json").read_text())["rows"][2]
    cells = " | ".join(f"{row[c]:.1f}" for c in card.COLUMNS)
    assert f"| **floor** | 1 | {cells} |" in text
    assert f"| floor grass | 1 | {cells} |" in text
    assert "| **look on photographs** | 1 |" in text
    assert "Not measured yet." not in text


def test_there_is_a_picture_of_each_edit(measured):
    assert {p.name for p in measured.pictures.iterdir()} == {"sepia.png", "floor grass.png"}


def test_means_are_taken_by_kind():
    means = dict.fromkeys(card.COLUMNS, 2.0) | {"csd": 3.0, "ceiling": 4.0}
    row = means | {"edit": "night", "kind": "look", "on": "scene"}
    rows = [row | {"source": 10.0}, row | {"source": 20.0, "edit": "sepia"}]
    rows.append(row | {"source": 7.0, "on": "photograph"})
    assert card.summary(rows) == [
        ("look", 2, means | {"source": 15.0}),
        ("look on photographs", 1, means | {"source": 7.0}),
    ]


def test_a_scene_shows_what_is_named_in_every_view():
    edit = find_edit("make the cube red")
    cameras = card._arc(3)
    scene = card.find_scene(edit, "validation", cameras, skip=0)
    assert all(edit.applies(scene.repeat(3), render_views(scene, cameras, size=32)))
    nowhere = dataclasses.replace(edit, kind="floor", target=17, changes=())
    with pytest.raises(ValueError, match="No scene of validation shows what 'cube red' names"):
        card.find_scene(nowhere, "validation", card._arc(1), skip=999_990)


@pytest.mark.parametrize(("size", "expected"), [((900, 600), (52, 80)), ((100, 100), (64, 64))])
def test_photographs_keep_their_aspect_at_the_prior_s_area(tmp_path, size, expected):
    Image.new("RGB", size, (255, 0, 51)).save(tmp_path / "photo.png")
    (image,) = card.read_photographs([tmp_path / "photo.png"], 4)
    assert image.shape == (1, 3, *expected)
    torch.testing.assert_close(image[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.2]))
