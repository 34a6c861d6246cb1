"""A scene edited by an editing model of each family, of random weights."""

from __future__ import annotations

import dataclasses
import json

import pytest
from edit_runs import message_of, start

from csd_nerf.methods.csd_edit.config import csd_edit_tiny


@pytest.mark.parametrize("family", ["xl", "flux2", "kontext", "qwen"])
def test_a_scene_is_edited(editing_folder, make_config, family, monkeypatch):
    config = make_config()
    pipeline = config.pipeline
    pipeline.prior, pipeline.edit_steps, pipeline.edit_views = str(editing_folder(family)), 1, 4
    # No number of a configuration, and 1024 for random models too.
    monkeypatch.setattr("csd_nerf.priors.qwen_image.PREFERRED_SIZE", 48)
    trainer = start(config)
    trainer.train()
    manager = trainer.pipeline.datamanager
    assert len(manager.edited) == 4
    for view, image in manager.edited.items():
        photograph = 255 * manager.photograph01(view)
        assert image.shape == photograph.shape
        assert float((image - photograph).abs().mean()) > 1
    (record,) = (trainer.base_dir / "rounds").glob("*.json")
    assert json.loads(record.read_text())["metrics"]["evaluations"] > 0


@pytest.mark.parametrize("family", ["flux2", "qwen"])
def test_the_view_edited_first_is_shown_beside_the_others(
    editing_folder, make_config, family, monkeypatch
):
    monkeypatch.setattr("csd_nerf.priors.qwen_image.PREFERRED_SIZE", 48)
    config = make_config()
    pipeline = config.pipeline
    pipeline.prior, pipeline.edit_steps, pipeline.edit_views = str(editing_folder(family)), 1, 3
    pipeline.reference_views = 1
    trainer = start(config)
    trainer.train()
    stage = trainer.pipeline.stage
    assert len(trainer.pipeline.datamanager.edited) == 3
    assert stage.state.reference.image.shape[2] == 3
    assert "reference" in trainer.pipeline.get_extra_state()["stage"]


def test_a_second_reference_for_a_model_of_one_image_ends_in_one_line(make_config):
    config = make_config()
    config.pipeline.reference_views = 1
    line = "csd-edit: --pipeline.reference-views needs a prior that takes two images, got tiny; "
    with pytest.raises(SystemExit, match=line):
        start(config)


def edited_by(make_config, name, prior, **edit):
    config = make_config(name)
    pipeline = config.pipeline
    pipeline.prior, pipeline.start, pipeline.edit_steps = prior, "original", 1
    pipeline.edit = dataclasses.replace(pipeline.edit, **edit)
    trainer = start(config)
    trainer.train()
    (record,) = (trainer.base_dir / "rounds").glob("*.json")
    settings = json.loads(record.read_text())["settings"]
    edited = trainer.pipeline.datamanager.edited
    return {view: image.float() for view, image in edited.items()}, settings


def test_velocities_of_a_flow_and_their_shift_decide_a_scene_s_edits(
    editing_folder, make_config, capsys
):
    prior = str(editing_folder("flux2"))
    numbers = {"learning_rate": 1.0, "decay": 1.0, "t_order": "falling", "normalize": "rowsum"}
    numbers |= {"iterations": 3}
    velocity, settings = edited_by(make_config, "v", prior, quantity="velocity", **numbers)
    assert (settings["quantity"], settings["shift"]) == ("velocity", 1.0)
    usual, settings = edited_by(make_config, "u", prior, **numbers)
    assert (settings["quantity"], settings["shift"]) == ("noise", 1.0)
    shift, settings = edited_by(make_config, "s", prior, quantity="velocity", shift=0.0, **numbers)
    assert settings["shift"] == 0
    for others in (usual, shift):
        assert others.keys() == velocity.keys()
        # Of 255, with equal noise and photographs.
        assert all((velocity[view] - others[view]).abs().mean() > 0.2 for view in velocity)


def test_velocities_bring_a_scene_their_numbers(editing_folder, make_config, capsys):
    config = make_config()
    pipeline = config.pipeline
    pipeline.prior, pipeline.start = str(editing_folder("flux2")), "original"
    preset = csd_edit_tiny.config.pipeline.edit
    pipeline.edit = dataclasses.replace(preset, quantity="velocity", decay=0.7)
    start(config)
    edit = pipeline.edit
    assert (edit.learning_rate, edit.t_order, edit.decay) == (1.0, "falling", 0.7)
    told = " ".join(capsys.readouterr().out.split())
    numbers = (
        "the numbers of --pipeline.edit.quantity velocity: learning-rate 1.0, t-order falling."
    )
    assert numbers in told


def refused(make_config, prior, **edit):
    config = make_config()
    config.pipeline.prior, config.pipeline.start = prior, "render"
    config.pipeline.edit = dataclasses.replace(config.pipeline.edit, **edit)
    return message_of(config)


def test_velocities_are_refused_before_a_scene_is_trained(editing_folder, make_config):
    asked = "--pipeline.edit.quantity velocity needs"
    velocity = {"quantity": "velocity"}
    assert f"{asked} a flow model, such as flux2-klein, got tiny," in refused(
        make_config, "tiny", **velocity
    )
    flow = str(editing_folder("flux2"))
    assert f"{asked} --pipeline.start original, got render;" in refused(
        make_config, flow, **velocity
    )
    shift = refused(make_config, flow, shift=0.5)
    assert "--pipeline.edit.shift needs --pipeline.edit.quantity velocity, got noise;" in shift
