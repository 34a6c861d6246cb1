"""A scene edited by dds with a ControlNet, of random weights, by edges and by depth."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from edit_runs import message_of, start, write_dataset

from csd_nerf.core.settings import EditSettings
from csd_nerf.core.structure import depth_structure, unpack_structure
from csd_nerf.media.pixels import resize01
from csd_nerf.priors.controlnet import ControlledStableDiffusion, canny_edges

DDS = EditSettings(residual="dds", iterations=2, text_scale=4.0, t_range=(0.05, 0.95))


@pytest.fixture
def make_controlled(make_config, control_folders):
    def make(control, **options):
        base, net = control_folders
        config = make_config(**options)
        pipeline = config.pipeline
        pipeline.prior, pipeline.control, pipeline.control_model = str(base), control, str(net)
        pipeline.edit, pipeline.source_prompt = DDS, "fog"
        pipeline.prompt, pipeline.edit_steps = "make the sphere blue", 1
        return config

    return make


@pytest.fixture
def shown(monkeypatch) -> list[torch.Tensor]:
    """The structure images that the ControlNet was shown."""
    found: list[torch.Tensor] = []
    right = ControlledStableDiffusion.beside

    def beside(self, image, step, text, rows):
        found.append(unpack_structure(rows["control"], cell_size=self.cell_size))
        return right(self, image, step, text, rows)

    monkeypatch.setattr(ControlledStableDiffusion, "beside", beside)
    return found


def check_edited(trainer) -> None:
    manager = trainer.pipeline.datamanager
    assert len(manager.edited) == 4
    for view, image in manager.edited.items():
        photograph = 255 * manager.photograph01(view)
        assert image.shape == photograph.shape
        assert float((image - photograph).abs().mean()) > 1
    (record,) = (trainer.base_dir / "rounds").glob("*.json")
    # Two iterations of four views, with four estimates each.
    assert json.loads(record.read_text())["metrics"]["evaluations"] == 32


@pytest.mark.parametrize("start_from", ["render", "original"])
def test_the_depth_is_the_render_of_the_very_view(
    make_controlled, shown, start_from, tmp_path, monkeypatch
):
    """Views of two shapes, at the size at which they are edited."""
    sizes = [(48, 64), (48, 32)] * 6
    config = make_controlled("depth", data=write_dataset(tmp_path / "data", sizes=sizes))
    config.pipeline.start = start_from
    trainer = start(config)
    scene, renders = trainer.pipeline.scene, {}
    right = scene.render

    def render(view, *, size):
        renders[view] = right(view, size=size)
        return renders[view]

    monkeypatch.setattr(scene, "render", render)
    trainer.train()
    check_edited(trainer)
    manager = trainer.pipeline.datamanager
    assert set(renders) == set(manager.edited)
    for view, rendered in renders.items():
        height, width = manager.photograph01(view).shape[:2]
        # About the area of the prior's 64 x 64, in multiples of 8.
        wanted = {(48, 64): (56, 72), (48, 32): (80, 56)}[(height, width)]
        assert rendered.depth.shape == rendered.image01.shape[1:] == wanted
        y, x = torch.meshgrid(torch.arange(wanted[0]), torch.arange(wanted[1]), indexing="ij")
        # The photographs' focal length is 48 pixels.
        across = (x + 0.5 - wanted[1] / 2) / (48 * wanted[1] / width)
        down = (y + 0.5 - wanted[0] / 2) / (48 * wanted[0] / height)
        axial = rendered.depth / (1 + across**2 + down**2).sqrt()
        torch.testing.assert_close(rendered.axial, axial)
        expected = depth_structure(rendered.axial)
        assert float(expected.std()) > 0.05
        alike = [one for rows in shown for one in rows if one.shape == expected.shape]
        # Two iterations, with four estimates each.
        assert sum(torch.equal(one, expected) for one in alike) == 8
    assert sum(len(rows) for rows in shown) == 32


def test_the_edges_are_those_of_the_photographs(make_controlled, shown, monkeypatch):
    config = make_controlled("canny")
    trainer = start(config)
    trainer.train()
    check_edited(trainer)
    manager = trainer.pipeline.datamanager
    for view in manager.edited:
        photograph01 = manager.photograph01(view).permute(2, 0, 1)[None]
        expected = canny_edges(resize01(photograph01, (64, 64)))[0]
        assert any(torch.equal(one, expected) for rows in shown for one in rows)
    assert sum(len(rows) for rows in shown) == 32


@pytest.mark.parametrize("option", ["control", "control_model", "control_scale"])
def test_each_option_reaches_the_prior(make_controlled, option, control_folders, tmp_path):
    other = shutil.copytree(control_folders[1], tmp_path / "other")
    value = {"control": "canny", "control_model": str(other), "control_scale": 0.5}[option]
    config = make_controlled("depth")
    setattr(config.pipeline, option, value)
    trainer = start(config)
    prior = trainer.pipeline._prior.get()
    if option != "control_model":
        assert getattr(prior, option) == value
    else:
        assert str(prior._control_net.config["_name_or_path"]) == value
    saved = (trainer.base_dir / "config.yml").read_text()
    assert f"{option}: {value}" in saved


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"edit": EditSettings()}, "--pipeline.control depth needs .*, got csd with csd; set them"),
        ({"update": "in2n"}, "--pipeline.control depth needs .*, got in2n with dds; set them"),
        ({"control": None}, "--pipeline.control-model needs --pipeline.control canny or depth"),
        (
            {"control": None, "control_model": None, "control_scale": 2.0},
            "--pipeline.control-scale needs --pipeline.control canny or depth",
        ),
        ({"control_scale": -1.0}, "--pipeline.control-scale needs to be 0 or more, got -1"),
        ({"control_scale": float("nan")}, "--pipeline.control-scale must be finite, got nan"),
        ({"prior": "tiny-text"}, "a model of the class StableDiffusionPipeline"),
        (
            {"control_model": "/nowhere/at/all"},
            "No weights for the ControlNet '/nowhere/at/all'.*is --pipeline.control-model.$",
        ),
        ({"control_model": None}, "for texts of width 768 or 1024, got 32"),
    ],
    ids=str,
)
def test_a_mistake_ends_in_one_line_before_the_source_stage(make_controlled, changes, line):
    config = make_controlled("depth")
    for name, value in changes.items():
        setattr(config.pipeline, name, value)
    assert re.search(line, message_of(config))
