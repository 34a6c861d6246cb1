"""Splats go back, with their number and optimizers, and save."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from live_runs import SIZE, assert_same, check_going_back, seen, train_with, without_viewer
from nerfstudio.data.scene_box import OrientedBox
from plyfile import PlyData
from splat_runs import start_splats
from tint_prior import TintPrior

from csd_nerf import priors
from csd_nerf.methods.common.unedited import UNEDITED
from csd_nerf.scene.protocol import LiveScene


@pytest.fixture(autouse=True)
def _viewer(monkeypatch):
    without_viewer(monkeypatch)
    monkeypatch.setattr(priors, "fetch", lambda *_, **__: None)
    monkeypatch.setattr(priors, "load", lambda *_, **__: TintPrior())


def test_splats_go_back_with_their_number_and_the_run_can_be_resumed(make_splats):
    config = make_splats()
    config.pipeline.model.densify_editing, config.pipeline.source_steps = True, 20
    trainer = start_splats(config)
    assert isinstance(trainer.pipeline.scene, LiveScene)
    found = check_going_back(trainer, first=20, every=3)
    numbers = {step: len(there.parameters["gauss_params.means"]) for step, there in found.items()}
    assert numbers[23] != numbers[25]
    assert trainer.step == 27
    resumed_config = make_splats("resumed")
    resumed_config.pipeline.model.densify_editing = True
    resumed_config.pipeline.source_steps = 20
    resumed_config.load_dir, resumed_config.pipeline.edit_steps = trainer.checkpoint_dir, 16
    resumed = start_splats(resumed_config, seed=7)
    at_reset = {}

    def after(step):
        if step in (30, 34):
            at_reset[step] = seen(resumed)

    # Twice, since training must not change what is kept.
    changes = {step: {"return_to": -1, "paused": True} for step in (30, 34)}
    train_with(resumed, changes, after=after)
    assert_same(at_reset[30], found[20])
    assert_same(at_reset[34], found[20])
    assert resumed.step == 35


def test_a_preview_and_the_unedited_output_leave_splats_as_they_are(make_splats):
    finals = []
    for name in ("plain", "asked"):
        trainer = start_splats(make_splats(name))
        model, camera = trainer.pipeline.model, None
        camera = trainer.pipeline.datamanager.train_dataset.cameras[2:3]
        changes = {step: {"preview": camera} for step in (3, 22, 24, 26)} if name == "asked" else {}
        shown = {}

        def after(step, model=model, camera=camera, shown=shown, name=name):
            if name == "asked" and step in (22, 27):
                model.shows_unedited = True
                model.eval()
                shown[step] = model.get_outputs_for_camera(camera)
                model.train()
                model.shows_unedited = False

        asks = train_with(trainer, changes, after=after)
        finals.append(seen(trainer))
    assert len(asks.previews) == 4
    assert torch.equal(shown[22][UNEDITED], shown[22]["rgb"])
    assert torch.equal(shown[27][UNEDITED], shown[22]["rgb"])
    assert not torch.equal(shown[27]["rgb"], shown[22]["rgb"])
    assert_same(*finals)


def test_the_unedited_scene_is_before_the_background_that_the_viewer_sets(make_splats):
    trainer = start_splats(make_splats())
    model = trainer.pipeline.model
    model.keep_unedited(model.state_dict())
    model.shows_unedited = True
    model.eval()
    colour = torch.tensor([0.25, 0.5, 0.75])
    model.set_background(colour)
    # A crop without any splat: the background is all there is to see.
    nowhere = OrientedBox(R=torch.eye(3), T=torch.full((3,), 1e6), S=torch.ones(3))
    camera = trainer.pipeline.datamanager.train_dataset.cameras[2:3]
    outputs = model.get_outputs_for_camera(camera, nowhere)
    for name in ("rgb", UNEDITED):
        assert (outputs[name] == colour).all()


def test_saving_writes_a_checkpoint_and_splats(make_splats):
    trainer = start_splats(make_splats())
    asks = train_with(trainer, {25: {"save": True}})
    (told,) = [text for text in asks.told if text.startswith("saved: ")]
    checkpoints, splats = map(Path, told.removeprefix("saved: ").split(", "))
    assert checkpoints == trainer.checkpoint_dir
    assert splats.name == "edited.ply"
    assert len(PlyData.read(str(splats))["vertex"]["x"]) > 0
    scene = trainer.pipeline.scene
    camera = trainer.pipeline.datamanager.train_dataset.cameras[2:3]
    unedited = scene.render_at(camera, size=SIZE, unedited=True)
    assert not torch.equal(unedited.image01, scene.render_at(camera, size=SIZE).image01)
